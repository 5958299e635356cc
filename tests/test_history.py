"""How long a run takes is known from earlier runs of its shape on this machine, and else not at all."""

import pytest

from retrain import history
from retrain.config import compose
from tests.campaign_folder import make_run


@pytest.fixture
def composed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return compose(None, ["model=tiny", "data=arithmetic", "training.max_steps=40"])


def finished(folder, composed, **changes):
    """A run of 40 steps of 10 s, with 25 s around them."""
    make_run(folder, state="done", steps=40, max_steps=40, **changes)
    (folder / "config.toml").write_text(composed.to_toml())


def test_a_run_takes_its_steps_and_what_is_around_them(tmp_path, composed):
    finished(tmp_path / "outputs" / "mini" / "1", composed)
    [pace] = history.paces([composed.config])
    assert pace.seconds_per_step == pytest.approx(10)
    assert pace.seconds_around == pytest.approx(25, abs=1)  # 30 s before the first line, 5 s after the last
    assert pace.seconds(100) == pytest.approx(1025, abs=1)
    assert pace.runs == 1


def test_only_a_key_that_decides_makes_another_shape(tmp_path, composed):
    finished(tmp_path / "outputs" / "mini" / "1", composed)
    longer = compose(None, ["model=tiny", "data=arithmetic", "training.max_steps=80", "algorithm=maxrl"]).config
    larger = compose(None, ["model=tiny", "data=arithmetic", "training.group_size=4"]).config
    same, other = history.paces([longer, larger])
    assert same is not None
    assert other is None


@pytest.mark.parametrize(
    "changes", [{"host": "elsewhere"}, {"state": "failed", "ended": 2e9}, {"ended": None}], ids=str
)
def test_runs_of_other_machines_and_unfinished_ones_tell_nothing(tmp_path, composed, changes):
    finished(tmp_path / "outputs" / "mini" / "1", composed)
    make_run(tmp_path / "outputs" / "mini" / "1", **{"state": "done", "steps": 40, **changes})
    assert history.paces([composed.config]) == [None]


def test_a_damaged_run_is_passed_over(tmp_path, composed):
    for number in "12":
        finished(tmp_path / "outputs" / "mini" / number, composed)
    (tmp_path / "outputs" / "mini" / "1" / "config.toml").write_text("[")
    assert history.paces([composed.config])[0].runs == 1
