"""Small batches for property tests: drawn by hypothesis as rows, turned into the tensors that transforms get.

Uncertainties and advantages have three decimals, so that no mean falls between two roundings of a threshold, and ties
are common.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import strategies as st

from retrain.advantages.clip import Clip
from retrain.advantages.entropy_mask import EntropyMask
from retrain.advantages.gtpo import Gtpo
from retrain.advantages.hicra import Hicra
from retrain.advantages.sepa import Sepa
from retrain.advantages.whiten import Whiten
from retrain.config import schema
from retrain.types import AdvantageContext, Batch, Credit, Transform
from tests.properties import reference
from tests.properties.reference import Row, Token

if TYPE_CHECKING:
    from collections.abc import Callable

SEPA_STEPS = 8  # the λ of a case is step / 8

uncertainties = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 50).map(lambda x: round(x, 3)))
advantages = st.one_of(st.sampled_from([0.0, 1.0, -0.5]), st.floats(-9, 9).map(lambda x: round(x, 3)))
tokens = st.builds(
    Token,
    advantage=advantages,
    uncertainty=uncertainties,
    trained=st.sampled_from([True, True, False]),
    planning=st.booleans(),
)


rewards = st.sampled_from([1.0, 0.0, None])


def rows(token=tokens, reward=rewards):
    """One to five completions of up to six tokens, some without any, in up to three groups in any order."""
    row = st.builds(Row, tokens=st.lists(token, max_size=6).map(tuple), group=st.integers(0, 2), reward=reward)
    return st.lists(row, min_size=1, max_size=5)


@dataclass(frozen=True)
class Case:
    """A batch and its credit. `logged` fills as transforms are applied."""

    credit: Credit
    ctx: AdvantageContext
    logged: dict[str, float]

    def values(self, tensor: torch.Tensor) -> list[float]:
        """Return what lies under the loss mask, in row order."""
        return tensor[self.ctx.loss_mask].tolist()


def build(rows: list[Row], *, width: int = 0, garbage: float | None = None, step: int = 0, dtype=torch.float64) -> Case:
    """Pad rows into a batch of at least `width` columns. `garbage` replaces whatever is not trained."""
    width = max(width, 1, *(len(row.tokens) for row in rows))
    filler = Token(0.0, 0.0, trained=False)
    padded = [[*row.tokens, *[filler] * (width - len(row.tokens))] for row in rows]

    def column(field: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([[getattr(token, field) for token in row] for row in padded], dtype=dtype)

    mask, planning = column("trained", torch.bool), column("planning", torch.bool)
    advantage, uncertainty = column("advantage", torch.float64), column("uncertainty", torch.float64)
    if garbage is not None:
        advantage, uncertainty = (torch.where(mask, x, garbage) for x in (advantage, uncertainty))
        planning = torch.where(mask, planning, ~planning)
    batch = Batch(
        prompt_ids=torch.zeros(len(rows), 1, dtype=torch.long),
        prompt_mask=torch.ones(len(rows), 1, dtype=torch.bool),
        completion_ids=torch.zeros(len(rows), width, dtype=torch.long),
        loss_mask=mask,
        sampling_logprobs=-uncertainty.to(dtype),
        entropies=uncertainty.to(dtype),
        rewards=torch.tensor([float("nan") if row.reward is None else row.reward for row in rows], dtype=dtype),
        group_ids=torch.tensor([row.group for row in rows]),
    )
    logged: dict[str, float] = {}
    ctx = AdvantageContext(batch=batch, planning_mask=planning, step=step, max_steps=100, log=logged.__setitem__)
    return Case(Credit(advantages=advantage, uncertainty=uncertainty), ctx, logged)


def flat(rows: list[Row], field: str) -> list[float]:
    """Return a field of the trained tokens, in row order: what `Case.values` gives for tensors."""
    return [getattr(token, field) for row in rows for token in row.trained]


def close(expected: list[float], rel: float = 1e-9, abs: float = 1e-9):  # noqa: A002 — pytest's own name
    return pytest.approx(expected, rel=rel, abs=abs)


@dataclass(frozen=True)
class Choice:
    """A transform with its options: as the pipeline makes it, and as the reference computes it."""

    name: str
    make: Callable[[], Transform]
    reference: Callable[[list[Row], int], list[Row]]  # rows, step

    def __repr__(self) -> str:
        return self.name


def _gtpo(beta: float) -> Choice:
    return Choice(f"gtpo({beta})", lambda: Gtpo(schema.Gtpo(beta=beta)), lambda rows, _: reference.gtpo(rows, beta))


def _hicra(alpha: float) -> Choice:
    return Choice(
        f"hicra({alpha})", lambda: Hicra(schema.Hicra(alpha=alpha)), lambda rows, _: reference.hicra(rows, alpha)
    )


def _entropy_mask(rho: float) -> Choice:
    make = partial(EntropyMask, schema.EntropyMask(rho=rho))
    return Choice(f"entropy_mask({rho})", make, lambda rows, _: reference.entropy_mask(rows, rho))


def _clip(most: float) -> Choice:
    return Choice(f"clip({most})", lambda: Clip(schema.Clip(max=most)), lambda rows, _: reference.clip(rows, most))


SEPA = Choice(
    "sepa",
    lambda: Sepa(schema.Sepa(steps=SEPA_STEPS, delay_steps=0, correct_rate_gate=0.0)),
    lambda rows, step: reference.sepa(rows, min(step / SEPA_STEPS, 1.0)),
)
WHITEN = Choice("whiten", lambda: Whiten(schema.Whiten()), lambda rows, _: reference.whiten(rows))
ONE_OF_EACH = [_gtpo(0.5), _hicra(0.2), SEPA, _entropy_mask(0.3), WHITEN, _clip(1.0)]

steps = st.integers(0, SEPA_STEPS)
choices = st.one_of(
    st.floats(0, 3).map(lambda x: _gtpo(round(x, 3))),
    st.floats(0, 2).map(lambda x: _hicra(round(x, 3))),
    st.integers(1, 1000).map(lambda n: _entropy_mask(n / 1000)),
    st.floats(0, 5).map(lambda x: _clip(round(x, 3))),
    st.just(SEPA),
    st.just(WHITEN),
)
