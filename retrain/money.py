"""What runs have cost, where their backend has a price: read from their directories.

Each line of metrics.jsonl says what was spent since the one before (`retrain.types.MONEY`); run.json has the currency,
and what went into steps that were done again. A run that failed and was begun anew counts too: NAME.failed-1 beside it.
"""

from __future__ import annotations

import glob
from typing import TYPE_CHECKING

from retrain.capabilities import MONEY
from retrain.errors import ConfigError
from retrain.store import RunRecord, read_metrics

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


def spent(directories: Iterable[Path]) -> dict[str, float]:
    """Return what runs have cost together, by currency; empty where nothing has a price."""
    found: dict[str, float] = {}
    for directory in directories:
        for run in (directory, *directory.parent.glob(f"{glob.escape(directory.name)}.failed-*")):
            try:
                record = RunRecord.read(run)
            except ConfigError:  # it has not begun, or its record is damaged
                continue
            if record.currency:
                amount = record.money_redone + sum(line.get(MONEY, 0.0) for line in read_metrics(run))
                found[record.currency] = found.get(record.currency, 0.0) + amount
    return found


def text(amounts: Mapping[str, float]) -> str:
    """Write amounts as a person would: ``12.40 USD``, ``0.0031 USD``."""
    return ", ".join(f"{_rounded(amount)} {currency}" for currency, amount in sorted(amounts.items()))


def _rounded(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.2g}"
