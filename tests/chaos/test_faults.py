"""Checkpoints and the run's files with a fault at every single call that writes them."""

from __future__ import annotations

import itertools
import json
import shutil
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from retrain import checkpoint
from retrain.config.schema import RunConfig
from retrain.errors import RetrainError
from retrain.store import RunLock, RunRecord, RunStore, read_metrics
from tests.chaos.faults import DAMAGES, every_fault, hurt, with_fault

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"adapter/weights.bin": b"w" * 5000, "optimizer.pt": b"o" * 9000, "state.json": b"{}"}


@pytest.fixture
def fresh(tmp_path: Path):
    """fresh(): a new folder each time."""
    numbers = itertools.count()
    return lambda: tmp_path / str(next(numbers))


def write_checkpoint(checkpoints: Path, step: int, content: bytes = b"") -> None:
    final = checkpoints / f"step-{step}"
    with checkpoint.writing(final, step=step) as folder:
        for name, data in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(data + content)


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def content(folder: Path) -> bytes:
    """What was appended to each of the checkpoint's files."""
    (found,) = {(folder / name).read_bytes()[len(data) :] for name, data in FILES.items()}
    return found


def test_a_fault_at_any_call_of_a_new_checkpoint_leaves_the_old_or_the_new_one(fresh):
    def prepare() -> Path:
        place = fresh()
        write_checkpoint(place, 1)
        return place

    def save(place: Path) -> None:
        write_checkpoint(place, 2, b"new")
        checkpoint.prune(place, 1)

    hit = Counter()
    for place, outcome in every_fault(prepare, save):
        found, complaints = checkpoint.newest_sound(place)
        assert found is not None, outcome
        assert not complaints, (outcome, complaints)
        assert content(found) == {1: b"", 2: b"new"}[checkpoint.step_of(found)], outcome
        assert outcome.ended != "done" or checkpoint.step_of(found) == 2, f"{outcome}, and there is no checkpoint"
        save(place)  # the run goes on, and comes to the same step
        assert names(place) == {"step-2"}, f"{outcome} left something behind"
        assert checkpoint.verify(place / "step-2") == ""
        hit[outcome.call.partition("(")[0]] += 1
    assert hit.keys() >= {"open", "write", "fsync", "rename", "mkdir"}, hit


def test_a_fault_while_a_checkpoint_is_written_over_leaves_one_of_the_two(fresh):
    def prepare() -> Path:
        place = fresh()
        write_checkpoint(place, 1, b"old")
        return place

    for place, outcome in every_fault(prepare, lambda place: write_checkpoint(place, 1, b"new")):
        found, complaints = checkpoint.newest_sound(place)
        assert found is not None, outcome
        assert not complaints, (outcome, complaints)
        assert content(found) in ({b"new"} if outcome.ended == "done" else {b"old", b"new"}), outcome


def test_a_checkpoint_that_cannot_be_written_is_said_with_its_reason(fresh):
    def prepare() -> Path:
        place = fresh()
        place.mkdir()
        return place

    for _, outcome in every_fault(prepare, lambda place: write_checkpoint(place, 2)):
        assert outcome.ended in {"done", "died"} or "could not be written" in outcome.ended, outcome


def record() -> RunRecord:
    return RunRecord(name="run", seed=1, max_steps=9, started=1.0)


def opened(place: Path) -> RunStore:
    return RunStore(place, RunConfig(), record(), RunLock.take(place))


@pytest.fixture
def with_lines(fresh):
    """with_lines(3): a new run directory with the lines of 3 steps."""

    def prepare(steps: int) -> Path:
        place = fresh()
        place.mkdir()
        held = opened(place)
        for step in range(1, steps + 1):
            held.append_metrics(step, {"reward/mean": step / 10, "reward/é": 1.0})
        held._lock.release()
        return place

    return prepare


def steps(place: Path) -> list[int]:
    return [int(line["step"]) for line in read_metrics(place)]


def test_a_fault_at_any_call_of_a_step_leaves_whole_lines_and_a_readable_record(with_lines):
    hit = Counter()
    for place, outcome in every_fault(
        lambda: with_lines(2), lambda place: opened(place).append_metrics(3, {"reward/mean": 0.3, "reward/é": 1.0})
    ):
        assert steps(place) in ([1, 2], [1, 2, 3]), outcome
        assert outcome.ended != "done" or steps(place) == [1, 2, 3], outcome
        assert RunRecord.read(place).state == "running"
        held = opened(place)
        held.cut_back(2)
        held.append_metrics(3, {"reward/mean": 0.3})
        held._lock.release()
        assert steps(place) == [1, 2, 3], outcome
        hit[outcome.call.partition("(")[0]] += 1
    assert hit.keys() >= {"open", "write", "fsync", "replace"}, hit


def test_a_fault_at_any_call_of_cutting_back_leaves_all_lines_or_those_that_are_kept(with_lines):
    for place, outcome in every_fault(lambda: with_lines(4), lambda place: opened(place).cut_back(2)):
        assert steps(place) in ([1, 2, 3, 4], [1, 2]), outcome
        assert outcome.ended != "done" or steps(place) == [1, 2], outcome


def test_a_fault_at_any_call_of_the_outcome_leaves_a_record_that_says_running_or_done(with_lines):
    def end(place: Path) -> None:
        with opened(place).writing_outcome():
            pass

    for place, outcome in every_fault(lambda: with_lines(1), end):
        allowed = {"done"} if outcome.ended == "done" else {"done", "running"}
        assert RunRecord.read(place).state in allowed, outcome


def test_a_line_torn_at_any_byte_is_no_line(with_lines):
    place = with_lines(3)
    path = place / "metrics.jsonl"
    whole = path.read_bytes()
    second, third = (index for index, byte in enumerate(whole[:-1]) if byte == ord("\n"))
    assert second < third
    for length in range(third + 1, len(whole)):
        path.write_bytes(whole[:length])
        assert steps(place) == [1, 2], f"torn after {whole[third + 1 : length]!r}"


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_damaged_file_is_named_and_the_checkpoint_before_is_used(fresh, damage: str):
    place = fresh()
    write_checkpoint(place, 1)
    write_checkpoint(place, 2)
    for name in [*FILES, checkpoint.MANIFEST]:
        copy = fresh()
        shutil.copytree(place, copy)
        hurt(copy / "step-2" / name, damage)
        found, (complaint,) = checkpoint.newest_sound(copy)
        assert found == copy / "step-1"
        assert "step-2" in complaint, complaint
        assert name in complaint, complaint


def test_every_single_flipped_bit_of_a_manifest_is_noticed(fresh):
    place = fresh()
    write_checkpoint(place, 1)
    manifest = place / "step-1" / checkpoint.MANIFEST
    whole = manifest.read_bytes()
    for position, bit in itertools.product(range(len(whole)), range(8)):
        manifest.write_bytes(whole[:position] + bytes([whole[position] ^ (1 << bit)]) + whole[position + 1 :])
        try:
            sound = checkpoint.verify(place / "step-1") == ""
        except RetrainError as error:
            raise AssertionError(f"bit {bit} of byte {position}: taken for {error}") from error
        assert not sound or same(manifest, whole), f"bit {bit} of byte {position} was not noticed"


def same(manifest: Path, whole: bytes) -> bool:
    """Whether the JSON still says the same: a space turned into another white space does no harm."""
    return json.loads(manifest.read_bytes()) == json.loads(whole)


def test_the_harness_itself_sees_a_write_that_is_not_made_safely(tmp_path: Path):
    """Overwriting in place loses the old content at the first fault: were this not seen, nothing above would be."""
    path = tmp_path / "file"
    path.write_text("old")
    outcome = with_fault(lambda: path.write_text("new content"), "half", 2)
    assert outcome.call.startswith("write"), outcome
    assert path.read_text() == "new c"
    assert with_fault(lambda: path.write_text("x"), "error", 1).ended == "OSError 28"
