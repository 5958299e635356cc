"""`retrain explain`: what a config would do and where each of its values comes from. Starts nothing."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.cli import extras, formulas, output
from retrain.cli.derived import Derived, bytes_text, derive, disk_text, money_text, sentence
from retrain.cli.flags import take_own
from retrain.config.cautions import cautions
from retrain.config.schema import KEYS
from retrain.errors import ConfigError, Problem, nearest
from retrain.references import find_either, is_campaign

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from retrain.campaign.plan import Plan
    from retrain.cli.campaign_plan import Row
    from retrain.config import Composed
    from retrain.config.origins import Origin
    from retrain.estimate import Memory

DEFAULT_CONFIG = Path("retrain.toml")


def main(arguments: Sequence[str]) -> int:
    """Print the explanation of one config, or what differs between two.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    switches, rest = take_own("explain", arguments)
    path, overrides = split_config(rest)
    if "--diff" in switches:
        if "--all" in switches:
            raise ConfigError("--diff shows what differs, and --all every key; take one of them")
        from retrain.cli import explain_diff

        return explain_diff.show(path, overrides, config_of(switches["--diff"]), as_json="--json" in switches)
    from retrain.cli import campaign

    if campaign.is_one(path, overrides):
        with output.timed("composing every run"):
            plan = campaign.planned(path, overrides)
        return of_campaign(plan, switches)
    from retrain.config import compose

    with output.timed("composing"):
        composed = compose(path, overrides)
    offered, problems = extras.backend_of(composed)
    with output.timed("measuring the model and estimating its memory"):
        now = dt.datetime.now().astimezone()
        derived = placed(composed, derive(composed.config, composed.name, now, offered))
    if "--json" in switches:
        output.document(document(composed, derived, problems))
    else:
        print(text(composed, derived, problems, everything="--all" in switches))
    return 0


def of_campaign(plan: Plan, switches: Collection[str]) -> int:
    """Print the explanation of a campaign: the whole, then what all of its runs have in common."""
    from retrain.cli import campaign_plan, search_explained

    backends, problems = campaign_plan.backends(plan)
    common = plan.composed
    if plan.search is None:
        facts = campaign_plan.facts(plan, backends)
        told, parts = campaign_plan.document(plan, facts), campaign_plan.text(plan, facts)
        varied = {"training.seed", *(key for row in facts.conditions for key in row.differs)}
        lines = pipelines(facts.conditions)
    else:
        told = search_explained.document(plan, plan.search, backends)
        parts = search_explained.text(plan, plan.search, backends)
        varied = {"training.seed", *(dimension.name for dimension in plan.search.space)}
        lines = [pipeline_text("Pipeline that the search starts from:", formulas.pipeline(common.config))]
    if "--json" in switches:
        known = {
            "kind": "campaign",
            "config": masked(dataclasses.asdict(common.config), ""),
            "sources": sources(common),
            "cautions": looks_twice(plan),
            "problems": [dataclasses.asdict(problem) for problem in problems],
        }
        output.document(known | told)
        return 0
    everything = "--all" in switches
    head = "Every run" if everything else f"Every run differs from the defaults in (all {len(KEYS)} keys: --all)"
    parts.append("\n".join([f"{head}:", *key_lines(common, everything=everything, without=varied)]))
    parts += lines
    size = derive(common.config, common.name, dt.datetime.now().astimezone(), extras.backend_of(common)[0])
    parts.append("\n".join([*folded(f"Model:      {size_of(size)}"), *memory_lines(size.memory)]))
    parts += warnings(looks_twice(plan), problems)
    print("\n\n".join(parts))
    return 0


def pipelines(conditions: Sequence[Row]) -> list[str]:
    """Return a paragraph for each pipeline, which conditions may share."""
    sharing: dict[tuple[str, ...], list[str]] = {}
    for row in conditions:
        sharing.setdefault(tuple(row.pipeline), []).append(row.label)
    if len(sharing) == 1:
        return [pipeline_text("Pipeline:", conditions[0].pipeline)]
    return [pipeline_text(f"Pipeline of {', '.join(labels)}:", lines) for lines, labels in sharing.items()]


def looks_twice(plan: Plan) -> list[str]:
    """Return the cautions about a campaign and its runs, each once."""
    from retrain.campaign import devices

    of_runs = (line for composed in plan.firsts.values() for line in cautions(composed.config))
    return list(dict.fromkeys([*devices.cautions(plan), *of_runs]))


def split_config(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """Take CONFIG off the arguments; retrain.toml of this folder when there is none.

    Raises:
        ConfigError: neither is there.
    """
    first = arguments[0] if arguments else ""
    if first and not first.startswith(("-", "~")) and ("=" not in first or Path(first).is_file()):
        return config_of(first), list(arguments[1:])
    if not DEFAULT_CONFIG.is_file():
        raise ConfigError(
            f"no config was given, and there is no {DEFAULT_CONFIG} here",
            "retrain explain CONFIG.toml\nretrain init writes one",
        )
    return DEFAULT_CONFIG, list(arguments)


def config_of(given: str) -> Path:
    """Return the TOML that is meant: a file, or that of a run or a campaign.

    Raises:
        ConfigError: a folder in which there are several runs, or none.
    """
    path = Path(given)
    if path.is_file() or path.suffix == ".toml":
        return path
    try:
        found = find_either(given)
    except ConfigError:
        files = sorted(str(file) for file in Path().glob("*.toml"))
        near = f"{given}.toml" if f"{given}.toml" in files else nearest(given, files)
        if path.is_dir() or near is None:
            raise
        raise ConfigError(f'"{given}" is neither a file nor a run; did you mean "{near}"?') from None
    return found / ("campaign.toml" if is_campaign(found) else "config.toml")


# --- as text --------------------------------------------------------------------------------------------------------


def text(composed: Composed, derived: Derived, problems: Sequence[Problem], *, everything: bool) -> str:
    """Return the explanation for a person."""
    parts = [textwrap.fill(sentence(composed.config, derived), width=output.prose_columns())]
    if not everything:
        parts.append(f"Differs from the defaults (all {len(KEYS)} keys: --all):")
    parts.append("\n".join(key_lines(composed, everything=everything)))
    parts.append(pipeline_text("Pipeline:", derived.pipeline))
    parts.append("\n".join(part for line in fact_lines(derived) for part in folded(line)))
    parts.append("\n".join(memory_lines(derived.memory)))
    parts += warnings(list(cautions(composed.config)), problems)
    return "\n\n".join(parts)


def warnings(found: Sequence[str], problems: Sequence[Problem]) -> list[str]:
    """Return the last paragraphs: what deserves a second look, and what would stop it."""
    width, parts = output.prose_columns(), []
    if found:
        folded = [textwrap.fill(line, width, initial_indent="  ", subsequent_indent="    ") for line in found]
        parts.append("\n".join(["Look twice:", *folded]))
    if problems:
        parts.append("\n".join(["Problems:", *textwrap.indent("\n".join(map(str, problems)), "  ").splitlines()]))
    return parts


def key_lines(composed: Composed, *, everything: bool, without: Collection[str] = ()) -> list[str]:
    """Return a line per key: value, origin, and what it shadows. Without `everything`, those that were given."""
    rows = []
    for dotted, key in KEYS.items():
        value = value_of(composed, dotted)
        hidden = composed.shadowed.get(dotted, [])
        if dotted not in without and (everything or value != key.default or hidden):
            shadows = "; ".join(f"instead of {shown(old, dotted)} ({place})" for old, place in hidden)
            rows.append((dotted, shown(value, dotted), str(origin_of(composed, dotted)), shadows))
    if not rows:
        return ["  nothing: every key has its default"]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [f"  {k:<{widths[0]}} = {v:<{widths[1]}}  {where:<{widths[2]}}  {hidden}" for k, v, where, hidden in rows]
    lines, width = [line.rstrip() for line in lines], output.columns(sys.stdout)
    if width is None or max(map(len, lines)) <= width:
        return lines
    return [line for key, value, where, hidden in rows for line in narrow(key, value, where, hidden, width)]


def narrow(key: str, value: str, where: str, hidden: str, width: int) -> list[str]:
    """Return a key's lines for a terminal on which its table does not fit."""
    below = f"{where}, {hidden}" if hidden else where
    return [*output.fold(f"{key} = {value}", width, "  ", "      "), *output.fold(below, width, "    ", "      ")]


def pipeline_text(head: str, lines: Sequence[str]) -> str:
    width = output.columns(sys.stdout)
    return "\n".join([head, *(part for line in lines for part in output.fold(line, width, "  ", "      "))])


def folded(line: str) -> list[str]:
    """Break a line that begins with its name."""
    return output.fold(line, output.columns(sys.stdout), later=" " * 12)


def placed(composed: Composed, derived: Derived) -> Derived:
    """Name the run that this one would go on with, where `resume.path` asks for one.

    Raises:
        ConfigError: there is no such run.
    """
    if not composed.config.resume.path:
        return derived
    from retrain import resuming
    from retrain.events import ignore

    found = resuming.wanted(composed, ignore)
    return derived if found is None else dataclasses.replace(derived, run_directory=found)


def fact_lines(derived: Derived) -> list[str]:
    """Return the model's size, the disk and the place that the run would take."""
    start = derived.adapter
    started = (
        []
        if start is None
        else [f"Adapter:    {start.folder}: rank {start.rank}, alpha {start.alpha:g}, {start.target_modules}"]
    )
    return [
        f"Model:      {size_of(derived)}",
        *started,
        *([f"Cost:       {money_text(derived.money_at_most)}"] if derived.money_at_most else []),
        f"Disk:       {disk_text(derived)}",
        f"Directory:  {derived.run_directory}",
    ]


def size_of(derived: Derived) -> str:
    """Say how many parameters the model has, and how many of them are trained."""
    model = derived.model
    if model.parameters is None or model.trainable is None:
        return model.note
    share = f"{model.trainable / model.parameters:.2%}"
    trained = "all are trained"
    if model.trainable != model.parameters:
        trained = f"the adapter trains {model.trainable:,} ({share} of that)"
    return f"{model.parameters:,} parameters ({model.architecture}); {trained}"


def memory_lines(memory: Memory) -> list[str]:
    """Return what each phase takes, the largest parts first, those under a hundredth left out."""
    if not memory.phases:
        return folded(f"Memory:     {memory.note}")
    place = "a GPU" if memory.device == "gpu" else "the CPU"
    lines = [
        f"Memory on {place} in {memory.dtype}, prompts of {memory.prompt_tokens} tokens, completions at their longest:"
    ]
    for phase in memory.phases:
        large = [part for part in phase.components if part.bytes >= phase.bytes / 100]
        parts = ", ".join(f"{part.name} {bytes_text(part.bytes)}" for part in large)
        lines.append(f"  {phase.name:<9} {bytes_text(phase.bytes):>9}  {parts}")
    width = output.columns(sys.stdout)
    return [part for line in lines for part in output.fold(line, width, later=" " * 12)]


def value_of(composed: Composed, dotted: str) -> Any:
    section, _, name = dotted.partition(".")
    return getattr(getattr(composed.config, section), name)


def origin_of(composed: Composed, dotted: str) -> Origin:
    """Return where a key's value comes from; for a free-form table, where its first entry does."""
    origin = composed.origins[dotted]
    entries = [found for key, found in composed.origins.items() if key.startswith(f"{dotted}.")]
    return entries[0] if entries and origin.kind == "default" else origin


def shown(value: Any, dotted: str) -> str:
    """Return a value about as it would be written in TOML, secrets masked."""
    return json.dumps(masked(value, dotted), ensure_ascii=False)


def masked(value: Any, key: str) -> Any:
    """Return a value that may be shown: secrets and passwords in URLs are stars, everything else keeps its type."""
    from retrain.config import mask

    if isinstance(value, dict):
        return {name: masked(item, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [masked(item, key) for item in value]
    text = mask(value, key)
    return value if text == str(value) else text


# --- as JSON --------------------------------------------------------------------------------------------------------


def document(composed: Composed, derived: Derived, problems: Sequence[Problem]) -> dict[str, Any]:
    """Return the explanation for a program. Its keys are a public contract."""
    return {
        "kind": "run",
        "config": masked(dataclasses.asdict(composed.config), ""),
        "sources": sources(composed),
        "derived": {
            **dataclasses.asdict(derived),
            "run_directory": str(derived.run_directory),
            "sentence": sentence(composed.config, derived),
        },
        "cautions": list(cautions(composed.config)),
        "problems": [dataclasses.asdict(problem) for problem in problems],
        "runs": [
            {
                "name": composed.name,
                "directory": str(derived.run_directory),
                "seed": composed.config.training.seed,
                "steps": composed.config.training.max_steps,
            }
        ],
    }


def sources(composed: Composed) -> dict[str, Any]:
    """Return the files that were read, and where each key's value comes from."""
    return {
        "files": [str(path) for path in composed.sources],
        "keys": {dotted: source(composed, dotted) for dotted in KEYS},
    }


def source(composed: Composed, dotted: str) -> dict[str, Any]:
    """Return a key's origin and what it shadows, nearest first."""
    hidden = composed.shadowed.get(dotted, [])
    return {
        **dataclasses.asdict(origin_of(composed, dotted)),
        "shadows": [{"value": masked(value, dotted), **dataclasses.asdict(place)} for value, place in hidden],
    }
