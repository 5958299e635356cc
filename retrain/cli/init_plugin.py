"""`retrain init-plugin`: a plugin that works as it is, and a test of it that passes."""

from __future__ import annotations

import importlib.util
import keyword
import os
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from retrain.cli import output
from retrain.cli.flags import parse
from retrain.errors import ConfigError, Problem, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, kw_only=True)
class Kind:
    """attribute: what the template defines; toml: how a config chooses it."""

    attribute: str
    toml: str


KINDS: dict[str, Kind] = {
    "transform": Kind(attribute="$Name", toml='[algorithm]\ntransforms = [{ name = "$name:$attribute", floor = 0.5 }]'),
    "baseline": Kind(
        attribute="$Name",
        toml='[algorithm]\nadvantage_mode = "$name:$attribute"\nadvantage_params = { share = 0.5 }',
    ),
    "signal": Kind(
        attribute="uncertainty", toml='[algorithm]\nuncertainty_kind = "$name:$attribute"\ntransform_mode = "gtpo"'
    ),
    "reward": Kind(attribute="score", toml='[reward]\ntype = "$name:$attribute"'),
    "data": Kind(attribute="rows", toml='[data]\nsource = "$name:$attribute"\n\n[reward]\ntype = "match"'),
    "detector": Kind(
        attribute="find", toml='[algorithm]\ntransform_mode = "gtpo_hicra"\n\n[planning]\ndetector = "$name:$attribute"'
    ),
}
"""What can be started from a template: plugin_templates/KIND.py.txt and test_KIND.py.txt."""


def main(arguments: Sequence[str]) -> int:
    """Write NAME.py and, with --with-test, test_NAME.py; say what to put into the TOML.

    Raises:
        ConfigError: an unknown kind, a name that cannot be a module of one's own, a file that is there already.
    """
    flags, positional = parse("init-plugin", arguments)
    if positional:
        raise ConfigError(f'"{positional[0]}" is not expected; the name is given with --name {positional[0]}')
    for needed in ("--kind", "--name"):
        if needed not in flags:
            kinds = "|".join(KINDS)
            raise ConfigError(f"{needed} is missing", f"retrain init-plugin --kind {kinds} --name NAME")
    kind, name, folder = flags["--kind"], flags["--name"], Path(flags.get("--output", "."))
    if kind not in KINDS:
        raise ConfigError(unknown_name(kind="kind of plugin", name=kind, known=list(KINDS), key="--kind"))
    texts = {folder / f"{name}.py": render(f"{kind}.py.txt", kind, name)}
    if "--with-test" in flags:
        texts[folder / f"test_{name}.py"] = render(f"test_{kind}.py.txt", kind, name)
    check_name(name, kind)
    check_free(list(texts))
    check_module(name)
    for path, text in texts.items():
        write(path, text)
    output.say(next_steps(kind, name, list(texts)))
    return 0


def check_name(name: str, kind: str) -> None:
    """Refuse a name that cannot be imported.

    Raises:
        ConfigError: the name is no Python identifier that begins with a letter.
    """
    if not name.isidentifier() or not name[0].isalpha() or keyword.iskeyword(name):
        raise ConfigError(
            f'--name "{name}" cannot be the name of a Python module',
            f"a letter, then letters, digits and _, e.g. --name my_{kind}",
        )


def check_free(paths: Sequence[Path]) -> None:
    """Refuse to touch what exists: neither file is written when one of them is there.

    Raises:
        ConfigError: a file is there already, or their folder is not.
    """
    folder = paths[0].parent
    if not folder.is_dir():
        raise ConfigError(f"--output {folder} is not a folder; create it first")
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} exists already and is left as it is; --name or --output writes elsewhere")


def check_module(name: str) -> None:
    """Refuse the name of a module that can be imported: one of the two would hide the other.

    Raises:
        ConfigError: it belongs to Python or to an installed package.
    """
    spec = None if name in sys.stdlib_module_names else importlib.util.find_spec(name)
    if name in sys.stdlib_module_names:
        owner = "a module of Python itself"
    elif spec is not None and spec.loader is not None:  # without a loader: any folder of that name
        owner = f"a module already ({spec.origin})"
    else:
        return
    raise ConfigError(
        Problem(
            message=f'--name "{name}" is {owner}, which {name}.py would hide',
            hint=f"choose another, e.g. --name my_{name}",
        )
    )


def render(template: str, kind: str, name: str) -> str:
    """Return a template's text for this name."""
    text = resources.files("retrain.cli").joinpath("plugin_templates", template).read_text(encoding="utf-8")
    return Template(text).substitute(name=name, attribute=attribute(kind, name))


def attribute(kind: str, name: str) -> str:
    """Return what the plugin's module will define: a function's fixed name, or a class named after the plugin.

    >>> attribute("transform", "early_tokens")
    'EarlyTokensTransform'
    """
    words = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
    suffix = kind.capitalize()
    return Template(KINDS[kind].attribute).substitute(Name=words.removesuffix(suffix) + suffix)


def write(path: Path, text: str) -> None:
    """Create a file that does not exist yet."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"{path} cannot be written: {reason}; --output DIR writes elsewhere") from None


def next_steps(kind: str, name: str, paths: Sequence[Path]) -> str:
    """Return what was written and what to do with it."""
    toml = Template(KINDS[kind].toml).substitute(name=name, attribute=attribute(kind, name))
    lines = [f"wrote {path}" for path in paths]
    lines += [f"in a TOML in {paths[0].parent.resolve()}, or run from there:", ""]
    lines += [f"  {line}".rstrip() for line in toml.splitlines()]
    if len(paths) > 1:
        lines += ["", f"its test: python -m pytest {paths[1]}"]
    return "\n".join(lines)
