"""The transforms once more: slow, in plain Python on lists of floats, written from the formulas of the specification.

Rows in, rows out, so that they compose as the real ones do. Tokens that are not trained are never read.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import fmean, pvariance


@dataclass(frozen=True)
class Token:
    advantage: float
    uncertainty: float
    trained: bool = True
    planning: bool = False


@dataclass(frozen=True)
class Row:
    """One completion. `reward` None means unscorable."""

    tokens: tuple[Token, ...]
    group: int = 0
    reward: float | None = 1.0

    @property
    def trained(self) -> list[Token]:
        return [token for token in self.tokens if token.trained]

    @property
    def execution(self) -> list[float]:
        return [token.uncertainty for token in self.trained if not token.planning]


def each_token(row: Row, change) -> Row:
    """Change the trained tokens of a row."""
    return replace(row, tokens=tuple(change(token) if token.trained else token for token in row.tokens))


def gtpo(rows: list[Row], beta: float) -> list[Row]:
    def weigh(row: Row) -> Row:
        mu = fmean(token.uncertainty for token in row.trained) if row.trained else 0.0
        if beta == 0 or mu < 1e-7:
            return row

        def weighted(token: Token) -> Token:
            weight = max(0.0, 1 + beta * (token.uncertainty / (mu + 1e-8) - 1))
            return replace(token, advantage=token.advantage * weight)

        return each_token(row, weighted)

    return [weigh(row) for row in rows]


def hicra(rows: list[Row], alpha: float) -> list[Row]:
    def amplified(token: Token) -> Token:
        more = alpha * abs(token.advantage) if token.planning else 0.0
        return replace(token, advantage=token.advantage + more)

    return [each_token(row, amplified) for row in rows]


def sepa(rows: list[Row], strength: float) -> list[Row]:
    def even_out(row: Row) -> Row:
        def evened(token: Token) -> Token:
            if token.planning:
                return token
            return replace(token, uncertainty=strength * fmean(row.execution) + (1 - strength) * token.uncertainty)

        return each_token(row, evened)

    return [even_out(row) for row in rows]


def entropy_mask(rows: list[Row], rho: float) -> list[Row]:
    groups: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        groups[row.group] += [token.uncertainty for token in row.trained]
    thresholds = {}
    for group, values in groups.items():
        k = max(1, math.floor(len(values) * Fraction(str(rho))))
        thresholds[group] = sorted(values, reverse=True)[k - 1] if values else math.inf

    def masked(row: Row, token: Token) -> Token:
        return token if token.uncertainty >= thresholds[row.group] else replace(token, advantage=0.0)

    return [each_token(row, lambda token, row=row: masked(row, token)) for row in rows]


def whiten(rows: list[Row]) -> list[Row]:
    values = [token.advantage for row in rows if row.reward is not None for token in row.trained]
    mean, deviation = (fmean(values), math.sqrt(pvariance(values))) if values else (0.0, 0.0)

    def whitened(token: Token) -> Token:
        return replace(token, advantage=(token.advantage - mean) / (deviation + 1e-8))

    def nothing(token: Token) -> Token:
        return replace(token, advantage=0.0)

    return [each_token(row, nothing if row.reward is None else whitened) for row in rows]


def clip(rows: list[Row], most: float) -> list[Row]:
    def clipped(token: Token) -> Token:
        return replace(token, advantage=max(-most, min(most, token.advantage))) if most else token

    return [each_token(row, clipped) for row in rows]


class Schedule:
    """λ of SEPA, one observation at a time."""

    def __init__(self, schedule: str, steps: int, delay: int, gate: float) -> None:
        self.schedule, self.steps, self.delay, self.gate = schedule, steps, delay, gate
        self.ema, self.v0, self.count, self.gate_open = 0.0, None, 0, gate <= 0

    def strength(self, step: int) -> float:
        linear = max(0.0, min(1.0, (step - self.delay) / self.steps)) if self.steps else 0.0
        if not self.gate_open:
            return 0.0
        if self.schedule == "linear" or self.v0 is None:
            return linear
        return max(1 - min((self.ema / self.v0) / 0.2, 1.0), linear)

    def observe(self, variances: list[float], rewards: list[float | None]) -> None:
        for v in variances:
            self.count += 1
            self.ema = v if self.count == 1 else 0.99 * self.ema + 0.01 * v
            if self.count == 50:
                self.v0 = max(self.ema, 1e-8)
        scored = [reward for reward in rewards if reward is not None]
        if scored and sum(reward > 0.5 for reward in scored) / len(scored) >= self.gate:
            self.gate_open = True

    def observe_rows(self, rows: list[Row]) -> None:
        self.observe([pvariance(row.execution) for row in rows if row.execution], [row.reward for row in rows])
