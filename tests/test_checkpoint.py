"""Checkpoints are complete or absent, and damage is found by name."""

import os
from pathlib import Path

import pytest

from retrain import checkpoint
from retrain.errors import ConfigError, RunError


def write(folder, step, text="weights"):
    with checkpoint.writing(folder / f"step-{step}", step=step) as aside:
        (aside / "weights").write_text(text)
        (aside / "deep").mkdir()
        (aside / "deep" / "state").write_text(str(step))


def test_a_checkpoint_holds_its_files_and_a_manifest(tmp_path):
    write(tmp_path, 3)
    assert (tmp_path / "step-3" / "deep" / "state").read_text() == "3"
    assert checkpoint.verify(tmp_path / "step-3") == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-3"]


def test_a_failure_while_writing_leaves_the_older_one_and_no_debris(tmp_path):
    write(tmp_path, 3, "old")
    with pytest.raises(ZeroDivisionError), checkpoint.writing(tmp_path / "step-3", step=3) as aside:
        (aside / "weights").write_text(str(1 / 0))
    assert (tmp_path / "step-3" / "weights").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["step-3"]


def test_writing_the_same_step_again_replaces_it(tmp_path):
    write(tmp_path, 3, "old")
    write(tmp_path, 3, "new")
    assert (tmp_path / "step-3" / "weights").read_text() == "new"
    assert checkpoint.verify(tmp_path / "step-3") == ""


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: (folder / "weights").write_text("weightz"), "weights is damaged"),
        (lambda folder: (folder / "deep" / "state").unlink(), "deep/state is missing"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest"),
    ],
)
def test_damage_is_found_by_name_and_the_one_before_is_used(tmp_path, damage, named):
    write(tmp_path, 2)
    write(tmp_path, 10)
    damage(tmp_path / "step-10")
    found, complaints = checkpoint.newest_sound(tmp_path)
    assert found == tmp_path / "step-2"
    assert len(complaints) == 1
    assert named in complaints[0]
    assert "step-10" in complaints[0]


def test_steps_are_ordered_as_numbers_and_pruned_from_the_oldest(tmp_path):
    for step in (9, 10, 100):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, 2)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-10", "step-100"]


def test_a_checkpoint_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "taken").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="could not be written"):
        write(tmp_path / "taken", 1)


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.newest_sound(tmp_path / "absent") == (None, [])


def test_a_process_killed_while_writing_leaves_only_whole_ones(tmp_path):
    write(tmp_path, 1)
    child = os.fork()
    if child == 0:
        with checkpoint.writing(tmp_path / "step-2", step=2) as aside:
            (aside / "weights").write_text("half")
            os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert checkpoint.newest_sound(tmp_path) == (tmp_path / "step-1", [])
    write(tmp_path, 2)
    assert checkpoint.newest_sound(tmp_path) == (tmp_path / "step-2", [])


def test_the_spared_one_is_never_pruned(tmp_path):
    for step in (1, 2, 3, 4):
        write(tmp_path, step)
        checkpoint.prune(tmp_path, 1, spare=2)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step-2", "step-4"]


def test_a_manifest_that_was_changed_is_damage_and_not_another_format(tmp_path):
    write(tmp_path, 2)
    manifest = tmp_path / "step-2" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 3'))
    assert checkpoint.verify(tmp_path / "step-2") == "its manifest.json is damaged"


def test_a_checkpoint_of_an_older_format_is_refused_with_the_reason_and_not_skipped(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    (tmp_path / "step-2" / "manifest.json").write_text('{"format": 1, "step": 2, "files": {}}')
    with pytest.raises(ConfigError, match=r"step-2 has format 1, this version of retrain reads 2"):
        checkpoint.newest_sound(tmp_path)


def test_later_ones_are_set_aside_so_that_they_neither_resume_nor_push_out_others(tmp_path):
    for step in (1, 2, 3):
        write(tmp_path, step)
    checkpoint.set_aside(tmp_path, after=1)
    assert checkpoint.complete(tmp_path) == [tmp_path / "step-1"]
    assert (tmp_path / "damaged-step-3" / "weights").exists()


def test_a_folder_is_replaced_without_a_moment_in_which_there_is_none(tmp_path, monkeypatch):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "weights").write_text("new")
    rename, seen = Path.rename, []

    def watching(self, target):
        seen.append((tmp_path / "adapter").exists())
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watching)
    checkpoint.replace_folder(tmp_path / "new", tmp_path / "adapter")
    assert (tmp_path / "adapter" / "weights").read_text() == "new"
    assert seen == [True]
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]


def test_where_names_cannot_be_swapped_the_folder_is_replaced_in_two_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "_exchange", lambda one, other: False)
    write(tmp_path, 1, "old")
    write(tmp_path, 1, "new")
    assert (tmp_path / "step-1" / "weights").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
