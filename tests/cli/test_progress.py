"""What a run looks like while it goes: on a terminal, in a pipe, and when the reader is gone."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from retrain.cli.progress import Bar, Lines, Pace, Watch, duration, facts
from retrain.events import CheckpointSaved, Diagnosed, Evaluated, Phase, RunStarted, StepDone, Warned

METRICS = {
    "reward/mean": 0.4123,
    "reward/correct_rate": 0.375,
    "tokens/generated": 1000.0,
    "time/total": 2.0,
    "time/generate": 1.2,
    "time/score": 0.1,
    "time/train": 0.7,
}


def events(steps, first=0):
    yield Phase(name="load", detail="builtin:tiny")
    yield RunStarted(dir=Path("outputs/mini/1"), first_step=first, max_steps=steps)
    for step in range(first + 1, steps + 1):
        yield Phase(name="generate")
        yield Phase(name="train")
        yield StepDone(step=step, max_steps=steps, metrics=METRICS)
    yield CheckpointSaved(path=Path("outputs/mini/1/checkpoints/step-1"))


def lines(steps, seconds_a_step, first=0):
    stream, now = io.StringIO(), [0.0]

    def clock():
        now[0] += seconds_a_step
        return now[0]

    with Watch(Lines(stream, clock)) as watch:
        for event in events(steps, first):
            watch.emit(event)
    return stream.getvalue().splitlines()


def test_a_pipe_gets_one_plain_line_a_slow_step():
    out = lines(4, seconds_a_step=5.0)
    assert out[0] == "loading builtin:tiny"
    assert out[1] == "run outputs/mini/1: 4 steps"
    assert [line.split(" · ")[0] for line in out[2:]] == ["step 1/4", "step 2/4", "step 3/4", "step 4/4"]
    assert "\x1b" not in "".join(out)


def test_a_step_line_has_reward_rate_speed_shares_and_eta():
    assert lines(4, seconds_a_step=5.0)[2] == (
        "step 1/4 · reward 0.412 · correct 38% · 500 tokens/s · generate 60% score 5% train 35% · 0:06 left"
    )


def test_fast_steps_are_thinned_out_but_the_first_and_the_last_are_shown():
    shown = [line.split(" · ")[0] for line in lines(100, seconds_a_step=0.1) if line.startswith("step")]
    assert shown[0] == "step 1/100"
    assert shown[-1] == "step 100/100"
    assert 4 <= len(shown) <= 7  # ten seconds in all, a line every two


def test_a_resumed_run_says_where_it_goes_on():
    assert "run outputs/mini/1: steps 3 to 5" in lines(5, seconds_a_step=5.0, first=2)


def terminal(width=100, **options):
    stream = io.StringIO()
    console = Console(force_terminal=True, file=stream, width=width, **options)
    with Watch(Bar(console)) as watch:
        for event in events(3):
            watch.emit(event)
        watch.emit(Warned(message="completions are cut [50%]; raise --max-tokens"))
    return stream.getvalue()


def test_a_terminal_gets_a_bar_with_phase_steps_and_facts():
    out = terminal()
    assert "run outputs/mini/1: 3 steps" in out
    assert "3/3" in out
    assert "train" in out
    assert "reward 0.412 · correct 38% · 500 tokens/s" in out
    assert "\x1b[?25h" in out  # the cursor is given back


def test_a_warning_is_shown_as_it_is_not_as_markup():
    assert "warning: completions are cut [50%]; raise --max-tokens" in terminal()


SCORED = Evaluated(step=50, metrics={"eval/score": 0.6123, "eval/score_se": 0.0305, "eval/gap": 0.02})
BROKEN = Diagnosed(
    rule="truncation",
    step=7,
    message="70% of the completions are cut [at training.max_tokens]",
    hint="raise training.max_tokens",
    evidence={"completion/truncated_rate": 0.7},
)


def both_views(*told):
    """What a pipe and a terminal show of a run with some events more."""
    pipe, terminal = io.StringIO(), io.StringIO()
    for view in (Lines(pipe), Bar(Console(force_terminal=True, file=terminal, width=100, no_color=True))):
        with Watch(view) as watch:
            for event in [*events(1), *told]:
                watch.emit(event)
    return pipe.getvalue(), terminal.getvalue()


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (SCORED, "step 50: held-out 0.612 ± 0.030\n"),
        (Evaluated(step=0, metrics={"eval/score": 0.5}), "step 0: held-out 0.500\n"),
        (Evaluated(step=0, metrics={"eval/unscorable": 1.0}), "step 0: nothing could be scored\n"),
        (
            BROKEN,
            "problem at step 7: 70% of the completions are cut [at training.max_tokens]; raise training.max_tokens\n",
        ),
    ],
)
def test_both_views_tell_held_out_scores_and_problems(event, line):
    pipe, terminal = both_views(event)
    assert line in pipe
    assert line in terminal


def test_a_terminal_says_that_it_evaluates():
    assert "evaluate" in both_views(Phase(name="evaluate"))[1]
    assert "evaluate" not in both_views()[1]


def test_a_line_without_a_step_does_not_change_the_pace():
    pace = Pace()
    pace.add(METRICS)
    pace.add({"eval/score": 0.5, "time/evaluate": 3.0})
    assert pace.remaining(3) == pytest.approx(6.0)


def test_no_color_means_no_colours(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in terminal()
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b[3" in terminal(color_system="standard")


def test_lines_on_a_narrow_terminal_stay_inside_it():
    width = 40
    last = terminal(width=width, no_color=True).split("\n")
    assert all(len(line) <= width for line in last if line.strip().startswith("reward"))


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_reader_that_goes_away_does_not_end_the_run():
    watch = Watch(Lines(Gone()))
    for event in events(3):
        watch.emit(event)
    watch.close()
    assert watch.dir == Path("outputs/mini/1")


def test_time_shares_and_speed_are_of_the_last_ten_steps():
    pace = Pace()
    for _ in range(50):
        pace.add({"time/total": 100.0, "time/generate": 100.0, "tokens/generated": 1.0})
    for _ in range(10):
        pace.add(METRICS)
    assert pace.shares()["generate"] == pytest.approx(0.6)
    assert pace.tokens_per_second() == pytest.approx(500.0)
    assert pace.remaining(3) == pytest.approx(6.0)


def test_a_step_without_times_or_rewards_still_has_a_line():
    assert facts({}, Pace()) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (42, "0:42"), (3599.6, "1:00:00"), (3725, "1:02:05")])
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text
