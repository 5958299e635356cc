"""What goes wrong in a run is named, kept, and mended where it can be."""

from pathlib import Path

import pytest
import torch

from retrain import checkpoint, run
from retrain.cli.main import main
from retrain.config import compose
from retrain.errors import RunError
from retrain.events import Diagnosed
from retrain.store import RunRecord, read_metrics
from retrain.trainer import Trainer
from tests.e2e.conftest import outcome


def with_loss(patched, change):
    """Let `change(loss, rows, call number)` have its way with every micro-batch's loss."""
    compute, calls = Trainer.compute_loss, []

    def changed(self, model, inputs, **named):
        calls.append(len(inputs["completion_ids"]))
        return change(compute(self, model, inputs, **named), calls[-1], len(calls))

    patched.setattr(Trainer, "compute_loss", changed)
    return calls


def test_a_loss_that_is_not_finite_stops_the_run_and_its_batch_is_kept(train, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        with_loss(patched, lambda loss, _, call: loss * float("nan") if call == 3 else loss)
        with pytest.raises(RunError, match="step 3: the loss is nan") as stopped:
            train("--micro-batch-size", "64", "--log-dir", "run")
    assert "retrain debug-batch run/debug/step-3.pt" in str(stopped.value)
    assert [line["step"] for line in read_metrics(Path("run"))] == [1, 2]
    assert RunRecord.read(Path("run")).state == "failed"
    kept = torch.load("run/debug/step-3.pt", weights_only=True)
    assert kept["inputs"]["completion_ids"].shape[0] == 16
    assert main(["debug-batch", "run/debug/step-3.pt"]) == 0
    assert "finite" in capsys.readouterr().out
    assert outcome(run.resume(Path("run")).dir) == outcome(train("--micro-batch-size", "64"))


def test_weights_that_sample_nothing_finite_stop_the_run_and_are_kept(train):
    with pytest.raises(RunError, match="not finite") as stopped:
        train("--lr", "1e37", "--log-dir", "run")
    assert "retrain debug-batch run/debug/step-2.pt" in str(stopped.value)
    assert main(["debug-batch", "run/debug/step-2.pt"]) == 0


def short_of_memory(limit):
    def change(loss, rows, _):
        if rows > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss

    return change


def test_out_of_memory_halves_the_micro_batch_and_the_checkpoint_remembers_it(train, monkeypatch):
    settings = ("--micro-batch-size", "16", "--log-dir")
    events = []
    with monkeypatch.context() as patched:
        calls = with_loss(patched, short_of_memory(5))
        directory = train(*settings, "run", emit=events.append)
        assert max(calls[2:]) <= 5, "16, then 8, then never again more than 4"
        assert [problem["evidence"] for problem in RunRecord.read(directory).problems[:2]] == [
            {"before": 16.0, "after": 8.0},
            {"before": 8.0, "after": 4.0},
        ]
    halved = [event for event in events if isinstance(event, Diagnosed) and event.rule == "out_of_memory"]
    assert [event.step for event in halved] == [0, 0]
    plain = train(*settings, "plain")
    for line, other in zip(read_metrics(directory), read_metrics(plain), strict=True):
        assert line["policy/loss"] == pytest.approx(other["policy/loss"], abs=1e-6)
        assert line["policy/grad_norm"] == pytest.approx(other["policy/grad_norm"], rel=1e-5)
    checkpoint.set_aside(directory / "checkpoints", after=1)
    (directory / "run.json").write_text((directory / "run.json").read_text().replace('"done"', '"interrupted"'))
    expected = outcome(directory)
    with monkeypatch.context() as patched:
        calls = with_loss(patched, short_of_memory(5))
        assert outcome(run.resume(directory).dir) == expected
        assert max(calls) <= 4


def test_on_problem_stop_saves_the_step_and_stops_and_warn_goes_on_from_there(train):
    cut = ("--max-tokens", "2", "--save-every", "0", "--health-max-duplicate-rate", "1.0")
    with pytest.raises(RunError, match="truncation"):
        train(*cut, "--health-on-problem", "stop", "--log-dir", "run")
    record = RunRecord.read(Path("run"))
    assert record.state == "failed"
    assert [problem["rule"] for problem in record.problems] == ["truncation"]
    (saved,) = checkpoint.complete(Path("run/checkpoints"))
    assert checkpoint.step_of(saved) == record.steps_done < 4
    run.resume(Path("run"), compose(Path("run/config.toml"), ["--health-on-problem", "warn"]))
    assert outcome(Path("run")) == outcome(train(*cut))
