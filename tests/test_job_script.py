"""The script for SLURM in `retrain man resume`, run with stand-ins for the commands that it calls."""

import os
import re
import signal
import subprocess
import time

import pytest

from retrain import manual

RETRAIN = """#!/usr/bin/env python3
import pathlib, signal, sys, time
signal.signal(signal.SIGUSR2, lambda number, frame: (time.sleep(0.2), sys.exit(130)))
pathlib.Path("arguments").write_text(" ".join(sys.argv[1:]))
time.sleep(float(pathlib.Path("seconds").read_text()))
sys.exit(1)
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGUSR2, 130), (signal.SIGTERM, 130), (None, 1)])
def test_the_job_script_hands_a_warning_on_and_is_queued_again(sent, code, tmp_path):
    """With a program in the place of retrain that ends as a run does, and one in the place of scontrol."""
    [script] = re.findall(r"^```bash\n(#!/bin/bash.*?)^```", manual.read("resume"), re.MULTILINE | re.DOTALL)
    (tmp_path / "seconds").write_text("30" if sent else "0")
    for name, text in {"job": script, "retrain": RETRAIN, "scontrol": '#!/bin/sh\necho "$@" > queued\n'}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_ID": "77"}
    with subprocess.Popen(["bash", "job"], cwd=tmp_path, env=environment) as job:
        while sent and not (tmp_path / "arguments").exists():
            time.sleep(0.02)
        if sent:
            job.send_signal(sent)
        assert job.wait(timeout=20) == code
    assert (tmp_path / "arguments").read_text() == "mini.toml --resume auto"
    assert (tmp_path / "queued").exists() == (code == 130)
    if code == 130:
        assert (tmp_path / "queued").read_text() == "requeue 77\n"
