"""Run orders on this machine: so many at once, each with a GPU and a share of the cores to itself."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING

from retrain.campaign.supervisor import Exit, Order, named_gpu, supervise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

GPUS, THREADS = "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"


def run_orders(
    orders: Sequence[Order],
    *,
    max_workers: int,
    on_change: Callable[[int, Exit | None], None],
    stop: threading.Event,
) -> list[Exit | None]:
    """Run every order, `max_workers` at once, and return how each ended; None: it was not started before `stop`.

    on_change: called with an order's index when it starts (None) and when it has ended; from several threads, but
               never twice at once. What it raises stops all runs and is raised here.

    Where there are several GPUs, each run sees one, unless its config names its device. The cores are shared out
    through OMP_NUM_THREADS, unless this process or the order sets it.
    """
    found: list[Exit | None] = [None] * len(orders)
    width = max(1, min(max_workers, len(orders)))
    shares, telling = Shares(width), threading.Lock()

    def tell(index: int) -> None:
        with telling:
            on_change(index, found[index])

    def one(index: int) -> None:
        if stop.is_set():
            return
        try:
            with shares.lend(orders[index]) as order:
                tell(index)
                found[index] = supervise(order, stop=stop)
            tell(index)
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(max_workers=width, thread_name_prefix="supervisor") as pool:
        running = [pool.submit(one, index) for index in range(len(orders))]
        try:
            wait(running)
        except BaseException:  # Ctrl-C in this thread
            stop.set()
            raise
    for future in running:
        future.result()
    return found


class Shares:
    """What runs get of this machine, so that those that go on at once do not fight for it.

    A device that a run's config names wins: the run is given no other one, and a named GPU counts as taken.
    """

    def __init__(self, width: int) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = max(1, cores // width)
        self._gpus = visible_gpus() if width > 1 else []
        self._loads = dict.fromkeys(self._gpus, 0) if len(self._gpus) > 1 else {}
        self._width, self._lock = width, threading.Lock()

    @contextlib.contextmanager
    def lend(self, order: Order) -> Iterator[Order]:
        """Give the order its share while the block lasts; what its environment says already stays."""
        gpu = self._take_gpu(order) if GPUS not in order.environment else None
        share = {} if gpu is None or order.devices != "auto" else {GPUS: gpu}
        if self._width > 1 and THREADS not in os.environ:
            share[THREADS] = str(self._threads)
        try:
            yield replace(order, environment={**share, **order.environment})
        finally:
            if gpu is not None:
                with self._lock:
                    self._loads[gpu] -= 1

    def _take_gpu(self, order: Order) -> str | None:
        """Return the GPU that an order's config names, else the one that the fewest runs have; None: no choice."""
        named = named_gpu(order.devices)
        if not self._loads or (order.devices != "auto" and (named is None or named >= len(self._gpus))):
            return None
        with self._lock:
            gpu = self._gpus[named] if named is not None else min(self._loads, key=lambda name: self._loads[name])
            self._loads[gpu] += 1
        return gpu


def visible_gpus() -> list[str]:
    """Return the names by which CUDA_VISIBLE_DEVICES knows this machine's GPUs; empty where there are none."""
    if (chosen := os.environ.get(GPUS)) is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")]
    command = shutil.which("nvidia-smi")
    if command is None:
        return []
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ask = [command, "--query-gpu=uuid", "--format=csv,noheader"]  # numbers mean others where CUDA sorts by speed
        listed = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=30)
        return [line.strip() for line in listed.stdout.splitlines() if line.strip()]
    return []
