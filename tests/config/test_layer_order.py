"""Which layer wins, layer against layer. Expected is what `ORDER` says, the specification's list, and nothing else.

For every pair of layers, and for every stack of them from the weakest up, a project is written in which exactly these
set one key. The config has the value of the strongest; its origin is the line that gave it, and the others are what it
shadows, nearest first.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import pytest

from retrain.config.compose import compose_campaign
from retrain.config.schema import KEYS

if TYPE_CHECKING:
    from collections.abc import Sequence

ORDER = (  # weakest first; a group choice is a value of the layer that makes it
    "schema",
    "parent's choice",  # [defaults] of base.toml
    "parent",  # its body
    "own choice",  # [defaults] of mini.toml
    "own",  # its body
    "campaign",  # max_steps and seeds of [campaign]
    "condition's choice",
    "condition",
    "line's choice",  # algorithm=maxrl
    "line",  # --lr 1e-5, training.lr=1e-5
)


class Stack:
    """A project in which some layers set one key, each to a value of its own."""

    def __init__(self, project, dotted: str, group: str, values: dict[str, Any]) -> None:
        self.project, self.dotted, self.group, self.values = project, dotted, group, values
        self.section, _, self.name = dotted.partition(".")

    def compose(self):
        """Write the files, and compose them as `retrain mini.toml …` would."""
        self.project.write("base.toml", self._defaults("parent's choice") + self._body("parent"))
        own = 'extends = "base.toml"\n' + self._defaults("own choice") + self._body("own") + self._campaign()
        path = self.project.write("mini.toml", own)
        arguments = [f"{self.group}={self._file(layer)}" for layer in self._given("line's choice")]
        arguments += [f"{self.dotted}={self.values[layer]}" for layer in self._given("line")]
        if "[campaign]" not in own:
            return self.project.compose(*arguments)
        return compose_campaign(path.relative_to(self.project.root), arguments, cwd=self.project.root)[1][0].composed

    def origin(self, layer: str) -> str:
        """Return where a layer says it, as a reader of the files would."""
        if layer == "schema":
            return "default"
        if layer == "line":
            return f"command line: {self.dotted}={self.values[layer]}"
        if layer == "condition":
            return self._at("mini.toml", "[[campaign.conditions]]")
        if layer.endswith("choice"):
            folder = "conf" if self.group == "experiment" else "conf/algorithm"
            file = f"conf/experiment/{self._file(layer)}.toml" if folder == "conf" else ""
            return self._at(file, self._assignment(layer)) if file else f"{folder}/{self.values[layer]}.toml:*"
        seeds = layer == "campaign" and self.name == "seed"
        line = f"seeds = [{self.values[layer]}]" if seeds else self._assignment(layer)
        return self._at("base.toml" if layer == "parent" else "mini.toml", line)

    def _given(self, *layers: str) -> list[str]:
        return [layer for layer in layers if layer in self.values]

    def _assignment(self, layer: str) -> str:
        value = self.values[layer]
        return f"{self.name} = " + (f'"{value}"' if isinstance(value, str) else str(value))

    def _file(self, layer: str) -> str:
        """Return the group file that sets the key so; an experiment is written, an algorithm comes with the package."""
        if self.group != "experiment":
            return self.values[layer]
        name = layer.partition("'")[0].split(" ")[0]
        self.project.write(f"conf/experiment/{name}.toml", f"[{self.section}]\n{self._assignment(layer)}\n")
        return name

    def _defaults(self, layer: str) -> str:
        return f'[defaults]\n{self.group} = "{self._file(layer)}"\n' if layer in self.values else ""

    def _body(self, layer: str) -> str:
        return f"[{self.section}]\n{self._assignment(layer)}\n" if layer in self.values else ""

    def _campaign(self) -> str:
        if not self._given("campaign", "condition's choice", "condition"):
            return ""
        seed = self.values.get("campaign") if self.name == "seed" else 1
        text = f"[campaign]\nseeds = [{seed}]\n"
        if "campaign" in self.values and self.name != "seed":
            text += f"{self._assignment('campaign')}\n"
        text += '[[campaign.conditions]]\nname = "only"\n'
        for layer in self._given("condition's choice"):
            text += f'{self.group} = "{self._file(layer)}"\n'
        for layer in self._given("condition"):
            text += f"{self._assignment(layer)}\n"
        return text

    def _at(self, file: str, line: str) -> str:
        lines = (self.project.root / file).read_text().splitlines()
        return f"{file}:{lines.index(line) + 1}"


def holds(stack: Stack, layers: Sequence[str]) -> None:
    """Assert that the strongest of the layers wins, is named, and shadows the others."""
    composed = stack.compose()
    expected = sorted(layers, key=ORDER.index, reverse=True)
    value = getattr(getattr(composed.config, stack.section), stack.name)
    assert value == stack.values.get(expected[0], KEYS[stack.dotted].default)
    origins = [str(composed.origins[stack.dotted]), *(str(at) for _, at in composed.shadowed.get(stack.dotted, ()))]
    told = [stack.origin(layer) for layer in expected]
    told = told if len(told) == 1 else [one for one in told if one != "default"]
    assert len(origins) == len(told)
    for origin, wanted in zip(origins, told, strict=True):
        assert origin == wanted or (wanted.endswith("*") and origin.startswith(wanted[:-1]))


def named(cases: Sequence[Sequence[str]]) -> list[str]:
    return [" < ".join(case) for case in cases]


PAIRS = list(combinations(ORDER, 2))
STACKS = [ORDER[:height] for height in range(1, len(ORDER) + 1) if height != 2]


@pytest.mark.parametrize("layers", [*PAIRS, *STACKS], ids=named([*PAIRS, *STACKS]))
def test_the_stronger_layer_gives_the_number_of_steps(project, layers):
    values = {layer: 10 * (ORDER.index(layer) + 1) for layer in layers if layer != "schema"}
    holds(Stack(project, "training.max_steps", "experiment", values), layers)


NO_CAMPAIGN = [layer for layer in ORDER if layer != "campaign"]
CHOSEN = list(combinations(NO_CAMPAIGN, 2))


@pytest.mark.parametrize("layers", CHOSEN, ids=named(CHOSEN))
def test_the_stronger_layer_gives_the_baseline_by_name_or_by_group_file(project, layers):
    weak, strong = layers
    values = {weak: "maxrl", strong: "rloo"}
    values.pop("schema", None)
    holds(Stack(project, "algorithm.advantage_mode", "algorithm", values), layers)


SEEDED = list(combinations(["schema", "parent", "own", "campaign", "line's choice", "line"], 2))


@pytest.mark.parametrize("layers", SEEDED, ids=named(SEEDED))
def test_the_stronger_layer_gives_the_seed(project, layers):
    values = {layer: 100 + ORDER.index(layer) for layer in layers if layer != "schema"}
    holds(Stack(project, "training.seed", "experiment", values), layers)


# --- tables that belong to a name -------------------------------------------------------------------------------------

PLACES = ("parent", "own", "condition", "line")
OWNED = {  # table or list: its owner, another name of it, an entry, and how that is read back
    "algorithm.transforms": ("algorithm.transform_mode", "gtpo", '[{name = "gtpo"}]', [{"name": "gtpo"}]),
    "data.chat_template_args": ("model.model", "org/other", "{style = 1}", {"style": 1}),
    "algorithm.advantage_params": ("algorithm.advantage_mode", "mine:Mine", "{floor = 1}", {"floor": 1}),
    "algorithm.transform_params": ("algorithm.transform_mode", "mine:Mine", "{floor = 1}", {"floor": 1}),
    "backend.options": ("backend.backend", "mine:Mine", "{threads = 1}", {"threads": 1}),
}
SWEPT = ("algorithm.transforms", "backend.options")  # a list and a table through all places, the others through two
OWNED_CASES = [
    (table, of_table, of_owner)
    for table in OWNED
    for of_table, of_owner in product(PLACES if table in SWEPT else ("own", "line"), repeat=2)
]


@pytest.mark.parametrize(("table", "of_table", "of_owner"), OWNED_CASES)
def test_what_belongs_to_a_name_goes_when_a_stronger_layer_changes_the_name(project, table, of_table, of_owner):
    """Entries are given in one layer and the owner is changed in another: they last where theirs is not the weaker."""
    owner, other, written, meant = OWNED[table]
    project.write("mine.py", "class Mine: ...\n")
    said = {place: [] for place in PLACES}
    said[of_owner].append((owner, f'"{other}"'))
    said[of_table].append((table, written))
    composed = composed_of(project, said)
    section, _, name = table.partition(".")
    lasts = PLACES.index(of_table) >= PLACES.index(of_owner)
    assert getattr(getattr(composed.config, section), name) == (meant if lasts else type(meant)())
    dropped = [value for value, _ in composed.shadowed.get(table, ())]
    assert dropped == ([] if lasts else [meant])


def composed_of(project, said):
    """Compose a project whose layers say this, as (dotted key, TOML)."""
    project.write("base.toml", body(said["parent"]))
    path = project.write("mini.toml", 'extends = "base.toml"\n' + body(said["own"]))
    line = [f"{dotted}={text.replace(' = ', ': ')}" for dotted, text in said["line"]]
    if not said["condition"]:
        return project.compose(*line)
    tables = "".join(f'"{dotted}" = {text}\n' for dotted, text in said["condition"])
    path.write_text(f'{path.read_text()}[campaign]\nseeds = [1]\n[[campaign.conditions]]\nname = "only"\n{tables}')
    return compose_campaign(path.relative_to(project.root), line, cwd=project.root)[1][0].composed


def body(said):
    """Return sections with these keys."""
    sections = {}
    for dotted, text in said:
        section, _, name = dotted.partition(".")
        sections.setdefault(section, []).append(f"{name} = {text}\n")
    return "".join(f"[{section}]\n{''.join(lines)}" for section, lines in sections.items())
