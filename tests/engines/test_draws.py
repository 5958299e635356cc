"""Random numbers: uniform, independent, keyed. Tokens: distributed as asked."""

from __future__ import annotations

import itertools

import pytest
import torch

from retrain.engines.draws import draw, nucleus, row_keys, uniforms


def keys(num: int = 4096, *, stream: int = 0, seed: int = 0, step: int = 0) -> torch.Tensor:
    row = torch.arange(num)
    return row_keys(stream=stream, seed=seed, step=step, tasks=row // 64, rollouts=row % 64)


def test_splitmix64_gives_the_published_sequence():
    """Vigna's splitmix64.c with seed 1234567 gives these first outputs; a counter from key k is that generator at k."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    start = torch.tensor([1234567])
    ours = [uniforms(start, t).item() for t in range(3)]
    assert ours == [(number >> 11) / 2**53 for number in expected]


def test_uniforms_are_uniform():
    """Mean and variance within 5 sigma, and a chi-squared over 256 bins."""
    u = torch.stack([uniforms(keys(), t) for t in range(64)])
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * (1 / 12 / u.numel()) ** 0.5
    counts = torch.histc(u.float(), 256, 0, 1)
    expected = u.numel() / 256
    assert ((counts - expected) ** 2 / expected).sum() < 255 + 5 * (2 * 255) ** 0.5


@pytest.mark.parametrize("axis", ["position", "row"])
def test_uniforms_of_neighbours_are_uncorrelated(axis: str):
    u = torch.stack([uniforms(keys(), t) for t in range(64)])
    first, second = (u[:-1], u[1:]) if axis == "position" else (u[:, :-1], u[:, 1:])
    correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
    assert abs(correlation) < 5 / first.numel() ** 0.5


def test_every_part_of_the_key_matters():
    """No two of 64 combinations share a key for any of 4096 rows: a collision by chance has probability 1e-9."""
    combinations = itertools.product(range(4), repeat=3)
    every = torch.cat([keys(stream=a, seed=b, step=c) for a, b, c in combinations])
    assert len(every.unique()) == len(every)


def test_numbers_of_one_row_do_not_depend_on_the_other_rows():
    assert torch.equal(uniforms(keys(), 7)[100:200], uniforms(keys()[100:200], 7))


def chi_squared(seen: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Return the statistic over cells that expect more than 10, and its mean plus 5 sigma."""
    big = expected > 10
    return float(((seen - expected)[big] ** 2 / expected[big]).sum()), float(big.sum() + 5 * (2 * big.sum()) ** 0.5)


@pytest.mark.parametrize("top_p", [1.0, 0.6])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_tokens_follow_the_distribution(temperature: float, top_p: float):
    """200 000 tokens of a 50-token distribution, against probabilities computed by plain sorting in Python."""
    logits = 1.5 * torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    prob = torch.softmax(logits / temperature, 0)
    allowed, reached = [], 0.0
    for p, token in sorted(((p, i) for i, p in enumerate(prob.tolist())), reverse=True):
        if reached < top_p:
            allowed.append(token)
            reached += p
    target = torch.zeros(50, dtype=torch.float64)
    target[allowed] = prob[allowed] / prob[allowed].sum()
    num = 200_000
    drawn = draw(logits.expand(num, -1), uniforms(keys(num), 0), temperature=temperature, top_p=top_p)
    seen = torch.bincount(drawn.tokens, minlength=50).double()
    assert seen[target == 0].sum() == 0
    statistic, bound = chi_squared(seen, target * num)
    assert statistic < bound
    assert torch.allclose(drawn.logprobs, prob.log()[drawn.tokens], atol=1e-12)  # the full distribution's, always
    assert torch.allclose(drawn.entropies[0], -(prob * prob.log()).sum(), atol=1e-12)


def test_nucleus_keeps_the_fewest_tokens_that_reach_top_p():
    prob = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert nucleus(prob, 0.69).tolist() == [[0.0, prob[0, 1], 0.0, prob[0, 3]]]
    assert nucleus(prob, 0.71).tolist() == [[0.0, prob[0, 1], prob[0, 2], prob[0, 3]]]
    assert nucleus(prob, 1e-9).tolist() == [[0.0, prob[0, 1], 0.0, 0.0]]


def test_temperature_zero_takes_the_likeliest_token_and_of_equal_ones_the_lowest_id():
    """Whatever the random number and top_p say; log-probability and entropy are those of temperature 1."""
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0], [5.0, -1.0, float("-inf"), 4.9]])
    for u, top_p in itertools.product((0.0, 0.7, 1 - 2**-53), (1.0, 0.1)):
        uniform = torch.full((2,), u, dtype=torch.float64)
        drawn = draw(logits, uniform, temperature=0.0, top_p=top_p)
        assert drawn.tokens.tolist() == [1, 0]
        at_one = logits.log_softmax(-1)
        assert torch.equal(drawn.logprobs, at_one[[0, 1], [1, 0]])
        assert torch.equal(drawn.entropies, draw(logits, uniform, temperature=1.0).entropies)


def test_temperature_zero_is_the_limit_of_small_temperatures():
    logits = torch.randn(64, 50, generator=torch.Generator().manual_seed(0))
    cold = draw(logits, uniforms(keys(64), 0), temperature=1e-6)
    assert torch.equal(draw(logits, uniforms(keys(64), 0), temperature=0.0).tokens, cold.tokens)


def test_a_logit_that_is_not_a_number_is_not_hidden_by_temperature_zero():
    """The engine refuses completions whose log-probabilities are not finite."""
    logits = torch.tensor([[0.0, float("nan"), 1.0]])
    assert draw(logits, torch.zeros(1, dtype=torch.float64), temperature=0.0).logprobs.isnan().all()


def test_no_token_of_probability_zero_is_drawn_at_either_end():
    """The largest number below 1, and 0, find tokens that have a probability; -inf logits leave the entropy finite."""
    logits = torch.tensor([[float("-inf"), 0.0, 0.0, float("-inf")]]).expand(2, -1)
    drawn = draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64), temperature=1.0)
    assert drawn.tokens.tolist() == [1, 2]
    assert torch.allclose(drawn.entropies, torch.tensor(2.0).log())
