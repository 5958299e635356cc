"""What a launcher of Hydra's runs for each order, in a process that it has started somewhere.

    FOLDER/orders.json   what to run                          FOLDER/3.alive     touched while the job of order 3 lives
    FOLDER/stop          appears: end everything cleanly      FOLDER/3.started   order 3 has begun
    FOLDER/superseded    appears: begin no order any more

The job returns nothing: what came of an order is in its exit.json.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.campaign.local import GPUS, Shares, visible_gpus
from retrain.campaign.supervisor import Order, supervise
from retrain.store import process_start

if TYPE_CHECKING:
    from collections.abc import Iterator

ORDERS, STOP, SUPERSEDED = "orders.json", "stop", "superseded"
ALIVE_SECONDS = 1.0  # between two touches, and two looks at whether to stop
SLOT_SECONDS = 0.2  # between two looks for a free place


def run_order(config: Any) -> None:
    """Run the order that Hydra's config names; `config` has its index and the folder."""
    folder, index = Path(config.folder), int(config.order)
    ticket = json.loads((folder / ORDERS).read_text(encoding="utf-8"))
    order, stop = _order(ticket["orders"][index]), threading.Event()
    with _alive(folder, index, ticket, stop), _slot(folder, ticket["slots"], stop) as slot:
        if stop.is_set() or (folder / SUPERSEDED).exists():
            return
        (folder / f"{index}.started").touch()
        if slot is None:  # the cluster has given the job its share of a machine
            supervise(order, stop=stop)
            return
        with Shares(ticket["slots"]).lend(_on_gpu_of(slot, ticket["slots"], order)) as lent:
            supervise(lent, stop=stop)


def _order(values: dict[str, Any]) -> Order:
    plain: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return Order(**plain)


def _on_gpu_of(slot: int, slots: int, order: Order) -> Order:
    """Give an order the GPU of its slot, where there is a choice and its config names no device.

    `Shares` leaves that as it is.
    """
    gpus = visible_gpus() if slots > 1 and order.devices == "auto" else []
    chosen = {GPUS: gpus[slot % len(gpus)]} if len(gpus) > 1 else {}
    return replace(order, environment={**chosen, **order.environment})


@contextlib.contextmanager
def _alive(folder: Path, index: int, ticket: dict[str, Any], stop: threading.Event) -> Iterator[None]:
    """Show that this job lives, and set `stop` when it is to end or whoever conducts the campaign is gone."""
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                (folder / f"{index}.alive").touch()
            if (folder / STOP).exists() or _is_orphan(ticket):
                stop.set()
            done.wait(ALIVE_SECONDS)

    if (folder / STOP).exists():
        stop.set()
    thread = threading.Thread(target=look, name="alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _is_orphan(ticket: dict[str, Any]) -> bool:
    """Tell whether the campaign's process is gone. Jobs of a cluster's queue outlive it; other hosts cannot know."""
    if ticket["outlives"] or ticket["host"] != socket.gethostname():
        return False
    return process_start(ticket["pid"]) != ticket["process_start"]


@contextlib.contextmanager
def _slot(folder: Path, slots: int, stop: threading.Event) -> Iterator[int | None]:
    """Wait for one of the places that the jobs of a campaign share; none are counted out when `slots` is 0."""
    while slots and not stop.is_set():
        for slot in range(slots):
            with (folder / f"slot-{slot}").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                yield slot
                return
        stop.wait(SLOT_SECONDS)
    yield None
