"""Where the runs of a campaign are started: on this machine, or by a launcher of Hydra's.

    orders ──▶ local
           └─▶ ROOT/launch/<time>/ ──▶ hydra_launch ──▶ joblib, submitit, ray, … ──▶ hydra_job: supervise(order)
                      ▲                                                                      │
                      └────── this process polls: began, alive, exit.json ◀──────────────────┘

A launcher's own return is never believed, for most of them lose what their other workers did when one dies: how a run
ended is in its exit.json, and a run that no launcher works on any more has failed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.campaign.hydra_job import ORDERS, STOP, SUPERSEDED
from retrain.campaign.hydra_launch import ERROR
from retrain.campaign.local import run_orders
from retrain.campaign.supervisor import EXIT, Exit, Order
from retrain.config.interpolation import escape
from retrain.errors import Problem, nearest, unknown_name
from retrain.store import process_start

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

PLUGINS = {  # launcher: the package of its plugin, and the extra of ours that installs it
    "joblib": ("hydra_joblib_launcher", "joblib"),
    "submitit_local": ("hydra_submitit_launcher", "submitit"),
    "submitit_slurm": ("hydra_submitit_launcher", "submitit"),
    "ray": ("hydra_ray_launcher", "ray"),
}
SLURM = "submitit_slurm"
POLL_SECONDS = 0.2  # between two looks at the runs
QUEUE_SECONDS = 10.0  # between two looks at a cluster's queue
LOST_SECONDS = 20.0  # without a sign of life, once the launcher is gone; network file systems show one late
HUNG_SECONDS = 120.0  # the same while the launcher lives
SETTLE_SECONDS = 3.0  # in which every job has seen that it is to stop
STOP_SECONDS = 10.0  # for a launcher to end when nothing runs any more
A_YEAR = 525_600  # minutes


def check_launcher(name: str, options: Mapping[str, Any] | None = None) -> Problem | None:
    """Return what keeps a launcher from being used: its name, what is not installed, or its options."""
    if name == "local":
        return _no_options(options)
    plugin, extra = PLUGINS.get(name, ("", ""))
    if plugin and importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        return Problem(
            message=f'the launcher "{name}" needs a package that is not installed',
            hint=f"pip install 'retrain[{extra}]'",
        )
    known = _hydra_launchers()
    if name not in known:
        return unknown_name(kind="launcher", name=name, known=["local", *dict.fromkeys([*PLUGINS, *known])])
    if name == SLURM and shutil.which("sbatch") is None:
        return Problem(
            message=f'the launcher "{name}" needs sbatch, which is not on the PATH', hint="run it where SLURM is"
        )
    return _option_problem(name, known[name], options or {})


def _no_options(options: Mapping[str, Any] | None) -> Problem | None:
    if not options:
        return None
    return Problem(
        message=f'the launcher "local" has no options, {", ".join(options)} is set',
        hint="max_workers says how many runs it starts at once",
    )


def _hydra_launchers() -> dict[str, Any]:
    """Return the launchers that Hydra knows here, with the nodes that define their options."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    Plugins.instance()  # importing a plugin registers what it offers
    store, group = ConfigStore.instance(), "hydra/launcher"
    files = [name for name in store.list(group) if name.endswith(".yaml")]
    return {name.removesuffix(".yaml"): store.load(f"{group}/{name}").node for name in files}


def _option_problem(name: str, node: Any, options: Mapping[str, Any]) -> Problem | None:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = [key for key in node if key != "_target_"]
    for option in options:
        if option not in known:
            near = nearest(option, known)
            question = f"; did you mean {near}?" if near else ""
            return Problem(message=f'the launcher "{name}" has no option {option}{question}', hint=", ".join(known))
    try:
        OmegaConf.merge(node, dict(options))
    except OmegaConfBaseException as error:
        return Problem(message=f'the launcher "{name}" does not take its options: {str(error).splitlines()[0]}')
    if name == SLURM and "timeout_min" not in options:
        return Problem(
            message=f'the launcher "{name}" ends every job after 60 minutes unless it is told otherwise',
            hint="launcher_options = {timeout_min = 240}: the minutes that the longest run takes",
        )
    return None


# --- running ----------------------------------------------------------------------------------------------------------


def run_with(
    launcher: str,
    options: Mapping[str, Any],
    orders: Sequence[Order],
    *,
    max_workers: int,
    on_change: Callable[[int, Exit | None], None],
    stop: threading.Event,
) -> list[Exit | None]:
    """Run every order with a launcher, and return how each ended; None: it was not started before `stop`.

    Args:
        launcher: "local", or one of Hydra's that `check_launcher` has passed.
        options: of that launcher: joblib's `pre_dispatch`, SLURM's `partition`.
        orders: what to run; their directories are ROOT/runs/NAME.
        max_workers: how many run at once.
        on_change: called with an order's index when it starts (None), and when it has ended.
        stop: set it to end all runs, each saving its last step.
    """
    if launcher == "local":
        return run_orders(orders, max_workers=max_workers, on_change=on_change, stop=stop)
    if not orders:
        return []
    folder = _folder(Path(orders[0].directory).parents[1])
    name = f"{options.get('name', 'retrain')}-{folder.name}"
    _write(folder, launcher, _limited(launcher, options, max_workers, name), orders, max_workers)
    watch = _Watch(launcher, folder, [_Waiting(index, Path(o.directory)) for index, o in enumerate(orders)], name)
    with _launched(folder) as process:
        try:
            watch.until_all_have_ended(process, on_change, stop)
        finally:
            (folder / STOP).touch()  # nothing of it goes on when this is left by an exception
            if any(each.is_running for each in watch.waiting):
                watch.wait_for_the_running()
    return [each.found for each in watch.waiting]


def supersede(root: Path, *, stop: bool = False) -> None:
    """Let jobs of earlier launches that wait in a queue do nothing, and with `stop` also end those that run."""
    for folder in (root / "launch").glob("*/"):
        (folder / (STOP if stop else SUPERSEDED)).touch()


def _folder(root: Path) -> Path:
    """Make the folder of one launch; an earlier one may still have jobs in a cluster's queue."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        folder = root / "launch" / f"{stamp}-{number}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise AssertionError("a thousand launches in a second")


def _limited(launcher: str, options: Mapping[str, Any], max_workers: int, name: str) -> dict[str, Any]:
    """Return a launcher's options with what follows from the campaign; those that were given win."""
    own: dict[str, Any] = {
        "joblib": {"n_jobs": max_workers},
        "submitit_local": {"timeout_min": A_YEAR},  # the supervisor knows the campaign's timeout
        SLURM: {"array_parallelism": max_workers},
    }.get(launcher, {})
    named = {"name": name} if launcher == SLURM else {}  # unique: its jobs are found in the queue by it
    return {**own, **options, **named}


def _write(folder: Path, launcher: str, options: Mapping[str, Any], orders: Sequence[Order], max_workers: int) -> None:
    """Write what the launcher's process and its jobs read."""
    ticket = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": process_start(os.getpid()),
        "outlives": launcher == SLURM,
        "slots": 0 if launcher == SLURM else max_workers,  # a cluster counts by itself, and gives each job its GPUs
        "orders": [asdict(order) for order in orders],
    }
    (folder / ORDERS).write_text(json.dumps(ticket), encoding="utf-8")
    config = {
        "defaults": [
            "_self_",
            {"override hydra/launcher": launcher},
            {"override hydra/job_logging": "disabled"},
            {"override hydra/hydra_logging": "disabled"},
        ],
        "folder": escape(str(folder)),
        "order": 0,
        "hydra": {
            "output_subdir": None,
            "job": {"name": "retrain", "chdir": False},
            "sweep": {"dir": escape(str(folder)), "subdir": "."},
            "launcher": dict(options),
        },
    }
    (folder / "launch.yaml").write_text(json.dumps(config, indent=1), encoding="utf-8")  # YAML, too


@contextlib.contextmanager
def _launched(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the launcher's process, and see that it is gone afterwards, with its worker processes."""
    command = [sys.executable, "-P", "-m", "retrain.campaign.hydra_launch", str(folder), str(os.getpid())]
    with (folder / "launcher.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class _Waiting:
    """An order whose end is waited for."""

    index: int
    directory: Path
    stale: tuple[int, int] | None = field(init=False)  # of the exit.json of an earlier start
    started: float | None = None  # unix seconds
    found: Exit | None = None
    sign: int = 0  # the last sign of life: the time on its file
    seen: float = field(default_factory=time.monotonic)  # when that last changed

    def __post_init__(self) -> None:
        self.stale = self._exit_file()

    def _exit_file(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = (self.directory / EXIT).stat()
            return found.st_mtime_ns, found.st_ino
        return None

    @property
    def is_running(self) -> bool:
        return self.started is not None and self.found is None

    def look(self, folder: Path) -> bool:
        """Look at what its job has written; return whether it has started or ended since."""
        with contextlib.suppress(OSError):
            sign = (folder / f"{self.index}.alive").stat().st_mtime_ns
            if sign != self.sign:
                self.sign, self.seen = sign, time.monotonic()
        if self.started is None:
            if (folder / f"{self.index}.started").exists():
                self.started = time.time()
                return True
        elif self._exit_file() not in (None, self.stale):
            self.found = Exit.read(self.directory)
        return self.found is not None

    def is_silent(self, seconds: float) -> bool:
        return time.monotonic() - self.seen > seconds

    def lose(self, reason: str, *, is_asked: bool) -> None:
        """Write down that nobody works on it any more."""
        now = time.time()
        self.found = Exit(
            state="interrupted" if is_asked else "failed",
            exit_reason=reason,
            code=None,
            signal="",
            attempts=0 if self.started is None else 1,
            started=self.started or now,
            ended=now,
        )
        with contextlib.suppress(OSError):  # a full disk: the caller knows
            self.found.write(self.directory)


@dataclass
class _Watch:
    """Looks at the runs of a launch until all have ended."""

    launcher: str
    folder: Path
    waiting: list[_Waiting]
    name: str  # of its jobs in a cluster's queue
    asked_to_stop: float = 0.0  # when; monotonic seconds
    asked_queue: float = 0.0
    is_queued: bool = True

    def until_all_have_ended(
        self, process: subprocess.Popen[bytes], on_change: Callable[[int, Exit | None], None], stop: threading.Event
    ) -> None:
        """Tell of each order that starts and ends; the last are those that nobody works on any more."""
        gone_since: float | None = None  # when the launcher's process ended, monotonic
        while open_ := [each for each in self.waiting if each.found is None]:
            if stop.is_set() and not (self.folder / STOP).exists():
                self._ask_to_stop()
            for each in open_:
                while each.found is None and each.look(self.folder):
                    on_change(each.index, each.found)
            if stop.is_set() and not any(each.is_running for each in self.waiting) and self._has_settled(process):
                return
            if process.poll() is not None and gone_since is None:
                gone_since = time.monotonic()
            for each in self._lost(gone_since):
                each.lose(self._why_lost(process.returncode), is_asked=stop.is_set())
                on_change(each.index, each.found)
            time.sleep(POLL_SECONDS)

    def wait_for_the_running(self) -> None:
        """Wait until each run that was asked to stop has ended, or shows no sign of life any more."""
        while any(each.is_running and not each.is_silent(LOST_SECONDS) for each in self.waiting):
            for each in self.waiting:
                if each.is_running:
                    each.look(self.folder)
            time.sleep(POLL_SECONDS)

    def _has_settled(self, process: subprocess.Popen[bytes]) -> bool:
        """Tell whether no order can start any more after all were asked to stop."""
        return process.poll() is not None or time.monotonic() - self.asked_to_stop > SETTLE_SECONDS

    def _ask_to_stop(self) -> None:
        self.asked_to_stop = time.monotonic()
        (self.folder / STOP).touch()
        if self.launcher == SLURM:
            with contextlib.suppress(OSError, subprocess.SubprocessError):  # what starts later sees that it is to stop
                _slurm("scancel", "--state=PENDING", f"--name={self.name}")

    def _lost(self, gone_since: float | None) -> list[_Waiting]:
        """Return the orders that nobody works on any more: they are silent, and no queue holds them.

        A launcher that lives may still start an order, but a job that began and fell silent is gone. SLURM's launcher
        waits for a vanished job for ever where there is no accounting, so there its queue decides.
        """
        if gone_since is not None and time.monotonic() - gone_since < LOST_SECONDS:
            return []
        patience = HUNG_SECONDS if gone_since is None else LOST_SECONDS
        is_final = gone_since is not None or self.launcher == SLURM
        silent = [
            each
            for each in self.waiting
            if each.found is None and (is_final or each.is_running) and each.is_silent(patience)
        ]
        return [] if not silent or self._has_queued() else silent

    def _has_queued(self) -> bool:
        """Tell whether jobs of this launch wait in a cluster's queue."""
        if self.launcher != SLURM:
            return False
        if time.monotonic() - self.asked_queue > QUEUE_SECONDS:
            self.asked_queue = time.monotonic()
            with contextlib.suppress(OSError, subprocess.SubprocessError):  # a busy controller: as it was
                self.is_queued = bool(_slurm("squeue", "--noheader", f"--name={self.name}"))
        return self.is_queued

    def _why_lost(self, code: int | None) -> str:
        log = self.folder / "launcher.log"
        if code is None:
            return f"the launcher {self.launcher} lost it: its job vanished; see {log}"
        why = f"its process was killed by {signal.Signals(-code).name}" if code < 0 else "it gave no reason"
        with contextlib.suppress(OSError):
            why = (self.folder / ERROR).read_text(encoding="utf-8")
        return f"the launcher {self.launcher} lost it: {why}; see {log}"


def _slurm(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()
