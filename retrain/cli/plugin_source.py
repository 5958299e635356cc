"""What a plugin's source says about it, without running it: its first sentence and its options."""

from __future__ import annotations

import ast
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.registry import search_path

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, kw_only=True)
class Option:
    """default: a value of TOML, or None; an expression that is no literal is given as its text."""

    name: str
    type: str
    default: Any
    help: str


@dataclass(frozen=True, kw_only=True)
class Description:
    """options: None where the source does not say, e.g. of a name that the module only imports."""

    file: str
    summary: str
    options: list[Option] | None


def read(kind: str, module: str, attribute: str, places: Sequence[Path]) -> Description:
    """Describe `module:attribute`, looked for in `places` first; a file that cannot be parsed has no description."""
    file = locate(module, places)
    if file is None or file.suffix != ".py":
        return Description(file=str(file or module), summary="", options=None)
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return Description(file=str(file), summary="", options=None)  # resolving the name says what is wrong
    definition = next(
        (node for node in tree.body if getattr(node, "name", "") == attribute and isinstance(node, DEFINITIONS)), None
    )
    documented = ast.get_docstring(definition) if definition else None
    summary = first_sentence(documented or ast.get_docstring(tree) or "")
    return Description(file=str(file), summary=summary, options=options_of(kind, definition))


def locate(module: str, places: Sequence[Path]) -> Path | None:
    """Return a module's file without importing its package; None where there is none."""
    top, *rest = module.split(".")
    with search_path(places):
        spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.has_location and spec.origin else None
    for folder in spec.submodule_search_locations or ():
        inner = Path(folder, *rest)
        for file in (inner / "__init__.py", inner.with_suffix(".py")):
            if file.is_file():
                return file
    return None


def first_sentence(docstring: str) -> str:
    """Return the first paragraph up to its first full stop, on one line."""
    paragraph = " ".join(docstring.strip().partition("\n\n")[0].split())
    return paragraph.partition(". ")[0].rstrip(".:")


def options_of(kind: str, definition: ast.stmt | None) -> list[Option] | None:
    """Return the fields of a dataclass, or the keyword parameters of a function that makes a transform."""
    if kind == "backend":
        return None  # its capabilities name another class
    if isinstance(definition, ast.ClassDef):
        is_dataclass = any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list)
        return [option for node in definition.body for option in field_of(node)] if is_dataclass else []
    if isinstance(definition, ast.FunctionDef):
        return parameters_of(definition.args) if kind == "transform" else []
    return None if definition is None else []


def field_of(node: ast.stmt) -> list[Option]:
    """Return a statement of a dataclass's body as an option, or nothing."""
    if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
        return []
    annotation = ast.unparse(node.annotation)
    if "ClassVar" in annotation or (node.value and "init=False" in ast.unparse(node.value)):
        return []
    return [option(node.target.id, annotation, node.value)]


def parameters_of(arguments: ast.arguments) -> list[Option]:
    """Return the parameters of a factory of transforms; those without a default are the credit and its context."""
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = list(zip(positional[len(positional) - len(arguments.defaults) :], arguments.defaults, strict=True))
    pairs += [(name, value) for name, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value]
    return [option(a.arg, ast.unparse(a.annotation) if a.annotation else "", value) for a, value in pairs]


def option(name: str, annotation: str, default: ast.expr | None) -> Option:
    """Return one option; a default that TOML cannot hold is shown as it is written."""
    value: Any = None
    if default is not None:
        try:
            value = ast.literal_eval(default)
            json.dumps(value)
        except (ValueError, TypeError):
            value = ast.unparse(default)
    return Option(name=name, type=annotation, default=value, help="")
