"""The quick part of `scripts/chaos`, as CI runs it: damage, full disks, clocks, rivals and a few kills."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_lost_whatever_the_machine_does_to_a_run(tmp_path: Path):
    command = [sys.executable, ROOT / "scripts" / "chaos", "--quick", "--keep", tmp_path / "chaos"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise was kept" in done.stdout
