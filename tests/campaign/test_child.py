"""The real child of a campaign, on a backend without a model that lies beside the campaign's TOML."""

import time

from retrain.campaign.supervisor import LOG, Order, supervise
from retrain.store import RunLock, RunRecord, read_metrics

BACKEND = """
import os, signal
from retrain import checkpoint
from retrain.events import StepDone
from retrain.capabilities import Capabilities
from retrain.types import RunResult

class Toy:
    capabilities = Capabilities(parts=frozenset({"data"}))
    num_trainable, max_positions = 1, None

    @classmethod
    def load(cls, config, tokenizer):
        print("loaded by a plugin")
        return cls()

    def train(self, job, store, *, resume_from):
        first = checkpoint.step_of(resume_from) if resume_from else 0
        for step in range(first + 1, job.config.training.max_steps + 1):
            metrics = {"reward/mean": step / 10}
            store.append_metrics(step, metrics)
            job.emit(StepDone(step=step, max_steps=job.config.training.max_steps, metrics=metrics))
            if step == 2 and not (store.dir / "hit").exists():
                (store.dir / "hit").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        artifact = store.dir / "adapter"
        artifact.mkdir()
        return RunResult(dir=store.dir, steps=step, artifact=artifact)
"""
CONFIG = """
[backend]
backend = "toy_backend:Toy"
[model]
model = "builtin:tiny"
[data]
source = "arithmetic"
[eval]
every = 0
[training]
max_steps = 3
max_tokens = 8
[logging]
tracking_uri = "sqlite:///never.db"
run_name = "toy_s42"
"""


def test_a_run_is_begun_and_gone_on_with_in_exactly_its_directory_without_a_follower(tmp_path):
    places, run = tmp_path / "places", tmp_path / "campaign" / "runs" / "toy_s42"
    places.mkdir()
    run.mkdir(parents=True)
    (places / "toy_backend.py").write_text(BACKEND)
    (run / "config.toml").write_text(CONFIG)
    RunLock.take(run).release()  # left by one that was killed before it wrote run.json
    order = Order(
        directory=str(run),
        places=(str(places),),
        cwd=str(tmp_path),
        timeout=120,
        stall_timeout=60,
        max_retries=1,
        source=str(places / "abl.toml"),
    )
    found = supervise(order)
    said = (run / LOG).read_text()
    assert (found.state, found.exit_reason, found.attempts, found.code) == ("done", "", 2, 0), said
    record = RunRecord.read(run)
    assert (record.state, record.name, record.source) == ("done", "toy_s42", order.source)
    assert record.dataset["name"] == "arithmetic", "the data that the backend asked for"
    assert [line["step"] for line in read_metrics(run)] == [1, 2, 3]
    assert "attempt 1 failed: killed by SIGKILL" in said
    assert said.count("loaded by a plugin\nsteps 1 to 3\nstep 1/3: reward/mean 0.1\n") == 2
    assert [path.name for path in run.parent.iterdir()] == ["toy_s42"]
    assert not (run / "tracking").exists()
    assert not (tmp_path / "never.db").exists()

    begin = time.monotonic()
    again = supervise(order)
    assert (again.state, again.attempts) == ("done", 1)
    assert time.monotonic() - begin < 10, "nothing heavy is imported for a run that is done"
    assert RunRecord.read(run) == record


def test_a_wrong_config_is_named_and_not_tried_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("[training]\nlr = 'fast'\n")
    order = Order(
        directory=str(tmp_path / "run"), places=(), cwd=str(tmp_path), timeout=60, stall_timeout=60, max_retries=3
    )
    found = supervise(order)
    assert (found.state, found.code, found.attempts) == ("failed", 2, 1)
    assert found.exit_reason.startswith("run/config.toml:2: training.lr = ")
    assert not (tmp_path / "run" / "run.json").exists()
