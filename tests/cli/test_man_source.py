"""The source of the manual: its generated parts are held up to date, and it can be edited from any install."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import retrain
from retrain import __version__, manual
from retrain.cli.main import main

STALE = "# stale: a topic\n\n<!-- generated: exit-codes -->\nold\n<!-- end generated -->\n\nafter\n"


@pytest.fixture
def topics(tmp_path, monkeypatch):
    """Make a package of two topics, and the index as it should be then; return its folder."""
    folder = tmp_path / "topics"
    folder.mkdir()
    (folder / "fresh.md").write_text("# fresh: another\n\ntext\n")
    (folder / "stale.md").write_text("# stale: a topic\n")
    monkeypatch.setattr(manual, "PACKAGED", folder)
    monkeypatch.setattr(manual, "INDEX", tmp_path / "index.jsonl")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "index.jsonl").write_text("")
    (folder / "stale.md").write_text(STALE)
    return folder


@pytest.fixture
def read_only(topics, tmp_path, monkeypatch):
    """Make that package one that cannot be written to; return where copies of it go."""
    monkeypatch.setattr(manual, "is_writable", lambda folder: folder != topics)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "retrain" / "manual"


# --- generated parts --------------------------------------------------------------------------------------------------


def test_what_is_stale_is_named_with_its_place_and_what_mends_it(topics, capsys):
    assert main(["man", "--check"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "error: topics/stale.md:3: the generated block exit-codes is stale\n  retrain man --sync\n" in shown.err
    assert "index.jsonl:1: the generated block search-index is stale" in shown.err
    assert "fresh" not in shown.err


def test_what_is_stale_is_json_for_programs(topics, capsys):
    assert main(["man", "--check", "--json"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert json.loads(shown.err)["error"]["code"] == "stale"


def test_sync_writes_it_anew_tells_what_and_then_nothing_is_stale(topics, capsys):
    assert main(["man", "--sync"]) == 0
    assert capsys.readouterr().out.splitlines() == ["topics/stale.md:3: exit-codes", "index.jsonl:1: search-index"]
    text = (topics / "stale.md").read_text()
    assert "| 130 | `interrupted` |" in text
    assert text.startswith("# stale: a topic\n\n<!-- generated: exit-codes -->\n")
    assert text.endswith("\n<!-- end generated -->\n\nafter\n")
    assert (topics / "fresh.md").read_text() == "# fresh: another\n\ntext\n"
    assert main(["man", "--check"]) == 0
    assert main(["man", "--sync"]) == 0
    assert capsys.readouterr().out == ""


def test_an_unknown_block_is_refused_with_its_place_and_the_nearest(topics, capsys):
    (topics / "fresh.md").write_text("# fresh: another\n<!-- generated: key -->\n<!-- end generated -->\n")
    for action in ("--check", "--sync"):
        assert main(["man", action]) == 2
        assert 'topics/fresh.md:2: "key" is not a generated block; did you mean "keys"?' in capsys.readouterr().err
    assert (topics / "stale.md").read_text() == STALE


def test_marks_that_are_wrong_are_told_of_all_topics_at_once(topics, capsys):
    for name in ("fresh", "stale"):
        (topics / f"{name}.md").write_text(f"# {name}: x\n<!-- generated: keys -->\n")
    assert main(["man", "--check"]) == 2
    shown = capsys.readouterr().err
    assert "fresh.md:2: the generated block keys has no end" in shown
    assert "stale.md:2: the generated block keys has no end" in shown


def test_a_topic_that_is_not_utf_8_can_be_read_and_is_never_rewritten(topics, capsys):
    (topics / "fresh.md").write_bytes(b"# fresh: caf\xe9\n")
    assert main(["man", "fresh"]) == 0
    assert main(["man", "--search", "caf"]) == 0
    assert main(["man", "--sync"]) == 2
    assert "topics/fresh.md: not UTF-8" in capsys.readouterr().err
    assert (topics / "fresh.md").read_bytes() == b"# fresh: caf\xe9\n"


def test_the_manual_as_it_is_here_is_up_to_date(capsys):
    assert main(["man", "--check"]) == 0, capsys.readouterr().err


# --- where it is ------------------------------------------------------------------------------------------------------


def test_an_install_that_can_be_written_to_is_edited_in_place(topics, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert main(["man", "--path"]) == 0
    assert main(["man", "--path", "fresh"]) == 0
    assert main(["man", "--topic", "fresh", "--path"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(topics), *[str(topics / "fresh.md")] * 2]
    assert not (tmp_path / "data").exists()


def test_a_read_only_install_is_copied_once_and_read_from_there(read_only, capsys):
    assert main(["man", "fresh"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["man", "--path"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{read_only}\n"
    assert "this is a copy, which is read from now on" in shown.err
    (read_only / "fresh.md").write_text("# fresh: mine\n\nmy notes\n")
    assert main(["man", "--path"]) == 0
    assert main(["man", "fresh"]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{read_only}\n# fresh: mine\n\nmy notes\n"
    assert f"from your copy in {read_only}" in shown.err
    main(["man", "--search", "notes"])
    assert "my notes" in capsys.readouterr().out


def test_a_copy_of_another_version_is_noticed(read_only, capsys):
    main(["man", "--path"])
    (read_only / manual.MADE_BY).write_text("0.0.1\n")
    capsys.readouterr()
    assert main(["man", "fresh"]) == 0
    said = capsys.readouterr().err
    assert f"it was made from retrain 0.0.1, this is {__version__}: move it away" in said


def test_a_topic_that_a_copy_lacks_comes_from_the_package(read_only, capsys):
    main(["man", "--path"])
    (read_only / "fresh.md").unlink()
    capsys.readouterr()
    assert main(["man", "fresh"]) == 0
    assert "another" in capsys.readouterr().out
    assert main(["man", "--path", "fresh"]) == 0
    assert (read_only / "fresh.md").is_file()


def test_a_half_made_copy_is_not_read(read_only, capsys):
    read_only.mkdir(parents=True)
    (read_only / "fresh.md").write_text("# fresh: half\n")
    assert main(["man", "fresh"]) == 0
    assert "half" not in capsys.readouterr().out


def test_a_copy_is_checked_and_rewritten_in_its_place(read_only, topics, capsys):
    main(["man", "--path"])
    assert main(["man", "--check"]) == 1
    capsys.readouterr()
    assert main(["man", "--sync"]) == 0
    assert capsys.readouterr().out == "data/retrain/manual/stale.md:3: exit-codes\n"
    assert "interrupted" in (read_only / "stale.md").read_text()
    assert (topics / "stale.md").read_text() == STALE
    assert main(["man", "--check"]) == 0


def test_a_data_home_that_is_no_absolute_path_is_ignored(monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert manual.own_folder() == Path.home() / ".local" / "share" / "retrain" / "manual"


def test_no_place_for_a_copy_is_an_error_with_its_reason(read_only, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))
    assert main(["man", "--path"]) == 2
    assert "neither can a copy" in capsys.readouterr().err


# --- a real read-only install -----------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path):
    """Copy the package into a folder that nobody may write to; return that and a home beside it."""
    package = tmp_path / "lib" / "retrain"
    shutil.copytree(Path(retrain.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    everything = [package, *package.rglob("*")]
    for path in everything:
        path.chmod(0o555 if path.is_dir() else 0o444)
    (tmp_path / "home").mkdir()
    yield package, tmp_path / "home"
    for path in everything:
        path.chmod(0o755)


def bound_by_permissions() -> None:
    """Let root be refused like anybody else: drop CAP_DAC_OVERRIDE from what the next program may have."""
    if os.geteuid() == 0 and ctypes.CDLL(None).prctl(24, 1, 0, 0, 0):
        raise OSError("this root cannot be bound by permissions")


def call(installed, *arguments):
    """Run the copied package as a user whom its permissions bind."""
    package, own = installed
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(package.parent), "HOME": str(own)}
    return subprocess.run(
        [sys.executable, "-B", "-m", "retrain.cli.main", "man", *arguments],
        cwd=own,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=bound_by_permissions,
    )


def test_the_manual_of_a_real_read_only_install_can_be_edited(installed):
    package, own = installed
    copy = own / ".local" / "share" / "retrain" / "manual"
    assert call(installed, "sepa").stdout.startswith("# sepa: ")
    done = call(installed, "--path", "sepa")
    assert (done.returncode, done.stdout) == (0, f"{copy / 'sepa.md'}\n"), done.stderr
    assert f"{package / 'manual' / 'topics'} cannot be written to" in done.stderr
    (copy / "sepa.md").write_text("# sepa: mine\n")
    done = call(installed, "sepa")
    assert done.stdout == "# sepa: mine\n"
    assert "from your copy" in done.stderr


def test_sync_of_a_real_read_only_install_says_why_not(installed):
    package, _ = installed
    topic = package / "manual" / "topics" / "sepa.md"
    topic.chmod(0o644)
    topic.write_text("# sepa: x\n\n<!-- generated: exit-codes -->\n<!-- end generated -->\n")
    topic.chmod(0o444)
    done = call(installed, "--sync")
    assert (done.returncode, done.stdout) == (2, "")
    assert "sepa.md cannot be written: Permission denied" in done.stderr
    assert "retrain man --path makes a copy" in done.stderr
