"""What a campaign may spend, and whether it has: hours, tokens, money."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from retrain import money, store

if TYPE_CHECKING:
    from pathlib import Path

    from retrain.campaign.manifest import Manifest

LOOK_SECONDS = 10.0  # between two looks at what was spent


class Budget:
    """What a campaign may spend: hours since it was started or resumed, tokens and money over all of its runs."""

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root, self.began, self.looked = root, time.monotonic(), 0.0
        self.hours, self.tokens = manifest.campaign["budget_hours"], manifest.campaign["budget_tokens"]
        self.money = manifest.campaign.get("budget_money", 0.0)  # older campaigns have none

    def spent(self, manifest: Manifest) -> str:
        """Say which budget is spent; empty while none is."""
        now = time.monotonic()
        if self.hours and now - self.began > 3600 * self.hours:
            return f"budget_hours = {self.hours:g} is spent"
        if (self.tokens or self.money) and now - self.looked > LOOK_SECONDS:
            self.looked = now
            if self.tokens and tokens_generated(self.root, manifest) >= self.tokens:
                return f"budget_tokens = {self.tokens} is spent"
            amounts = money.spent(self.root / run.directory for run in manifest.runs) if self.money else {}
            if any(amount >= self.money for amount in amounts.values()):
                return f"budget_money = {self.money:g} is spent: {money.text(amounts)}"
        return ""


def tokens_generated(root: Path, manifest: Manifest) -> int:
    """Add up what all runs have generated so far, evaluations apart."""
    lines = (line for run in manifest.runs for line in store.read_metrics(root / run.directory))
    return int(sum(line.get("tokens/generated", 0.0) for line in lines))
