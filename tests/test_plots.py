"""Figures: which are drawn, and that their numbers are those of the metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from matplotlib.figure import Figure

from retrain import plots

if TYPE_CHECKING:
    from pathlib import Path


def line(step: int) -> dict[str, float]:
    reward = {"reward/mean": step / 50, "reward/correct_rate": step / 40, "entropy/mean": 1 / step}
    length = {"completion/length_mean": 20.0, "completion/length_max": 30.0}
    seconds = {"time/generate": 1.0, "time/score": 0.5, "time/train": 2.0, "time/total": 4.0}
    return {"step": step, "time": 1e9 + step, **reward, **length, **seconds}


def test_every_figure_is_a_png_and_nothing_else_is_left(tmp_path: Path):
    drawn = plots.draw([line(step) for step in range(1, 41)], tmp_path / "plots", title="a run")
    assert [path.name for path in drawn] == ["reward.png", "length.png", "entropy.png", "time.png"]
    assert sorted(tmp_path.rglob("*.*")) == sorted(drawn)
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000 for path in drawn)


def test_a_metric_that_was_never_measured_has_no_figure(tmp_path: Path):
    lines = [
        {key: value for key, value in line(step).items() if not key.startswith(("entropy", "time/"))} for step in (1, 2)
    ]
    assert [path.name for path in plots.draw(lines, tmp_path)] == ["reward.png", "length.png"]


def test_one_step_and_holes_are_enough(tmp_path: Path):
    broken = {**line(2), "reward/mean": float("nan"), "entropy/mean": float("inf"), "time/total": 0.0}
    assert len(plots.draw([line(1), broken], tmp_path)) == 4


def test_the_running_mean_is_centred_and_keeps_a_straight_line_straight():
    """The mean of an arithmetic sequence over a symmetric window is its middle value."""
    values = [3.0 * index for index in range(20)]
    assert plots.running_mean(values, 5)[2:-2] == pytest.approx(values[2:-2])
    assert plots.running_mean(values, 5)[0] == pytest.approx(3.0)  # of 0, 3, 6


def test_time_shares_fill_each_step_and_count_what_no_phase_accounts_for():
    axes = Figure().add_subplot()
    assert plots._time(axes, [line(step) for step in range(1, 6)])
    heights = [[bar.get_height() for bar in group] for group in axes.containers]
    assert heights == [pytest.approx([share] * 5) for share in (0.25, 0.125, 0.5, 0.125)]
    assert axes.get_legend_handles_labels()[1] == ["generate 25%", "score 12%", "train 50%", "other 12%"]


def test_a_long_run_has_bars_that_can_be_seen():
    axes = Figure().add_subplot()
    plots._time(axes, [line(step) for step in range(1, 1001)])
    bars = list(axes.containers[0])
    assert len(bars) <= plots.MAX_BARS
    assert bars[0].get_x() == pytest.approx(0.5)
    assert bars[-1].get_x() + bars[-1].get_width() >= 999.5
