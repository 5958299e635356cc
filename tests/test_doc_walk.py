"""What the documents tell a newcomer to type is typed here, in order, in one folder; only runs are made shorter."""

import shutil
import sys
from pathlib import Path

import pytest

from retrain.cli import campaign
from retrain.cli.main import main
from retrain.config import compose
from tests.documents import REPOSITORY, TOPICS, in_a_folder
from tests.test_doc_commands import positional, shown_commands, split

LONG = [TOPICS / "quickstart.md", TOPICS / "evaluation.md"]
QUICK = [TOPICS / "plugins.md", TOPICS / "json.md", REPOSITORY / "docs" / "getting-started.md"]
WALKED = [*(pytest.param(path, marks=pytest.mark.slow) for path in LONG), *QUICK]

SHORT = ("training.max_steps=1", "training.batch_size=1", "training.group_size=2", "training.max_tokens=16")
SHORT += ("eval.examples=3", "logging.tracking_uri=none", "backend.options.threads=1")
SHORT_SCORE = ("eval.examples=3", "eval.max_tokens=8")  # the test split is scored whole
SERVES = ("ui", "sync", "fetch")  # until Ctrl-C, to a tracker, from the hub


def runs_here(words: list[str]) -> bool:
    """Tell whether a command needs no network, no GPU, no tracker and no long run before it, and ends."""
    verb, own, rest = split(words)
    if verb in SERVES or "--watch" in own or "--best" in own:
        return False
    named, overrides = positional(verb, rest)
    if verb != "train":
        return True
    toml = Path(named[0])
    return not campaign.is_one(toml, overrides) and compose(toml, overrides).config.model.model == "builtin:tiny"


@pytest.mark.parametrize("document", WALKED, ids=lambda path: path.stem)
def test_a_newcomer_can_type_it_all(document, tmp_path, monkeypatch, capsys):
    tomls = in_a_folder(document, tmp_path, monkeypatch)
    for name in [name for name in sys.modules if name.startswith("my_")]:
        monkeypatch.delitem(sys.modules, name)  # another test's plugins, which a process of its own would not have
    for mini in (path for path in tomls if path.name == "mini.toml"):
        assert main([mini.name, *SHORT]) == 0, "the run that the document speaks of"
    if document.stem == "json":
        shutil.copy(REPOSITORY / "examples" / "demo.toml", tmp_path / "retrain.toml")
    done = []
    for words in shown_commands(document):
        if not words[0].startswith("--") and runs_here(words):
            done.append(words)
            more = {"train": SHORT, "eval": SHORT_SCORE}.get(split(words)[0], ())
            assert main([*words, *more]) == 0, f"retrain {' '.join(words)}: {capsys.readouterr().err}"
    assert done
