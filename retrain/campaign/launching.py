"""Start the runs of a campaign that are to be done, in a thread, and tell what becomes of each."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.campaign import adopt
from retrain.campaign.launchers import run_with, supersede
from retrain.campaign.supervisor import Exit, Order
from retrain.config import toml as toml_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.campaign.manifest import Manifest, RunEntry

log = logging.getLogger(__name__)


class Launcher(threading.Thread):
    """Runs what is to do, while the main thread looks after signals, budgets and the manifest.

    What jobs of an earlier launch still train is waited for, and started after the others if it is not done then.

    changes: (index of an order, how it ended; None: it has started), as they come
    defect:  what ended the launcher itself
    """

    def __init__(self, root: Path, manifest: Manifest, todo: Sequence[RunEntry], stop: threading.Event) -> None:
        super().__init__(name="launcher")
        self._root, self._campaign, self._stop_event = root, manifest.campaign, stop
        self._orders = [order_of(root, manifest, run) for run in todo]
        self.changes: queue.Queue[tuple[int, Exit | None]] = queue.Queue()
        self.defect: BaseException | None = None

    def run(self) -> None:
        try:
            alive = self._alive()
            self._launch([index for index in range(len(self._orders)) if index not in alive])
            missing = [index for index in alive if not self._adopted(index)]
            if not self._stop_event.is_set():
                self._launch(missing)
        except BaseException as error:  # noqa: BLE001  raised again by the thread that waits for this one
            self.defect = error

    def _alive(self) -> list[int]:
        """Return the orders whose runs go on, and say so. On this machine alone they die with their campaign."""
        if self._campaign["launcher"] == "local":
            return []
        supersede(self._root)
        found = {index: adopt.trainer_of(Path(order.directory)) for index, order in enumerate(self._orders)}
        found = {index: trainer for index, trainer in found.items() if trainer}
        for index, trainer in found.items():
            log.warning("%s is still trained by %s, which is waited for", Path(self._orders[index].directory), trainer)
            self.changes.put((index, None))
        return list(found)

    def _adopted(self, index: int) -> bool:
        """Wait for a run that goes on; return whether it needs no other start."""
        found = adopt.wait(Path(self._orders[index].directory), self._root, self._stop_event)
        if found is not None:
            self.changes.put((index, found))
        return found is not None

    def _launch(self, indices: Sequence[int]) -> None:
        run_with(
            self._campaign["launcher"],
            self._campaign["launcher_options"],
            [self._orders[index] for index in indices],
            max_workers=self._campaign["max_workers"],
            on_change=lambda at, found: self.changes.put((indices[at], found)),
            stop=self._stop_event,
        )


def order_of(root: Path, manifest: Manifest, run: RunEntry) -> Order:
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
