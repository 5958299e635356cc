"""A TOML and a command line become one `RunConfig`, and every value knows where it comes from.

    schema < parents < the TOML < group choices on the command line < values on the command line

Stage one (standard library only) reads files and arguments into layers and reports everything that is wrong with them.
Stage two merges the layers through Hydra (`merge`) and checks the keys against each other (`check`).
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import retrain
from retrain.config import arguments as command_line
from retrain.config import campaign, toml
from retrain.config.interpolation import escape, has_interpolation, rerunnable
from retrain.config.layers import Library, Reader, package_conf
from retrain.config.merge import merge, no_garbage_collection
from retrain.config.origins import DEFAULT, Layer, Origin, owned_below, trace
from retrain.config.schema import KEYS, RunConfig
from retrain.config.secrets import load_dotenv
from retrain.errors import ConfigError, Problem, Unused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from retrain.config.campaign import CampaignTable, Condition


@dataclass(frozen=True, kw_only=True)
class Composed:
    """A config, whole, with the story of each of its values."""

    config: RunConfig
    path: Path | None
    name: str  # the TOML's stem; "retrain" without a TOML
    origins: Mapping[str, Origin]  # dotted key → where its value comes from; entries of tables have their own
    shadowed: Mapping[str, Sequence[tuple[Any, Origin]]]  # what the key would have been, nearest first
    sources: Sequence[Path]  # every TOML that was read
    places: Sequence[Path]  # where plugins and data files are looked for: the TOML's folder, the working directory
    written: Mapping[str, Any]  # every key's value before interpolation
    campaign: CampaignTable | None = None  # [campaign], where the TOML has one

    @property
    def cwd(self) -> Path:
        """The working directory, which other relative paths are relative to."""
        return self.places[-1]

    def replace(self, key: str, value: Any, why: str) -> Composed:
        """Return a copy with one value set by the program itself, such as a drawn seed."""
        section, _, name = key.partition(".")
        config = replace(self.config, **{section: replace(getattr(self.config, section), **{name: value})})
        given = [] if self.origins[key].kind == "default" else [(self.written[key], self.origins[key])]
        return replace(
            self,
            config=config,
            origins={**self.origins, key: Origin(kind="drawn", text=why)},
            shadowed={**self.shadowed, key: [*given, *self.shadowed.get(key, ())]},
            written={**self.written, key: escape(value)},
        )

    def without(self, key: str) -> Composed:
        """Return a copy in which a key has its default."""
        copy = self.replace(key, KEYS[key].default, "")
        return replace(copy, origins={**copy.origins, key: DEFAULT})

    def to_toml(self, *, resolved: bool = True) -> str:
        """Return the TOML that gives this config again: every key, resolved unless it needs the environment.

        resolved: False keeps what was written, for configs that change a key which others refer to
        """
        sections: dict[str, dict[str, Any]] = {}
        for dotted, key in KEYS.items():
            value, written = getattr(getattr(self.config, key.section), key.name), self.written[dotted]
            kept = rerunnable(written, value, self.written) if resolved else written
            sections.setdefault(key.section, {})[key.name] = kept
        source = self.path.name if self.path else "the command line alone"
        head = (
            f"# The resolved config of a run, made by retrain {retrain.__version__} from {source}.\n"
            "# retrain config.toml runs it again, as a new run.\n\n"
        )
        return head + toml.write(sections)


def compose(path: Path | None, arguments: Sequence[str] = (), *, cwd: Path | None = None) -> Composed:
    """Compose a config.

    Args:
        path: the user's TOML; None: schema and command line only.
        arguments: the command line after it: Hydra overrides, group choices, flags, ``--config-dir DIR``.
        cwd: where relative paths, plugins and ``.env`` are looked for; the working directory by default.

    Raises:
        ConfigError: all problems of a stage: of files and arguments, else of the composed config.
    """
    cwd = Path.cwd() if cwd is None else cwd.resolve()
    return _composed(_read(path, arguments, cwd), path, cwd)


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """One condition with one seed, composed."""

    condition: Condition
    seed: int
    composed: Composed


def compose_campaign(
    path: Path, arguments: Sequence[str] = (), *, changes: Mapping[str, Any] | None = None, cwd: Path | None = None
) -> tuple[Composed, list[CellConfig]]:
    """Compose a TOML with `[campaign]`: what all of its runs have in common, and each condition with each seed.

    files < the campaign's own max_steps and seeds < a condition < the command line

    A key that conditions share may be of use to some of them only, such as those of sepa; the others have its default.

    changes: keys of `[campaign]` that the command line sets

    Raises:
        ConfigError: all problems of a stage, those of conditions with their line.
    """
    cwd = Path.cwd() if cwd is None else cwd.resolve()
    plan = _read(path, arguments, cwd)
    assert plan.campaign is not None, "the caller has looked for [campaign]"
    changed = changes or {}
    typed = {name: Origin(kind="command line", text=f"campaign.{name}={value}") for name, value in changed.items()}
    origins = {**plan.campaign.origins, **typed}
    table = replace(plan.campaign, values=replace(plan.campaign.values, **changed), origins=origins)
    plan = replace(plan, campaign=table)
    given = plan.above[-1].values.get("training.seed")
    problems: list[Problem] = []
    cells: list[CellConfig] = []
    idle: dict[int, list[Unused]] = {}  # of each condition: what is set, and of no use to it
    for number, condition in enumerate(table.conditions):
        seeds = table.values.seeds if given is None else [given]
        for seed in seeds:
            if cells and cells[-1].condition is condition and not _interpolates(cells[-1].composed):
                cells.append(replace(cells[-1], seed=seed, composed=_with_seed(cells[-1].composed, seed)))
                continue
            own = {"training.seed": seed} | ({"training.max_steps": steps} if (steps := table.values.max_steps) else {})
            origins = {"training.seed": table.at("seeds"), "training.max_steps": table.at("max_steps")}
            layers = [Layer(values=own, origins={dotted: origins[dotted] for dotted in own}), *condition.layers]
            try:
                composed, unused = _composed_cell(replace(plan, files=[*plan.files, *layers]), path, cwd, condition)
            except ConfigError as error:
                problems += error.problems
                break  # another seed would say the same
            idle[number] = unused
            cells.append(CellConfig(condition=condition, seed=seed, composed=composed))
    if len(idle) == len(table.conditions):
        keys = [{problem.key for problem in found} for found in idle.values()]
        problems += [p for found in idle.values() for p in found if all(p.key in each for each in keys)]
    if problems:
        raise ConfigError(problems)
    return _merged(plan, path, cwd), cells  # which no run has, so that rules between keys need not hold in it


def _composed_cell(plan: _Plan, path: Path | None, cwd: Path, condition: Condition) -> tuple[Composed, list[Unused]]:
    """Compose a condition; return it with the default of each shared key that is of no use to it, and what was wrong.

    Raises:
        ConfigError: anything else is wrong, such as a key of the condition itself that is of no use.
    """
    from retrain.config.check import check

    composed = _merged(plan, path, cwd)
    own = {dotted for layer in condition.layers for dotted in layer.values}
    found = check(composed)
    idle = [problem for problem in found if isinstance(problem, Unused) and problem.key not in own]
    if wrong := [problem for problem in found if problem not in idle]:
        raise ConfigError(wrong)
    for problem in idle:
        composed = composed.without(problem.key)
    return composed, idle


def _interpolates(composed: Composed) -> bool:
    """Tell whether any value depends on another one."""
    return any(has_interpolation(value) for value in composed.written.values())


def _with_seed(composed: Composed, seed: int) -> Composed:
    """Return the same config with another seed, for the price of two copies."""
    config = replace(composed.config, training=replace(composed.config.training, seed=seed))
    return replace(composed, config=config, written={**composed.written, "training.seed": seed})


def _composed(plan: _Plan, path: Path | None, cwd: Path) -> Composed:
    from retrain.config.check import check  # most that imports this package composes nothing

    composed = _merged(plan, path, cwd)
    problems = check(composed)
    if problems:
        raise ConfigError(problems)
    return composed


def _merged(plan: _Plan, path: Path | None, cwd: Path) -> Composed:
    with no_garbage_collection():
        origins, shadowed = trace([*plan.files, *plan.above])
        config, written = merge(plan.files, plan.above, plan.overrides, plan.library, origins, plan.places)
    composed = Composed(
        config=config,
        path=path,
        name=_name(cwd / path) if path else "retrain",
        origins=origins,
        shadowed=shadowed,
        sources=plan.sources,
        places=plan.places,
        written=written,
        campaign=plan.campaign,
    )
    return _locate_data(composed)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Stage one's result: everything that will be merged, checked piece by piece."""

    files: Sequence[Layer]
    above: Sequence[Layer]  # the command line: its group choices, then its values
    overrides: Sequence[str]  # the command line in Hydra's grammar
    library: Library
    sources: Sequence[Path]
    places: Sequence[Path]
    campaign: CampaignTable | None


def _read(path: Path | None, arguments: Sequence[str], cwd: Path) -> _Plan:
    """Read files and arguments into layers.

    Raises:
        ConfigError: everything that is wrong with them.
    """
    if path and not command_line.is_text(str(cwd / path)):
        raise ConfigError(f"the path {cwd / path} is {command_line.NO_TEXT}", command_line.IN_UTF8)
    given = command_line.read(arguments, cwd)
    places = list(dict.fromkeys([*_beside(cwd / path), cwd])) if path else [cwd]
    reader = Reader(cwd, places)
    files = reader.chain(cwd / path) if path else []
    library = _library(files, given.config_dirs, cwd)
    table = campaign.read(files, reader, cwd)
    if table is not None:
        table = replace(table, conditions=[condition.resolved(reader, library) for condition in table.conditions])
    plan = _Plan(
        files=[layer for file in files for layer in reader.file_layers(file, library)],
        above=[*reader.choice_layers(list(given.choices.values()), library), given.layer()],
        overrides=given.overrides(),
        library=library,
        sources=reader.sources,
        places=places,
        campaign=table,
    )
    problems = [*reader.problems, *given.problems, *given.check(places), *load_dotenv(cwd)]
    problems += _absent_removals(plan, given)
    if problems:
        raise ConfigError(problems)
    return plan


def _library(files: Sequence[toml.TomlFile], config_dirs: Sequence[Path], cwd: Path) -> Library:
    """Return the group files in reach of a chain of TOMLs: of the last ``--config-dir`` first, the package's last."""
    beside = [file.path.parent / "conf" for file in reversed(files)] or [cwd / "conf"]
    folders = [f.resolve() for f in [*reversed(config_dirs), *beside, package_conf()] if f.is_dir()]
    return Library(list(dict.fromkeys(folders)), cwd)


def library_of(path: Path | None, config_dirs: Sequence[Path], cwd: Path) -> Library:
    """Return the group files that a command line may pick. What is wrong with the TOML is left for `compose` to say."""
    return _library(Reader(cwd, ()).chain(cwd / path) if path else [], config_dirs, cwd)


def condition_labels(path: Path, cwd: Path) -> list[str]:
    """Return what the conditions of a campaign are called, without composing them; no campaign has none.

    Raises:
        ConfigError: the TOML cannot be read, or is wrong.
    """
    plan = _read(path, (), cwd)
    found = []
    for condition in plan.campaign.conditions if plan.campaign else ():
        given: dict[str, Any] = {dotted: KEYS[dotted].default for dotted in campaign.NAMING}
        for layer in (*plan.files, *condition.layers):
            given |= layer.values
        found.append(condition.called(*(given[dotted] for dotted in campaign.NAMING)))
    return found


def _name(path: Path) -> str:
    """Return what runs of a TOML are called: its stem, or that of the TOML which the run it belongs to came from."""
    return (_run_source(path) or path).stem


def _run_source(path: Path) -> Path | None:
    """Return the TOML that a run's config.toml or a campaign's files were made from; None for any other TOML."""
    for record in ("run.json", "manifest.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # not such a directory
            source = json.loads((path.resolve().parent / record).read_text(encoding="utf-8"))["source"]
            return Path(source) if source else None
    return None


def _beside(path: Path) -> Iterator[Path]:
    """Yield the TOML's folder and, for the config of a run, that of the TOML it was made from: plugins lie there."""
    yield path.resolve().parent
    if source := _run_source(path):
        yield source.parent


def _absent_removals(plan: _Plan, given: command_line.Arguments) -> Iterator[Problem]:
    """Yield a problem for each ``~table.entry`` that is not there to be removed."""
    for removal in given.removals():
        held = owned_below([*plan.files, *plan.above], removal.key.dotted)
        entries: Any = held
        for name in removal.path:
            entries = entries.get(name) if isinstance(entries, dict) else None
        if entries is None:
            message = f"[{removal.key.dotted}] has no {'.'.join(removal.path)} to remove"
            yield removal.origin.problem(message, f"it holds {', '.join(held) or 'nothing'}", removal.key.dotted)


def _locate_data(composed: Composed) -> Composed:
    """Make data files beside the TOML relative to the working directory, so that the run's own TOML finds them too."""
    config, written = composed.config, dict(composed.written)
    for section in ("data", "eval"):
        given = getattr(config, section).path
        beside = composed.places[0] / given
        if not given or Path(given).is_absolute() or composed.places[0] == composed.cwd or not beside.exists():
            continue
        shown = toml.show_path(beside, composed.cwd)
        config = replace(config, **{section: replace(getattr(config, section), path=shown)})
        written[f"{section}.path"] = escape(shown)
    return replace(composed, config=config, written=written)
