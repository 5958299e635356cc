"""A tiny real run, trained in forked children: torch and trl are imported once, an attempt then costs a second.

Nothing is computed before the fork, so that no thread of a library is lost by it. What a child sees is what
`retrain …` sees: the same `main`, its own process id, lock and random numbers.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = str(Path(__file__).resolve().parents[2])  # the code under test, also in processes of their own
STEPS, SAVE_EVERY = 8, 2
TOML = f"""
[defaults]
model = "tiny"
data = "arithmetic"
algorithm = "maxrl_gtpo_sepa"
[model]
lora_rank = 4
[lora]
dropout = 0.1
[sepa]
schedule = "auto"
delay_steps = 0
[reward]
type = "random"
[training]
max_steps = {STEPS}
batch_size = 2
group_size = 2
max_tokens = 8
lr = 2e-3
save_every = {SAVE_EVERY}
keep_checkpoints = 2
[eval]
every = 3
examples = 4
[logging]
tracking_uri = "TRACKING"
"""


def prepare(folder: Path, tracking_uri: str = "none") -> None:
    """Import what a run needs, once, and write its TOML."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tiny.toml").write_text(TOML.replace("TRACKING", tracking_uri))
    import datasets  # noqa: F401
    import peft.tuners.lora  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import transformers.models.qwen3.modeling_qwen3  # noqa: F401
    import trl.trainer.grpo_trainer  # noqa: F401

    import retrain.backends.local
    import retrain.cli.main
    import retrain.run  # noqa: F401
    from retrain import tracking
    from retrain.config import compose

    compose(folder / "tiny.toml")  # imports hydra
    tracking.start_follower = no_follower  # in every child; followers are forked beside the run, where they matter
    tracking.wait_for_follower = no_wait
    gc.collect()
    gc.freeze()  # a child's collections need not look at what was imported


def no_follower(directory: Path) -> None:
    """Start nothing."""


def no_wait(run_dir: Path, seconds: float) -> bool:
    """Leave at once."""
    return True


class Child:
    """A forked process that does one thing. It speaks through a pipe, which no file limit and no full disk can stop."""

    def __init__(self, work: Callable[[], int | None]) -> None:
        self._pipe, output = os.pipe()
        self._words = b""
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 70
            try:
                os.dup2(output, 1)
                os.dup2(output, 2)
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
                code = _worked(work)
            finally:
                os._exit(code)  # a child must never go on as its parent
        os.close(output)
        os.set_blocking(self._pipe, False)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.code is None:
            self.said()  # a full pipe would hold it up
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, seconds: float = 120.0) -> int:
        deadline = time.monotonic() + seconds
        while self.poll() is None:
            assert time.monotonic() < deadline, f"it does not end: {self.said()}"
            time.sleep(0.002)
        assert self.code is not None
        return self.code

    def kill(self) -> int:
        """Kill −9, and its exit code: another one than −9 when it had ended before."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
        return self.wait()

    def said(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while part := os.read(self._pipe, 1 << 16):
                self._words += part
        return self._words.decode(errors="replace")

    def __del__(self) -> None:
        os.close(self._pipe)


def _worked(work: Callable[[], int | None]) -> int:
    code = 70
    try:
        code = work() or 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001  shown to the parent, whose tests fail by it
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def command(folder: Path, *arguments: str, before: Callable[[], Any] | None = None) -> Child:
    """`retrain ARGUMENTS` in `folder`, forked; `before` is called first in the child."""

    def work() -> int:
        from retrain.cli.main import main

        os.chdir(folder)
        if before is not None:
            before()
        return main(list(arguments))

    return Child(work)


def real_command(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """The same through the real command line, imports and all."""
    call = [sys.executable, "-m", "retrain.cli.main", *arguments]
    with (folder / "words").open("wb") as words:
        return subprocess.Popen(call, cwd=folder, stdout=words, stderr=words, env={**os.environ, "PYTHONPATH": ROOT})


def arguments_for(run: Path) -> Sequence[str]:
    """What a user types next: resume, or start where there is no run yet."""
    if (run / "run.json").exists():
        return ("resume", run.name)
    return ("tiny.toml", "--log-dir", run.name)


def outcome(run: Path) -> dict[str, Any]:
    """What equal runs have in common: metrics but for times, the result's tensors, every completion."""
    from retrain.store import read_metrics

    lines = [{key: value for key, value in line.items() if not key.startswith("time")} for line in read_metrics(run)]
    files = [*run.glob("adapter*/*.safetensors"), *run.glob("rollouts/*.parquet"), *run.glob("evaluations/*.parquet")]
    return {"metrics": lines} | {str(file.relative_to(run)): sha256(file) for file in files}


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def difference(one: dict[str, Any], other: dict[str, Any]) -> str:
    """Names of what differs between two outcomes; empty: they are equal."""
    return ", ".join(sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key)))
