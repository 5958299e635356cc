"""The machine: Python, torch and its devices, cores, memory, disk, terminal and clock. Imports no tensor library."""

from __future__ import annotations

import email.utils
import json
import locale
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from packaging.specifiers import SpecifierSet

from retrain import estimate, preflight, store
from retrain.doctor import limits
from retrain.doctor.finding import Found, NotKnownError, fail, ok, skipped, warn
from retrain.estimate import gigabytes
from retrain.references import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Sequence

TORCH_SECONDS = 120.0  # to import torch on a cold disk and start CUDA; a broken install may hang
CLOCK_SECONDS = 300.0  # off by more than this, signed requests and tokens are refused
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
REINSTALL = "pip install --force-reinstall torch, or its build for this machine as its own site says"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU as torch sees it; memory in bytes."""

    name: str
    capability: str
    free: int
    total: int


@dataclass(frozen=True, kw_only=True)
class Torch:
    """What `torch_child` says of torch. `broken`: why it could not be asked."""

    version: str = ""
    cuda: str = ""
    hip: str = ""
    driver: str = ""
    built_for: Sequence[str] = ()
    gpus: Sequence[Gpu] = ()
    trouble: str = ""
    threads: int = 0
    broken: str = ""


@dataclass
class Machine:
    """What several checks ask about, looked at once.

    hub_time:  the hub's clock, and ours when it was asked (unix seconds); None: it has not answered
    needs_hub: whether what is looked at needs something of it
    """

    hub_time: tuple[float, float] | None = None
    needs_hub: bool = True
    _free: dict[Path, int] = field(default_factory=dict)

    def free_at(self, place: Path) -> int:
        """Return the bytes that were free for a folder when that was asked first: all conditions see the same."""
        return self._free.setdefault(place, free_bytes(place))

    @cached_property
    def memory(self) -> limits.Memory:
        """The memory that is there for this process, before any check has taken some."""
        return limits.memory()

    @cached_property
    def torch(self) -> Torch:
        """Ask torch, in a process of its own.

        Raises:
            NotKnownError: it is not installed.
        """
        if find_spec("torch") is None:
            raise NotKnownError("torch is not installed")
        return ask_torch()


def ask_torch() -> Torch:
    """Import torch in a process of its own and return what it says, or why it could not."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("torch_child.py"))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TORCH_SECONDS)
    except subprocess.TimeoutExpired:
        return Torch(broken=f"importing torch does not end within {TORCH_SECONDS:g} s")
    if done.returncode < 0:
        return Torch(broken=f"importing torch ends with {signal.Signals(-done.returncode).name}")
    try:
        said = json.loads(done.stdout.strip().splitlines()[-1])
        return Torch(**{**said, "gpus": tuple(Gpu(**gpu) for gpu in said["gpus"])})
    except (IndexError, KeyError, TypeError, ValueError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Torch(broken=f"importing torch fails: {last}")


# --- the checks -----------------------------------------------------------------------------------------------------


def python(_: Machine) -> Found:
    """Hold the interpreter to the range that the package's metadata name."""
    version = platform.python_version()
    here = f"{version} ({platform.python_implementation()}, {platform.system()} {platform.machine()}) {sys.executable}"
    try:
        wanted = metadata.metadata("retrain")["Requires-Python"]
    except metadata.PackageNotFoundError:
        return warn(f"{here}; retrain is not installed as a package", "pip install retrain")
    if version not in SpecifierSet(wanted):
        return fail(f"{here}; retrain needs {wanted}", f"a Python {wanted}")
    return ok(here)


def torch(machine: Machine) -> Found:
    """Tell whether torch can be imported, and what it was built for."""
    found = machine.torch
    if found.broken:
        return fail(found.broken, REINSTALL)
    build = f"CUDA {found.cuda}" if found.cuda else f"ROCm {found.hip}" if found.hip else "CPU only"
    return ok(f"{found.version} ({build}), {found.threads} threads")


def gpus(machine: Machine) -> Found | list[Found]:
    """List the GPUs with their free memory, and say why there is none where the system has one."""
    found = machine.torch
    if found.broken:
        raise NotKnownError("torch cannot be asked")
    if found.gpus:
        return [of_gpu(index, gpu, found) for index, gpu in enumerate(found.gpus)]
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        return ok(f'none: CUDA_VISIBLE_DEVICES="{hidden}" hides them')
    if not estimate.on_gpu("auto"):
        return ok("none: runs go to the CPU")
    if not (found.cuda or found.hip):
        return warn("there is one, and this torch was built for CPUs only", REINSTALL)
    driver = f"the driver knows CUDA {found.driver}" if found.driver else "no driver answers"
    said = f"; torch says: {found.trouble}" if found.trouble else ""
    message = f"there is one, and torch, built for CUDA {found.cuda}, cannot use it: {driver}{said}"
    return warn(message, "a newer driver, or a torch built for an older CUDA")


def of_gpu(index: int, gpu: Gpu, torch: Torch) -> Found:
    """Describe one GPU."""
    said = f"{index}: {gpu.name}, compute capability {gpu.capability}, "
    said += f"{gigabytes(gpu.free)} of {gigabytes(gpu.total)} free"
    said += f", driver for CUDA {torch.driver}" if torch.driver else ""
    major, _, minor = gpu.capability.partition(".")
    known = {arch.removeprefix("sm_").removeprefix("compute_").rstrip("af") for arch in torch.built_for}
    same = {arch for arch in known if arch[:-1] == major and arch[-1] <= minor}  # binaries run on later minors
    if known and torch.cuda and not same and f"compute_{major}{minor}" not in torch.built_for:
        return warn(f"{said}; this torch has no code for it: {', '.join(torch.built_for)}", REINSTALL)
    return ok(said)


def cores(machine: Machine) -> Found:
    """Count the cores that this process may use, and the threads that would run on them."""
    usable = limits.usable_cores()
    quota = limits.cpu_quota()
    said = f"{usable} of {os.cpu_count()} usable" + (f", cgroup quota {quota:g}" if quota else "")
    named = {name: os.environ[name] for name in THREADS if name in os.environ}
    said += "".join(f", {name}={value}" for name, value in named.items())
    room = min(usable, quota) if quota else usable
    asked = [int(value) for value in named.values() if value.isdigit()]
    if not asked and find_spec("torch") is not None and not machine.torch.broken:
        asked = [machine.torch.threads]
    if asked and max(asked) > room + 0.5:
        fix = f"export OMP_NUM_THREADS={max(1, int(room))}"
        return warn(f"{said}; {max(asked)} threads would share them", fix)
    return ok(said)


def memory(machine: Machine) -> Found:
    """Tell the memory that is there for this process, within the limits of its cgroup."""
    found = machine.memory
    said = f"{gigabytes(found.available)} of {gigabytes(found.total)} free"
    return ok(f"{said}, cgroup limit {gigabytes(found.limit)}" if found.limit else said)


def outputs(_: Machine) -> Found:
    """Tell whether runs could be written where they go by default."""
    place = OUTPUTS.absolute()
    preflight.check_place(place / "a-run")
    return ok(f"{gigabytes(free_bytes(place))} free for {place}, writable")


def free_bytes(place: Path) -> int:
    """Return what is free on the disk of a folder, or of the nearest one above it that exists."""
    there = place.expanduser().absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def git(_: Machine) -> Found:
    """Tell which commit a run from here would name."""
    if shutil.which("git") is None:
        return skipped("not installed: runs will not name the commit of your code")
    state = store.git_state(Path.cwd())
    if state is None:
        return ok("no repository here: runs will not name a commit")
    return ok(f"commit {state['commit'][:10]}" + (", with uncommitted changes" if state["dirty"] else ""))


def terminal(_: Machine) -> Found:
    """Tell whether names, rewards and formulas can be shown and written as they are."""
    stream = sys.__stdout__ or sys.stdout  # what the checks print goes elsewhere
    encoding, files = stream.encoding or "", locale.getpreferredencoding(do_setlocale=False)
    columns = shutil.get_terminal_size().columns
    kind = f"{columns} columns" if stream.isatty() else "not a terminal"
    if any("utf" not in name.lower() for name in (encoding, files)):
        return warn(f"{encoding} ({kind}): what it lacks is shown as ?", "export LANG=C.UTF-8, or PYTHONUTF8=1")
    return ok(f"{encoding}, {kind}" + (", NO_COLOR" if os.environ.get("NO_COLOR") else ""))


def clock(machine: Machine) -> Found:
    """Compare the clock with the hub's, or at least with the time at which this program was installed."""
    now = time.strftime("%Y-%m-%d %H:%M:%S %Z")
    if machine.hub_time is not None:
        theirs, ours = machine.hub_time
        off = ours - theirs
        if abs(off) > CLOCK_SECONDS:
            message = f"{now}: {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the hub's clock"
            return warn(message, "set the clock: signed requests and the times of runs depend on it")
        return ok(f"{now}, that of the hub within {abs(off):.0f} s")
    if time.time() < Path(__file__).stat().st_mtime - CLOCK_SECONDS:
        return warn(f"{now}: before this program was installed", "set the clock")
    return ok(f"{now} (compared with nothing: the hub was not asked)")


def http_date(text: str | None) -> float | None:
    """Return a reply's Date header in unix seconds."""
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except (TypeError, ValueError):
        return None
