"""A run that is asked to stop saves its last finished step, wherever it is; going on gives the uninterrupted run."""

import os
import signal
from pathlib import Path

import pytest
import torch

from retrain import checkpoint, references, run
from retrain.config import compose
from retrain.errors import ConfigError, Interrupted
from retrain.events import CheckpointSaved, Phase, StepDone, Warned
from retrain.store import RunLock, RunRecord, read_metrics
from tests.e2e.conftest import outcome

RARELY = ("--save-every", "0", "--lora-dropout", "0.2", "--transform-mode", "gtpo_sepa", "--sepa-schedule", "auto")
EVALUATED = ("--eval-every", "2", "--eval-examples", "12")


def sends(number, when):
    """Watch a run; send this process a signal at the first event for which `when(event, steps done)` holds."""
    done, sent = 0, False

    def watch(event):
        nonlocal done, sent
        done = event.step if isinstance(event, StepDone) else done
        if not sent and when(event, done):
            sent = True
            os.kill(os.getpid(), number)

    return watch


def phase(name, after):
    return lambda event, done: isinstance(event, Phase) and event.name == name and done == after


def stopped(train, *arguments, emit=None, number=signal.SIGTERM):
    with pytest.raises(Interrupted, match=f"stopped by {signal.Signals(number).name}"):
        train(*arguments, "--log-dir", "run", emit=emit or (lambda event: None))
    record = RunRecord.read(Path("run"))
    assert (record.state, record.ended is not None) == ("interrupted", True)
    return Path("run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
@pytest.mark.parametrize("where", ["generate", "score"])
def test_in_a_rollout_the_step_before_it_is_saved(train, where, number):
    part = stopped(train, *RARELY, emit=sends(number, phase(where, after=2)), number=number)
    assert [folder.name for folder in checkpoint.complete(part / "checkpoints")] == ["step-2"]
    assert outcome(run.resume(part).dir) == outcome(train(*RARELY))


def test_with_two_passes_a_stop_in_the_second_one_goes_on_in_it(train):
    twice = ("--save-every", "0", "--num-iterations", "2", "--max-steps", "6")
    part = stopped(train, *twice, emit=sends(signal.SIGTERM, lambda event, done: done == 3))
    assert outcome(run.resume(part).dir) == outcome(train(*twice))


def test_in_the_backward_pass_the_step_before_it_is_saved(train, monkeypatch):
    backward, calls = torch.Tensor.backward, []

    def stop_in_the_fifth(self, *arguments, **named):
        calls.append(self)
        if len(calls) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return backward(self, *arguments, **named)

    monkeypatch.setattr(torch.Tensor, "backward", stop_in_the_fifth)
    part = stopped(train, *RARELY, "--micro-batch-size", "8")  # two micro-batches a step: within the third
    assert [folder.name for folder in checkpoint.complete(part / "checkpoints")] == ["step-2"]
    assert outcome(run.resume(part).dir) == outcome(train(*RARELY, "--micro-batch-size", "8"))


def test_in_the_optimiser_the_step_is_finished_first(train, monkeypatch):
    step, calls = torch.optim.AdamW.step, []

    def stop_in_the_second(self, *arguments, **named):
        calls.append(self)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", stop_in_the_second)
    part = stopped(train, *RARELY)
    assert [folder.name for folder in checkpoint.complete(part / "checkpoints")] == ["step-2"]
    assert [line["step"] for line in read_metrics(part)] == [1, 2]
    assert outcome(run.resume(part).dir) == outcome(train(*RARELY))


@pytest.mark.parametrize("after", [1, 3])  # of the evaluations after steps 2 and 4, the last
def test_in_an_evaluation_the_step_is_kept_and_the_evaluation_repeated(train, after):
    part = stopped(train, *RARELY, *EVALUATED, emit=sends(signal.SIGTERM, phase("evaluate", after=after)))
    assert [folder.name for folder in checkpoint.complete(part / "checkpoints")] == [f"step-{after + 1}"]
    assert read_metrics(part)[-1]["step"] == after
    whole = train(*RARELY, *EVALUATED)
    assert outcome(run.resume(part).dir) == outcome(whole)
    assert RunRecord.read(part).best == RunRecord.read(whole).best


def test_before_the_first_step_there_is_nothing_to_save_and_it_starts_again(train):
    part = stopped(train, *RARELY, *EVALUATED, emit=sends(signal.SIGTERM, phase("evaluate", after=0)))
    assert checkpoint.complete(part / "checkpoints") == []
    assert outcome(run.resume(part).dir) == outcome(train(*RARELY, *EVALUATED))


def test_while_loading_nothing_is_written(train, tmp_path):
    with pytest.raises(Interrupted):
        train(emit=sends(signal.SIGTERM, phase("load", after=0)))
    assert not (tmp_path / "outputs").exists()


def test_sigusr1_saves_and_goes_on(train):
    saved = []

    def watch(event):
        if isinstance(event, CheckpointSaved):
            saved.append(event.path.name)

    ask = sends(signal.SIGUSR1, phase("score", after=1))
    directory = train(*RARELY, emit=lambda event: (watch(event), ask(event)))
    assert saved == ["step-2", "step-4"]
    assert RunRecord.read(directory).state == "done"


def test_a_second_ctrl_c_ends_at_once_and_leaves_no_half_checkpoint(train, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "replace_folder", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            train(*RARELY, "--log-dir", "run", emit=sends(signal.SIGINT, phase("generate", after=2)))
    assert RunRecord.read(Path("run")).state == "interrupted"
    assert list(Path("run/checkpoints").iterdir()) == []


def test_save_minutes_saves_between_the_planned_ones(train):
    directory = train("--save-every", "0", "--save-minutes", "1e-9")
    assert len(checkpoint.complete(directory / "checkpoints")) == 4


# --- what to go on with ---------------------------------------------------------------------------------------------


def go_on(*arguments):
    said = []
    done = run.run(compose(Path("tiny.toml"), arguments), emit=said.append).dir
    return done, [event.message for event in said if isinstance(event, Warned)]


def test_a_finished_run_can_be_made_longer_and_equals_one_that_was_that_long(train):
    short = train("--log-dir", "short")
    done, said = go_on("--log-dir", "short", "--max-steps", "7", "--resume", "short")
    assert done == short
    assert said == []
    assert outcome(done) == outcome(train("--max-steps", "7"))
    assert compose(done / "config.toml").config.training.max_steps == 7


def test_a_longer_run_whose_schedule_depends_on_the_length_says_so(train):
    schedules = ("--lr-schedule", "cosine", "--transform-mode", "gtpo_sepa", "--sepa-correct-rate-gate", "0")
    train("--log-dir", "short", *schedules)
    _, said = go_on("--max-steps", "6", "--resume", "short", *schedules)
    assert len(said) == 1
    assert "the learning rate (cosine) and sepa's lambda followed the old length up to step 4" in said[0]


def contents(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_changed_config_is_refused_with_every_difference_named(train):
    part = stopped(train, *RARELY, emit=sends(signal.SIGTERM, phase("score", after=1)))
    before = contents(part)
    with pytest.raises(ConfigError) as refused:
        go_on(*RARELY, "--resume", "run", "--lr", "1e-3", "--gtpo-beta", "0.3", "--log-completions", "1")
    assert [problem.key for problem in refused.value.problems] == ["gtpo.beta", "training.lr"]
    assert "but the run was started with 0.002" in str(refused.value)
    assert contents(part) == before


def test_a_run_cannot_be_made_shorter_than_it_is(train):
    part = stopped(train, emit=sends(signal.SIGTERM, phase("score", after=2)))
    with pytest.raises(ConfigError, match="has done 2 steps already"):
        run.resume(part, compose(part / "config.toml", ["--max-steps", "1"]))


def test_auto_goes_on_with_the_newest_unfinished_run_or_starts_afresh_and_says_which(train):
    with pytest.raises(Interrupted):
        train(*RARELY, "--seed", "-1", emit=sends(signal.SIGTERM, phase("score", after=1)))
    (part,) = references.runs_under(Path("outputs"))
    done, said = go_on(*RARELY, "--seed", "-1", "--resume", "auto")
    assert done.resolve() == part.resolve()
    assert said == [f"going on with {part}"]
    again, said = go_on(*RARELY, "--resume", "auto")
    assert again.resolve() != part.resolve()
    assert said == ["no unfinished run of tiny.toml: a fresh start"]


def test_a_run_that_is_held_by_another_process_is_refused_and_its_holder_named(train):
    part = stopped(train, *RARELY, emit=sends(signal.SIGTERM, phase("score", after=1)))
    lock = RunLock.take(part)
    with pytest.raises(ConfigError, match=f"is being trained by process {os.getpid()} on "):
        run.resume(part)
    lock.release()
    assert RunRecord.read(run.resume(part).dir).state == "done"


def test_other_data_under_the_same_name_are_refused(train):
    Path("sums.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n{"question": "1+2=", "answer": "3"}\n')
    data = ("--data-source", "jsonl", "--data-path", "sums.jsonl", "--data-name", "", "--reward-type", "random")
    part = stopped(train, *data, emit=sends(signal.SIGTERM, phase("score", after=1)))
    Path("sums.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n')
    with pytest.raises(ConfigError, match="have changed since the run was started: 2 rows then, 1 now"):
        run.resume(part)


def test_training_is_the_same_with_and_without_evaluation(train):
    """Evaluated on problems of another split, so that both train on the same ones."""

    def trained(*arguments):
        lines, weights, _ = outcome(train(*arguments))
        return [{k: v for k, v in line.items() if not k.startswith("eval/")} for line in lines if line["step"]], weights

    other = ("--eval-source", "arithmetic", "--eval-split", "test", "--eval-examples", "12")
    assert trained(*other, "--eval-every", "1") == trained()
