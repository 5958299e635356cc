"""A campaign of real processes behind the command line, and its one follower, which is killed in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from retrain import tracking
from retrain.store import RunRecord, read_metrics
from retrain.tracking.watermark import Sent
from tests.tracking.training import wait_until

if TYPE_CHECKING:
    from tests.tracking.training import Database

TOY = Path(__file__).parents[1] / "campaign" / "toy_backend.py"
STEPS = 60
TOML = """
[backend]
backend = "toy_backend:Toy"
options = {{ seconds = 0.7, price = 1.0 }}
[training]
max_steps = {steps}
save_every = 10
[logging]
tracking_uri = "{uri}"
log_dir = "root"
[campaign]
seeds = [1, 2, 3, 4]
max_workers = 8
[[campaign.conditions]]
name = "a"
[[campaign.conditions]]
name = "b"
lr = 2e-5
"""


def followers(root: Path) -> list[int]:
    """The processes that mirror a campaign."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"retrain.tracking" in words and str(root).encode() in words:
            found.append(int(folder.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")
def test_eight_runs_at_once_are_sent_exactly_once_though_their_follower_is_killed(
    tmp_path: Path, store: str, database: Database
):
    shutil.copy(TOY, tmp_path)
    (tmp_path / "abl.toml").write_text(TOML.format(steps=STEPS, uri=store))
    root = tmp_path / "root"
    runs = [root / "runs" / f"{label}_s{seed}" for label in "ab" for seed in (1, 2, 3, 4)]
    command = [sys.executable, "-m", "retrain.cli.main", "abl.toml"]
    campaign = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: sum(Sent.load(run, "mlflow").step for run in runs if run.exists()) > 8, 120)
    (follower,) = followers(root)
    assert campaign.poll() is None, "it was not killed in the middle"
    os.kill(follower, signal.SIGKILL)
    _, said = campaign.communicate(timeout=200)
    assert campaign.returncode == 0, said
    assert tracking.wait_for_follower(root, 120)
    for run in runs:
        assert RunRecord.read(run).state == "done"
        lines = read_metrics(run)
        assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
        (sent,) = database.runs(run)
        assert database.points(sent) == Counter(
            (key, int(line["step"]), int(line["time"] * 1000), line[key])
            for line in lines
            for key in line.keys() - {"step", "time"}
        )
        assert database.status(sent) == "FINISHED"
