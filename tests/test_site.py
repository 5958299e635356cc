"""What the site makes of a page that is read in the repository as well."""

import importlib.util
from types import SimpleNamespace

import pytest

from tests.documents import REPOSITORY


@pytest.fixture
def hook(monkeypatch):
    """Load scripts/site_hook.py as mkdocs does; the result takes the variables of a build."""

    def load(**environment):
        for name in ("READTHEDOCS_GIT_CLONE_URL", "READTHEDOCS_GIT_COMMIT_HASH"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        spec = importlib.util.spec_from_file_location("site_hook", REPOSITORY / "scripts" / "site_hook.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_the_first_line_of_a_topic_becomes_the_menu_s_name_and_a_sentence(hook):
    made = hook().on_page_markdown("# sepa: even out: what\n\ntext\n", page=SimpleNamespace(title="SEPA"))
    assert made == "# SEPA\n\n*Even out: what.*\n\ntext\n"


def test_a_page_with_a_title_of_its_own_keeps_it(hook):
    text = "# Coming from TRL, verl or prime-rl\n\n# note: this\n"
    assert hook().on_page_markdown(text, page=SimpleNamespace(title="x")) == text


def test_a_link_into_the_code_leads_to_the_commit_that_is_built(hook):
    text = "see [`run`](../retrain/run.py) and [data](data.md)"
    page = SimpleNamespace(title="x")
    assert hook().on_page_markdown(text, page=page) == "see `run` and [data](data.md)"
    built = {"READTHEDOCS_GIT_CLONE_URL": "https://host/a/b.git", "READTHEDOCS_GIT_COMMIT_HASH": "c0ffee"}
    linked = "see [`run`](https://host/a/b/blob/c0ffee/retrain/run.py) and [data](data.md)"
    assert hook(**built).on_page_markdown(text, page=page) == linked
