"""Installed packages against the ranges that retrain's own metadata name; nothing is imported."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

from packaging.markers import default_environment
from packaging.requirements import Requirement

from retrain.doctor.finding import Found, NotKnownError, ok, skipped, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.doctor.machine import Machine

FOR_DEVELOPERS = ("dev",)  # extras that no run needs


def core(_: Machine) -> Found:
    """Hold what every command needs to its ranges."""
    return judged("", requirements(""))


def extras(_: Machine) -> list[Found]:
    """Say of each extra whether it is installed, and hold what is there to its ranges."""
    names = metadata.metadata("retrain").get_all("Provides-Extra") or []
    return [judged(name, requirements(name)) for name in names if name not in FOR_DEVELOPERS]


def requirements(extra: str) -> list[Requirement]:
    """Return what an extra asks for beyond the core; "": what the core does.

    Raises:
        NotKnownError: retrain is not installed as a package.
    """
    try:
        declared = [Requirement(text) for text in metadata.requires("retrain") or []]
    except metadata.PackageNotFoundError:
        raise NotKnownError("retrain is not installed as a package: its metadata would say what it needs") from None
    environment = {**default_environment(), "extra": extra}
    plain = {**default_environment(), "extra": ""}
    wanted = [r for r in declared if r.marker is None or r.marker.evaluate(environment)]
    return [r for r in wanted if not extra or not (r.marker is None or r.marker.evaluate(plain))]


def judged(extra: str, wanted: Sequence[Requirement]) -> Found:
    """Compare requirements with what is installed."""
    label, fix = (f"{extra}: ", f'pip install "retrain[{extra}]"') if extra else ("", "pip install --upgrade retrain")
    installed = {requirement.name: version_of(requirement.name) for requirement in wanted}
    missing = [name for name, version in installed.items() if not version]
    wrong = [
        f"{r.name} {version} is not {r.specifier}"
        for r in wanted
        if (version := installed[r.name]) and not r.specifier.contains(version, prereleases=True)
    ]
    if len(missing) == len(installed) or (extra and own(extra, wanted) <= set(missing)):
        return skipped(f"{label}not installed", fix)
    if missing or wrong:
        return warn(label + "; ".join([*wrong, *([f"not installed: {', '.join(missing)}"] if missing else [])]), fix)
    named = own(extra, wanted) if extra else set(installed)
    return ok(label + ", ".join(f"{name} {version}" for name, version in installed.items() if name in named))


def own(extra: str, wanted: Sequence[Requirement]) -> set[str]:
    """Return the packages of an extra that none of the extras inside it has: those that tell whether it is wanted."""
    names = {requirement.name for requirement in wanted}
    others = metadata.metadata("retrain").get_all("Provides-Extra") or []
    inside = [{r.name for r in requirements(other)} for other in others if other != extra]
    return names.difference(*(part for part in inside if part < names)) or names


def version_of(name: str) -> str:
    """Return the version of an installed distribution; empty: there is none."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
