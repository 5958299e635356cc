"""TOML files to layers: parents before children, a file's group choices before its body.

    extends = "base.toml"            # or a list; relative to this file
    [defaults]
    algorithm = "maxrl"              # picks conf/algorithm/maxrl.toml
    [training]
    lr = 1e-5

Every section, key and value is checked here, with its file and line, and all problems are collected. Only the
standard library is imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.config import toml, values
from retrain.config.names import likely_keys, question, unknown_group, unknown_key, unknown_section
from retrain.config.origins import Layer, Origin
from retrain.config.schema import GROUPS, KEYS, SECTIONS
from retrain.errors import ConfigError, Problem, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

EXPERIMENT = "experiment"
"""The group whose files may set anything; applied before the other choices of its layer, so that they tweak it."""

CHOICES = (EXPERIMENT, *GROUPS)


@dataclass(frozen=True)
class Choice:
    """A group file that a layer picks."""

    group: str
    name: str
    origin: Origin


def package_conf() -> Path:
    """Return the folder of the group files that come with retrain: beside the modules in a wheel, else one level up."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@dataclass(frozen=True)
class Library:
    """Group files of several folders; the first folder that has a name wins."""

    folders: Sequence[Path]
    cwd: Path

    def find(self, group: str, name: str) -> Path | None:
        """Return the file of a group's option."""
        paths = (folder / group / f"{name}.toml" for folder in self.folders)
        return next((path for path in paths if path.is_file()), None)

    def options(self, group: str) -> list[str]:
        """Return the names that may be chosen in a group."""
        return sorted({path.stem for folder in self.folders for path in (folder / group).glob("*.toml")})

    def shown(self, path: Path) -> str:
        """Return what to call a group file: ``conf/algorithm/maxrl.toml`` for the package's."""
        if path.is_relative_to(package_conf()):
            return str(Path("conf") / path.relative_to(package_conf()))
        return toml.show_path(path, self.cwd)


@dataclass
class Reader:
    """Turns TOML files into layers and keeps what is wrong with them."""

    cwd: Path
    places: Sequence[Path]  # where plugin modules are looked for
    problems: list[Problem] = field(default_factory=list)
    sources: list[Path] = field(default_factory=list)

    def read(self, path: Path, shown: str, asked: Problem | None = None) -> toml.TomlFile | None:
        """Read a file; None, and a problem more, when that fails."""
        try:
            file = toml.read(path, shown, asked)
        except ConfigError as error:
            self.problems += error.problems
            return None
        if path not in self.sources:
            self.sources.append(path)
        return file

    def chain(self, path: Path, children: tuple[Path, ...] = (), asked: Problem | None = None) -> list[toml.TomlFile]:
        """Read a TOML with all it extends, parents first, each once."""
        here = path.resolve()
        file = self.read(path, toml.show_path(path, self.cwd), asked)
        if file is None:
            return []
        files: list[toml.TomlFile] = []
        for parent, origin in self._parents(file):
            if parent.resolve() in (*children, here):
                message = f'extends = "{origin.text}" goes round in a circle'
                steps = [*children, here, parent.resolve()]
                hint = " → ".join(toml.show_path(step, self.cwd) for step in steps)
                self.problems.append(
                    Origin(kind="file", file=origin.file, line=origin.line).problem(message, hint, "extends")
                )
                continue
            wanted = Problem(message=f'extends = "{origin.text}"', file=origin.file, line=origin.line)
            known = {known.path.resolve() for known in files}
            files += [f for f in self.chain(parent, (*children, here), wanted) if f.path.resolve() not in known]
        return [*files, file]

    def _parents(self, file: toml.TomlFile) -> Iterator[tuple[Path, Origin]]:
        extends = file.table.get("extends", [])
        names = extends if isinstance(extends, list) else [extends]
        line = file.line("extends")
        for name in names:
            if isinstance(name, str) and name:
                yield file.path.parent / name, Origin(kind="file", file=file.shown, line=line, text=name)
            else:
                message = f"extends = {values.show(extends)} is not the name of a file"
                at = Origin(kind="file", file=file.shown, line=line)
                self.problems.append(
                    at.problem(message, 'write extends = "base.toml", or a list of such names', "extends")
                )

    def file_layers(self, file: toml.TomlFile, library: Library) -> list[Layer]:
        """Return what a TOML says: one layer for each of its choices, then one for its body."""
        body = {name: value for name, value in file.table.items() if name not in {"extends", "defaults", "campaign"}}
        return [*self.choice_layers(self.choices(file), library), self._sections(file, body, kind="file")]

    def choices(self, file: toml.TomlFile, groups: Sequence[str] = CHOICES) -> list[Choice]:
        """Return the group choices in a file's ``[defaults]``."""
        chosen = file.table.get("defaults", {})
        at = Origin(kind="file", file=file.shown, line=file.line("defaults"))
        if not isinstance(chosen, dict):
            message = f"defaults = {values.show(chosen)} is not a table of group choices"
            self.problems.append(at.problem(message, '[defaults]\nalgorithm = "grpo"', "defaults"))
            return []
        found = []
        for group, name in chosen.items():
            origin = Origin(kind="file", file=file.shown, line=file.line("defaults", group))
            if group not in groups:
                self.problems.append(unknown_group(group, origin, groups))
            elif not isinstance(name, str):
                kind = values.kind_of(name)
                message = f"[defaults] {group} = {values.show(name)} is {kind}, the name of a group file is needed"
                self.problems.append(origin.problem(message, f'such as {group} = "{group}"', f"defaults.{group}"))
            else:
                found.append(Choice(group, name, origin))
        return found

    def choice_layers(self, choices: Sequence[Choice], library: Library) -> list[Layer]:
        """Return the layers of group files that were chosen together, experiments first."""
        in_order = sorted(choices, key=lambda choice: CHOICES.index(choice.group))
        return [layer for choice in in_order for layer in self._group_layers(choice, library)]

    def _group_layers(self, choice: Choice, library: Library) -> list[Layer]:
        path = library.find(choice.group, choice.name)
        if path is None or "/" in choice.name:
            self.problems.append(_unknown_option(choice, library))
            return []
        file = self.read(path, library.shown(path))
        if file is None:
            return []
        if choice.group == EXPERIMENT:
            body = {name: value for name, value in file.table.items() if name != "defaults"}
            chosen = self.choices(file, GROUPS)
            return [*self.choice_layers(chosen, library), self._sections(file, body, kind="group")]
        return [self._group_file(file, choice.group)]

    def _sections(self, file: toml.TomlFile, body: Mapping[str, Any], *, kind: Any) -> Layer:
        layer = Layer()
        for section, table in body.items():
            origin = Origin(kind=kind, file=file.shown, line=file.line(section))
            if section not in SECTIONS:
                self.problems.append(_not_a_section(section, table, origin))
            elif not isinstance(table, dict):
                message = f"{section} = {values.show(table)} stands where only sections stand"
                self.problems.append(origin.problem(message, _sectioned(section, section, table), section))
            else:
                self._keys(layer, file, table, section, (section,), kind)
        return layer

    def _group_file(self, file: toml.TomlFile, group: str) -> Layer:
        layer = Layer()
        self._keys(layer, file, file.table, group, (), "group")
        missing = [key for key in KEYS.values() if key.section == group and key.identity and key.name not in file.table]
        for key in missing:
            message = f"does not set {key.name}, which is what a group file of {group} chooses"
            hint = f"add {key.name} = {values.show(key.default)}"
            self.problems.append(Origin(kind="group", file=file.shown).problem(message, hint, key.dotted))
        return layer

    def _keys(
        self,
        layer: Layer,
        file: toml.TomlFile,
        table: Mapping[str, Any],
        section: str,
        place: tuple[str, ...],
        kind: Any,
    ) -> None:
        for name, value in table.items():
            origin = Origin(kind=kind, file=file.shown, line=file.line(*place, name))
            key = KEYS.get(f"{section}.{name}")
            if key is None:
                self.problems.append(_not_a_key(section, name, value, origin, group=not place))
                continue
            self.problems += values.problems(key, value, origin, self.places)
            layer.values[key.dotted] = value
            layer.origins[key.dotted] = origin
            if isinstance(value, dict):
                for entry in value:
                    line = file.line(*place, name, entry)
                    layer.origins[f"{key.dotted}.{entry}"] = Origin(kind=kind, file=file.shown, line=line)


def _not_a_section(name: str, value: Any, origin: Origin) -> Problem:
    if isinstance(value, dict):
        return unknown_section(name, origin)
    candidates = likely_keys(name)
    hint = f"sections: {', '.join(SECTIONS)}"
    if candidates:
        section, _, leaf = candidates[0].partition(".")
        hint = _sectioned(section, leaf, value)
    return origin.problem(f"{name} = {values.show(value, name)} stands in no section", hint, name)


def _sectioned(section: str, name: str, value: Any) -> str:
    known = f"{section}.{name}" in KEYS
    return f"write it in its section:\n[{section}]\n{name if known else 'key'} = {values.show(value, name)}"


def _not_a_key(section: str, name: str, value: Any, origin: Origin, *, group: bool) -> Problem:
    if group and isinstance(value, dict) and name in SECTIONS:
        message = f"[{name}] stands in a group file of {section}, which sets keys of [{section}] only"
        hint = f"remove the line [{name}]" if name == section else f"move it to a file in conf/{EXPERIMENT}/"
        return origin.problem(message, hint, name)
    if group and name in {"defaults", "extends"}:
        return origin.problem(
            f"{name} cannot stand in a group file of {section}", f"[defaults] may stand in conf/{EXPERIMENT}/", name
        )
    return unknown_key(section, name, origin, group=group)


def _unknown_option(choice: Choice, library: Library) -> Problem:
    group, name = choice.group, choice.name
    typed = choice.origin.kind == "command line"
    written = "" if typed else f'[defaults] {group} = "{name}": '
    if "/" in name or name == "":
        hint = f"{group}= picks a group file, one of {', '.join(library.options(group))}"
        if group == "model" and name:
            way = f"--model {name}" if typed else f'[model] model = "{name}"'
            hint = f"model= picks a group file; for a hub id write {way}"
        return choice.origin.problem(f"{written}no group file has such a name", hint, group)
    other = next((f for folder in library.folders for f in (folder / group).glob(f"{name}.y*ml")), None)
    if other is not None:
        return choice.origin.problem(
            f"{written}group files are TOML, not YAML", f"rewrite {library.shown(other)} as {name}.toml", group
        )
    near = nearest(name, library.options(group))
    looked = ", ".join(library.shown(folder) for folder in library.folders)
    hint = f"conf/{group}/ has {', '.join(library.options(group)) or 'no files'} (looked in {looked})"
    return choice.origin.problem(f"{written}there is no such group file{question([near] if near else [])}", hint, group)
