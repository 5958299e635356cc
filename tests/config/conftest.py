import os
from pathlib import Path

import pytest

from retrain.config import Composed, compose
from retrain.errors import ConfigError, Problem


class Project:
    """A folder of a user's: TOMLs are written into it, and composed from it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, name: str, text: str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def compose(self, *arguments: str, toml: str | None = None) -> Composed:
        """Compose `toml`, by default mini.toml where there is one."""
        name = toml or ("mini.toml" if (self.root / "mini.toml").exists() else None)
        return compose(Path(name) if name else None, arguments, cwd=self.root)

    def value(self, dotted: str, *arguments: str, toml: str | None = None) -> object:
        section, _, name = dotted.partition(".")
        return getattr(getattr(self.compose(*arguments, toml=toml).config, section), name)

    def problems(self, *arguments: str, toml: str | None = None) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            self.compose(*arguments, toml=toml)
        assert caught.value.exit_code == 2
        return caught.value.problems


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    yield Project(tmp_path)
    os.environ.clear()
    os.environ.update(before)
