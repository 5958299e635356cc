"""Every signal is its formula on trained tokens, and nothing elsewhere."""

from __future__ import annotations

import math

import pytest
import torch

from retrain.advantages.signals import predictive_variance, shannon_entropy, surprisal
from retrain.errors import RunError
from retrain.types import Batch

MASK = torch.tensor([[True, True, True, False], [True, False, False, False], [False] * 4])
NOTHING = [math.nan, math.inf, -math.inf, 7.0]  # what may lie where no token is trained


def batch(values: list[list[float]], dtype: torch.dtype, *, entropies: bool = False) -> Batch:
    """Return three rows with these values on trained tokens, as log-probabilities or as entropies."""
    filled = torch.tensor([row + NOTHING[len(row) :] for row in values], dtype=dtype)
    ids = torch.zeros(3, 4, dtype=torch.long)
    return Batch(
        prompt_ids=ids,
        prompt_mask=MASK,
        completion_ids=ids,
        loss_mask=MASK,
        sampling_logprobs=filled,
        entropies=filled if entropies else None,
        rewards=torch.zeros(3),
        group_ids=torch.zeros(3, dtype=torch.long),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_surprisal_is_minus_the_log_probability_up_to_50(dtype: torch.dtype):
    found = surprisal(batch([[-0.5, -49.0, -200.0], [-math.inf], []], dtype))
    expected = [[0.5, 49.0, 50.0, 0.0], [50.0, 0.0, 0.0, 0.0], [0.0] * 4]
    assert torch.equal(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_predictive_variance_is_that_of_a_coin(dtype: torch.dtype):
    """The mean of (x − p)² over x = 1 with probability p and x = 0 otherwise; a half is where it is largest."""
    logprobs = [[math.log(0.5), math.log(0.1), -200.0], [0.0], []]
    given = batch(logprobs, dtype)
    found = predictive_variance(given)
    p = given.sampling_logprobs.double().exp()
    coin = p * (1 - p) ** 2 + (1 - p) * p**2
    assert torch.allclose(found[MASK], coin[MASK], atol=1e-12)
    assert found[0].tolist() == pytest.approx([0.25, 0.09, 0, 0], abs=2e-3 if dtype == torch.bfloat16 else 1e-7)
    assert not found[1:].any()
    assert found.dtype == torch.float64


def test_a_probability_that_rounding_pushed_above_one_has_no_variance():
    assert predictive_variance(batch([[1e-6, 0.0, 0.0], [0.0], []], torch.float32)).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shannon_entropy_is_what_the_engine_measured_and_never_negative(dtype: torch.dtype):
    found = shannon_entropy(batch([[1.5, 0.25, -1e-7], [3.0], []], dtype, entropies=True))
    expected = [[1.5, 0.25, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0], [0.0] * 4]
    assert torch.equal(found, torch.tensor(expected, dtype=torch.float64))


def test_shannon_entropy_of_an_engine_that_gives_none_is_refused():
    with pytest.raises(RunError, match=r'"shannon_entropy" needs the entropy .* gave none\n  choose "surprisal"'):
        shannon_entropy(batch([[0.0] * 3, [0.0], []], torch.float32))
