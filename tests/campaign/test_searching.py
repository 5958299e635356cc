"""A search as a campaign, on toy runs in real processes: exactly so many trials, each told once, whoever is killed."""

import json
import os
import shutil
import signal
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest

from retrain import tracking
from retrain.campaign import conduct, search_plan
from retrain.campaign.manifest import Manifest
from retrain.cli.main import main
from retrain.errors import ConfigError, Incomplete, Interrupted
from retrain.store import read_metrics
from tests.campaign.processes import HERE, marked, new_mark, until
from tests.campaign_folder import make_campaign

TOML = """
[backend]
backend = "toy_backend:Toy"
options = { peak = 1e-3 }
[eval]
every = 5
[training]
max_steps = 5
save_every = 1
[logging]
tracking_uri = "none"
log_dir = "root"
[campaign]
sweeper = "optuna"
sweeper_options = { n_trials = 5, sampler = { name = "tpe", n_startup_trials = 2 } }
max_retries = 0
[campaign.space]
"training.lr" = "tag(log, interval(1e-5, 1e-1))"
algorithm = ["grpo", "maxrl"]
"""


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """Put the toy backend beside the TOML. Returns (heal, mark): heal() takes the cause of all faults away."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tracking, "start_follower", lambda directory: None)
    shutil.copy(HERE / "toy_backend.py", tmp_path)
    mark = new_mark()
    monkeypatch.setenv("TOY_MARK", mark)
    return lambda: monkeypatch.setenv("TOY_HEALTHY", "1"), mark


def nobody(directory, manifest):
    """Watch nothing."""


def planned(text=TOML, **changes):
    Path("s.toml").write_text(text)
    return search_plan.make(Path("s.toml"), [], changes=changes, sweeps=False)


def study(root="root"):
    """(state, first value, score) of every trial in the storage."""
    found = optuna.load_study(study_name="s", storage=f"sqlite:///{root}/study.db")
    return [(t.state.name, next(iter(t.params.values())), t.value) for t in found.trials]


def rates(root="root"):
    return [condition["values"]["training.lr"] for condition in Manifest.read(Path(root)).conditions]


def test_a_search_makes_so_many_trials_and_tells_each_the_score_at_its_last_step(toys):
    assert conduct.start(planned(), nobody) == Path("root")
    manifest = Manifest.read(Path("root"))
    assert (manifest.state, manifest.unasked) == ("done", 0)
    assert [run.state for run in manifest.runs] == ["done"] * 5
    assert [run.seed for run in manifest.runs] == [42] * 5  # training.seed: one run a trial unless seeds are named
    told = [read_metrics(Path("root") / run.directory)[-1]["eval/score"] for run in manifest.runs]
    assert study() == [("COMPLETE", rate, value) for rate, value in zip(rates(), told, strict=True)]
    with pytest.raises(ConfigError, match="all of its 5 runs are done") as finished:
        conduct.go_on(Path("root"), nobody)
    assert "hydra.sweeper.n_trials=10 --extend root" in str(finished.value)


def test_a_trial_has_the_mean_over_the_campaigns_seeds(toys):
    conduct.start(planned(seeds=[1, 2, 4], sweeper_options={"n_trials": 2}, max_workers=2), nobody)
    runs = Manifest.read(Path("root")).runs
    assert [run.seed for run in runs] == [1, 2, 4] * 2
    scores = [read_metrics(Path("root") / run.directory)[-1]["eval/score"] for run in runs]
    assert [value for _, _, value in study()] == [
        pytest.approx(sum(scores[:3]) / 3),
        pytest.approx(sum(scores[3:]) / 3),
    ]


def test_a_failed_run_is_a_failed_trial_which_only_a_retry_runs_again(toys):
    heal, _ = toys
    text = TOML[: TOML.index('"training.lr"')] + '"backend.options.fault" = ["none", "raise"]\n'
    text = text.replace("n_trials = 5", "n_trials = 2")
    with pytest.raises(Incomplete, match="1 of 2 runs are not done") as ended:
        conduct.start(planned(text), nobody)
    assert ended.value.exit_code == 3
    assert "retrain resume root --retry-failed" in str(ended.value)
    assert sorted((state, value is None) for state, _, value in study()) == [("COMPLETE", False), ("FAIL", True)]
    with pytest.raises(ConfigError, match="1 of its 2 runs failed"):
        conduct.go_on(Path("root"), nobody)
    heal()
    conduct.go_on(Path("root"), nobody, retry_failed=True)
    assert Manifest.read(Path("root")).state == "done"
    [failed], again = [trial for trial in study() if trial[0] == "FAIL"], study()[2:]
    assert [(state, fault) for state, fault, _ in again] == [("COMPLETE", failed[1])]


def test_a_search_that_was_stopped_goes_on_with_the_trials_that_it_would_have_made(toys, monkeypatch):
    conduct.start(planned(TOML.replace('"root"', '"whole"')), nobody)
    monkeypatch.setenv("TOY_SECONDS", "0.4")

    def interrupt(directory, manifest):
        if not sent and len(manifest.runs) == 3 and read_metrics(directory / manifest.runs[2].directory):
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    sent = []
    with pytest.raises(Interrupted, match="1 runs are missing, 2 trials have not begun"):
        conduct.start(planned(), interrupt)
    assert [state for state, _, _ in study()] == ["COMPLETE", "COMPLETE", "RUNNING"]
    before = [Path(f"root/{run.directory}/run.json").stat().st_mtime_ns for run in Manifest.read(Path("root")).runs[:2]]
    monkeypatch.setenv("TOY_SECONDS", "0")
    Path("s.toml").write_text("editing it meanwhile changes nothing")
    conduct.go_on(Path("root"), nobody)
    assert study() == study("whole")
    after = [Path(f"root/{run.directory}/run.json").stat().st_mtime_ns for run in Manifest.read(Path("root")).runs[:2]]
    assert after == before, "what is done is not touched"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_search_whose_parent_was_killed_is_completed_with_exactly_the_missing_trials(toys, monkeypatch, workers):
    _, mark = toys
    child = os.fork()
    if child == 0:
        os.environ["TOY_SECONDS"] = "0.3"
        conduct.start(planned(max_workers=workers), nobody)
        os._exit(0)
    assert until(lambda: Path("root/manifest.json").exists() and len(Manifest.read(Path("root")).runs) == 3, 60)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert until(lambda: not marked(mark), 40), "the runs die with it"
    assert Manifest.read(Path("root")).is_alive() is False
    conduct.go_on(Path("root"), nobody)
    assert [state for state, _, _ in study()] == ["COMPLETE"] * 5
    assert rates() == [rate for _, rate, _ in study()]
    for run in Manifest.read(Path("root")).runs:
        assert [line["step"] for line in read_metrics(Path("root") / run.directory)] == [1, 2, 3, 4, 5]
    if workers == 1:
        conduct.start(planned(TOML.replace('"root"', '"whole"')), nobody)
        assert study() == study("whole"), "the trials of a search that nobody killed"


def test_a_trial_that_the_storage_knows_and_the_manifest_does_not_is_taken_up(toys):
    """A parent that is killed between the two: as if the last trial had never come into the manifest."""

    def interrupt(directory, manifest):
        if not sent and len(manifest.runs) == 2:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    sent = []
    with pytest.raises(Interrupted):
        conduct.start(planned(), interrupt)
    path = Path("root/manifest.json")
    values = json.loads(path.read_text())
    asked = len(values["conditions"])
    last = values["conditions"].pop()
    values["runs"] = [run for run in values["runs"] if run["label"] != last["label"]]
    path.write_text(json.dumps(values))
    conduct.go_on(Path("root"), nobody)
    assert Manifest.read(Path("root")).conditions[asked - 1]["label"] == last["label"]
    assert [state for state, _, _ in study()] == ["COMPLETE"] * 5


def test_a_trial_that_had_ended_before_anybody_was_told_is_told_when_the_search_goes_on(toys, monkeypatch):
    with monkeypatch.context() as deaf:
        deaf.setattr("retrain.campaign.searching.Searching.tell", lambda self, manifest: None)
        conduct.start(planned(sweeper_options={"n_trials": 2}), nobody)
    assert [state for state, _, _ in study()] == ["RUNNING"] * 2
    conduct.go_on(Path("root"), nobody, plan=planned(sweeper_options={"n_trials": 3}))
    assert [state for state, _, _ in study()] == ["COMPLETE"] * 3


def test_more_trials_are_added_and_another_search_is_refused(toys):
    conduct.start(planned(sweeper_options={"n_trials": 2}), nobody)
    before = study()
    for text, said in (
        (TOML.replace("1e-1", "1e-2"), "campaign.space was"),
        (TOML.replace("every = 5", "every = 5\nexamples = 64"), "another eval.examples"),
        (TOML.replace("n_startup_trials = 2", "n_startup_trials = 3"), "sweeper_options.sampler was"),
    ):
        with pytest.raises(ConfigError, match=said):
            conduct.go_on(Path("root"), nobody, plan=planned(text))
    with pytest.raises(ConfigError, match="n_trials was 2 and is 1"):
        conduct.go_on(Path("root"), nobody, plan=planned(sweeper_options={"n_trials": 1}))
    conduct.go_on(Path("root"), nobody, plan=planned(sweeper_options={"n_trials": 4}))
    assert study()[:2] == before
    assert [state for state, _, _ in study()] == ["COMPLETE"] * 4


def test_a_campaign_of_conditions_is_not_extended_by_a_search(toys):
    make_campaign(Path("root"), {"a": ["done"]}, seeds=(1,), state="done")
    with pytest.raises(ConfigError, match="are not both searches"):
        conduct.go_on(Path("root"), nobody, plan=planned())
    assert not Manifest.read(Path("root")).is_search


@pytest.mark.skipif(find_spec("hydra_plugins.hydra_joblib_launcher") is None, reason="needs retrain[joblib]")
def test_a_launcher_of_hydra_runs_the_trials_side_by_side(toys):
    conduct.start(planned(launcher="joblib", max_workers=2, sweeper_options={"n_trials": 4}), nobody)
    assert [run.state for run in Manifest.read(Path("root")).runs] == ["done"] * 4
    assert [state for state, _, _ in study()] == ["COMPLETE"] * 4


def test_keys_that_do_not_go_together_make_a_failed_trial_without_a_run(toys):
    """Both ends of each key alone are sound: sepa may last 1 or 9 steps, and a run may have 5 or 20."""
    space = '"training.max_steps" = [5, 20]\n"sepa.delay_steps" = [0, 9]\n'
    text = TOML[: TOML.index('"training.lr"')] + space
    text = text.replace("max_steps = 5", "max_steps = 20").replace('"tpe", n_startup_trials = 2', '"grid"')
    text = text.replace("n_trials = 5", "n_trials = 4").replace(
        "[eval]", '[algorithm]\ntransform_mode = "gtpo_sepa"\n[eval]'
    )
    text = text.replace("[training]", "[sepa]\nsteps = 3\n[training]")
    with pytest.raises(Incomplete):
        conduct.start(planned(text), nobody)
    runs = Manifest.read(Path("root")).runs
    [failed] = [run for run in runs if not run.key]
    assert failed.overrides[:2] == ["training.max_steps=5", "sepa.delay_steps=9"]
    assert "lambda" in failed.exit_reason or "sepa" in failed.exit_reason
    assert not (Path("root") / failed.directory).exists()


def test_the_command_line_ranks_the_trials_and_says_how_to_find_out_whether_the_best_is_better(toys, capsys):
    conduct.start(planned(), nobody)
    assert main(["compare", "root"]) == 0
    said = capsys.readouterr().out
    best = max(study(), key=lambda trial: trial[2])
    assert said.startswith("Best of 5 trials: t")
    assert f"lr={best[1]:g}" in said.splitlines()[0]
    assert "looks better than it is" in " ".join(said.split())
    assert "retrain root/best.toml" in said
    assert main(["explain", "root/best.toml"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "10 times: 2 conditions × 5 seeds" in told
    assert "42" not in told.partition("Seeds:")[2].partition("Compares")[0]
    assert main(["status", "root"]) == 0
    assert "5 of 5 done" in capsys.readouterr().out
    page = Path("root/report.html").read_text()
    assert page.count('<tr class="done">') == 5
    assert "Value by key" in page
