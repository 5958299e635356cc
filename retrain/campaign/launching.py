"""The threads that run orders, while the main thread looks after signals, budgets and the manifest.

Planned   all orders at once, to one launch          Rolling   orders as they come, each a launch of its own

changes   (name of a run, how it ended; None: it has started), as they come
defect    what ended a launcher itself
"""

from __future__ import annotations

import contextlib
import queue
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

from retrain.campaign.launchers import SLURM, run_with
from retrain.campaign.local import Shares

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from typing import Any

    from retrain.campaign.supervisor import Exit, Order

Changes = queue.Queue[tuple[str, "Exit | None"]]


class Planned(threading.Thread):
    """Runs orders that are all known."""

    def __init__(self, campaign: Mapping[str, Any], orders: Mapping[str, Order], stop: threading.Event) -> None:
        super().__init__(name="launcher")
        self._campaign, self._names, self._orders = campaign, list(orders), list(orders.values())
        self._stop_event = stop
        self.changes: Changes = queue.Queue()
        self.defect: BaseException | None = None

    def run(self) -> None:
        try:
            run_with(
                self._campaign["launcher"],
                self._campaign["launcher_options"],
                self._orders,
                max_workers=self._campaign["max_workers"],
                on_change=lambda index, found: self.changes.put((self._names[index], found)),
                stop=self._stop_event,
            )
        except BaseException as error:  # noqa: BLE001  raised again by the thread that waits for this one
            self.defect = error


class Rolling:
    """Runs orders as they are added, `max_workers` at once."""

    def __init__(self, campaign: Mapping[str, Any], stop: threading.Event) -> None:
        self._campaign, self._stop = campaign, stop
        self.workers: int = campaign["max_workers"]
        self._shares = Shares(self.workers)
        self._pool = ThreadPoolExecutor(max_workers=self.workers, thread_name_prefix="launcher")
        self._open: set[Future[None]] = set()
        self.changes: Changes = queue.Queue()
        self.defect: BaseException | None = None

    def add(self, orders: Mapping[str, Order]) -> None:
        for name, order in orders.items():
            self._open.add(self._pool.submit(self._run, name, order))

    @property
    def has_room(self) -> bool:
        """Whether a worker has nothing to do."""
        return len(self._open) < self.workers

    def is_alive(self) -> bool:
        return bool(self._open)

    def join(self, seconds: float) -> None:
        """Wait until an order has ended, but no longer than that."""
        ended, self._open = wait(self._open, seconds, return_when=FIRST_COMPLETED)
        for future in ended:
            if (error := future.exception()) is not None:
                self.defect = error
                self._stop.set()

    def _run(self, name: str, order: Order) -> None:
        if self._stop.is_set():
            return
        with self._lent(order) as lent:
            run_with(
                self._campaign["launcher"],
                self._campaign["launcher_options"],
                [lent],
                max_workers=1,
                on_change=lambda _, found: self.changes.put((name, found)),
                stop=self._stop,
            )

    def _lent(self, order: Order) -> AbstractContextManager[Order]:
        """Give an order its share of this machine; a cluster gives its jobs their own."""
        is_elsewhere = self._campaign["launcher"] == SLURM
        return contextlib.nullcontext(order) if is_elsewhere else self._shares.lend(order)
