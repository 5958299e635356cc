"""Start the runs of a campaign that are to be done, in threads, and tell what becomes of each.

Planned   all orders at once, to one launch          Rolling   orders as they come, each a launch of its own

What jobs of an earlier launch still train is waited for, and started only if it is not done then.

changes   (name of a run, how it ended; None: it has started), as they come
defect    what ended a launcher itself
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.campaign import adopt
from retrain.campaign.launchers import SLURM, run_with, supersede
from retrain.campaign.local import Shares
from retrain.campaign.supervisor import Order
from retrain.config import toml as toml_files

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    from retrain.campaign.manifest import Manifest, RunEntry
    from retrain.campaign.supervisor import Exit

Changes = queue.Queue[tuple[str, "Exit | None"]]

log = logging.getLogger(__name__)


class _Launches:
    """What both have in common: one launch, and runs that go on without one."""

    def __init__(self, root: Path, manifest: Manifest, stop: threading.Event) -> None:
        self._root, self._campaign, self._stop = root, manifest.campaign, stop
        self.changes: Changes = queue.Queue()
        self.defect: BaseException | None = None
        self._news = threading.Event()
        self._is_here = manifest.campaign["launcher"] == "local"  # there runs die with their campaign
        if not self._is_here:
            supersede(root)

    def wait(self, seconds: float) -> None:
        """Wait for a change, or for the end of a launch, but no longer than that."""
        self._news.wait(seconds)
        self._news.clear()

    def _tell(self, name: str, found: Exit | None) -> None:
        self.changes.put((name, found))
        self._news.set()

    def _launch(self, orders: Mapping[str, Order], workers: int) -> None:
        names = list(orders)
        run_with(
            self._campaign["launcher"],
            self._campaign["launcher_options"],
            list(orders.values()),
            max_workers=workers,
            on_change=lambda index, found: self._tell(names[index], found),
            stop=self._stop,
        )

    def _goes_on(self, name: str, order: Order) -> bool:
        """Tell whether a job of an earlier launch trains a run, and say so."""
        trainer = "" if self._is_here else adopt.trainer_of(Path(order.directory))
        if trainer:
            log.warning("%s is still trained by %s, which is waited for", Path(order.directory), trainer)
            self._tell(name, None)
        return bool(trainer)

    def _adopted(self, name: str, order: Order) -> bool:
        """Wait for a run that goes on; return whether it needs no other start."""
        found = adopt.wait(Path(order.directory), self._root, self._stop)
        if found is not None:
            self._tell(name, found)
        return found is not None


class Planned(_Launches):
    """Runs orders that are all known."""

    def start(self, orders: Mapping[str, Order]) -> None:
        self._thread = threading.Thread(target=self._run, args=(orders,), name="launcher")
        self._thread.start()

    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def _run(self, orders: Mapping[str, Order]) -> None:
        try:
            alive = {name: order for name, order in orders.items() if self._goes_on(name, order)}
            workers = self._campaign["max_workers"]
            self._launch({name: order for name, order in orders.items() if name not in alive}, workers)
            missing = {name: order for name, order in alive.items() if not self._adopted(name, order)}
            if not self._stop.is_set():
                self._launch(missing, workers)
        except BaseException as error:  # noqa: BLE001  raised again by the thread that waits for this one
            self.defect = error
        finally:
            self._news.set()


class Rolling(_Launches):
    """Runs orders as they come, `max_workers` at once."""

    def __init__(self, root: Path, manifest: Manifest, stop: threading.Event) -> None:
        super().__init__(root, manifest, stop)
        self.workers: int = manifest.campaign["max_workers"]
        self._shares = Shares(self.workers)
        self._pool = ThreadPoolExecutor(max_workers=self.workers, thread_name_prefix="launcher")
        self._open: set[Future[None]] = set()

    def start(self, orders: Mapping[str, Order]) -> None:
        """Add orders; they begin when a worker has nothing else to do."""
        for name, order in orders.items():
            future = self._pool.submit(self._run, name, order)
            self._open.add(future)
            future.add_done_callback(lambda _: self._news.set())

    @property
    def has_room(self) -> bool:
        """Whether a worker has nothing to do."""
        return len(self._open) < self.workers

    def is_alive(self) -> bool:
        return bool(self._open)

    def wait(self, seconds: float) -> None:
        super().wait(seconds)
        ended = {future for future in self._open if future.done()}
        self._open -= ended
        for future in ended:
            if (error := future.exception()) is not None:
                self.defect = error
                self._stop.set()

    def _run(self, name: str, order: Order) -> None:
        if self._goes_on(name, order) and self._adopted(name, order):
            return
        if not self._stop.is_set():
            with self._lent(order) as lent:
                self._launch({name: lent}, 1)

    def _lent(self, order: Order) -> AbstractContextManager[Order]:
        """Give an order its share of this machine; a cluster gives its jobs their own."""
        is_elsewhere = self._campaign["launcher"] == SLURM
        return contextlib.nullcontext(order) if is_elsewhere else self._shares.lend(order)


def orders_of(root: Path, manifest: Manifest, runs: Sequence[RunEntry]) -> dict[str, Order]:
    """Return what it takes to start those runs that are planned, by their names."""
    return {run.name: _order_of(root, manifest, run) for run in runs if run.state == "planned"}


def _order_of(root: Path, manifest: Manifest, run: RunEntry) -> Order:
    directory = (root / run.directory).resolve()
    config = toml_files.read(directory / "config.toml", str(directory)).table
    return Order(
        directory=str(directory),
        places=tuple(manifest.places),
        cwd=manifest.cwd,
        timeout=manifest.campaign["timeout"],
        stall_timeout=float(config["health"]["stall_timeout"]),
        devices=config["backend"]["devices"].strip(),
        max_retries=manifest.campaign["max_retries"],
        source=manifest.source,
        environment={},
    )
