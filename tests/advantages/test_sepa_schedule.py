"""The schedule of λ against one observation at a time, and when what it sees acts."""

import json
import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from retrain.advantages.sepa import Sepa
from retrain.advantages.sepa_schedule import SepaSchedule
from retrain.config import schema
from tests.properties import reference
from tests.properties.cases import build, rows
from tests.properties.reference import Row, Token

variances = st.tuples(st.lists(st.floats(0, 20).map(lambda v: round(v, 4)), max_size=4), st.integers(0, 20)).map(
    lambda drawn: drawn[0] * drawn[1]  # long enough to pass the 50th observation, few numbers to draw
)
rewards = st.lists(st.sampled_from([1.0, 0.0, 0.5, None]), min_size=1, max_size=4)
seen = st.lists(st.tuples(variances, rewards), max_size=8)


def auto(**options) -> SepaSchedule:
    return SepaSchedule(schema.Sepa(**{"schedule": "auto", "correct_rate_gate": 0.0, **options}))


def numbers(values) -> torch.Tensor:
    return torch.tensor([math.nan if v is None else v for v in values], dtype=torch.float64)


def observe(schedule: SepaSchedule, values, rewards=(1.0,)) -> None:
    schedule.observe(numbers(values), numbers(rewards))


# --- linear -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "delay", "step", "expected"),
    [
        (10, 0, 0, 0.0),
        (10, 0, 4, 0.4),
        (10, 0, 10, 1.0),
        (10, 0, 99, 1.0),
        (10, 3, 3, 0.0),
        (10, 3, 8, 0.5),
        (0, 0, 50, 0.0),  # no steps, no SEPA
        (-1, -1, 10, 0.0),  # of 100 steps: a tenth of delay …
        (-1, -1, 35, 0.5),  # … then half of the run from 0 to 1
        (-1, -1, 60, 1.0),
        (-1, 0, 25, 0.5),
    ],
)
def test_linear_goes_from_zero_to_one_after_the_delay(steps, delay, step, expected):
    schedule = SepaSchedule(schema.Sepa(steps=steps, delay_steps=delay, correct_rate_gate=0.0))
    assert schedule.strength(step, 100) == pytest.approx(expected)


def test_shares_of_the_run_are_rounded_down():
    """max_steps 19: a delay of 1 step, then 9 steps."""
    schedule = SepaSchedule(schema.Sepa(correct_rate_gate=0.0))
    assert [schedule.strength(step, 19) for step in (1, 2, 10)] == pytest.approx([0.0, 1 / 9, 1.0])


# --- auto ---------------------------------------------------------------------------------------------------------


@given(
    seen, st.sampled_from(["linear", "auto"]), st.integers(0, 12), st.integers(0, 5), st.sampled_from([0.0, 0.4, 1.0])
)
def test_the_schedule_equals_one_observation_at_a_time(batches, name, steps, delay, gate):
    """The closed form of a moving average over N values is the same number as N updates; state survives as JSON."""
    options = schema.Sepa(steps=steps, delay_steps=delay, schedule=name, correct_rate_gate=gate)
    schedule, slow = SepaSchedule(options), reference.Schedule(name, steps, delay, gate)
    for step, (values, scored) in enumerate(batches):
        assert schedule.strength(step, 100) == pytest.approx(slow.strength(step), rel=1e-9, abs=1e-9)
        observe(schedule, values, scored)
        slow.observe(values, scored)
        state = json.loads(json.dumps(schedule.state_dict()))  # as a checkpoint does, in the middle of the run
        schedule = SepaSchedule(options)
        schedule.load_state_dict(state)
    assert schedule.count == slow.count
    assert schedule.ema == pytest.approx(slow.ema, rel=1e-9)
    assert schedule.v0 == (None if slow.v0 is None else pytest.approx(slow.v0, rel=1e-9))
    assert schedule.strength(7, 100) == pytest.approx(slow.strength(7), rel=1e-9, abs=1e-9)


@given(st.lists(st.floats(0, 20), max_size=120), st.lists(st.integers(0, 120), max_size=4))
def test_how_observations_are_split_into_batches_does_not_matter(values, cuts):
    """One batch of six rows is two of three: also where the 50th observation, which freezes v0, falls inside one."""
    whole, parts = auto(), auto()
    observe(whole, values)
    edges = [0, *sorted(cuts), len(values)]
    for start, end in pairwise(edges):
        observe(parts, values[start:end])
    assert parts.ema == pytest.approx(whole.ema, rel=1e-9)
    assert parts.v0 == (None if whole.v0 is None else pytest.approx(whole.v0, rel=1e-9))
    assert parts.count == whole.count


def test_the_reference_is_frozen_at_the_fiftieth_observation():
    """50 times 2, then 10 times 0 in the same batch: v0 = 2 and ema = 2·0.99^10, so ema/v0 is 0.904: not settled."""
    schedule = auto(steps=0)
    observe(schedule, [2.0] * 49)
    assert schedule.v0 is None
    observe(schedule, [2.0] + [0.0] * 10)
    assert schedule.v0 == pytest.approx(2.0)
    assert schedule.ema == pytest.approx(2.0 * 0.99**10)
    assert schedule.strength(5, 100) == 0.0


def test_strength_grows_as_uncertainty_settles():
    """0.99^230 = 0.0991 of the reference: λ = 1 − 0.0991/0.2; the linear schedule, off here, would say 0."""
    schedule = auto(steps=0)
    observe(schedule, [3.0] * 50 + [0.0] * 230)
    assert schedule.strength(5, 100) == pytest.approx(1 - 0.99**230 / 0.2)


def test_auto_is_never_behind_linear():
    schedule = auto(steps=10, delay_steps=0)
    observe(schedule, [3.0] * 60)
    assert schedule.strength(7, 100) == pytest.approx(0.7)


def test_completions_that_are_all_alike_have_settled_only_when_something_varied_before():
    """v = 0 throughout: v0 = 1e-8 and ema = 0, so ema/v0 = 0 and λ = 1: nothing is left to even out."""
    schedule = auto(steps=0)
    observe(schedule, [0.0] * 50)
    assert schedule.v0 == 1e-8
    assert schedule.strength(0, 100) == 1.0


# --- gate ---------------------------------------------------------------------------------------------------------


def test_the_gate_opens_at_the_step_after_a_batch_was_right_often_enough_and_stays_open():
    """Rates 0, 1/4 (below 0.3), none scored, 1/2, 0: λ leaves 0 at step 4, with the value that linear has there."""
    schedule = SepaSchedule(schema.Sepa(steps=10, delay_steps=0, correct_rate_gate=0.3))
    strengths = []
    for step, batch in enumerate([(0.0,), (1.0, 0.0, 0.0, 0.0), (None, None), (1.0, None, 0.5), (0.0,), (0.0,)]):
        strengths.append(schedule.strength(step, 100))
        observe(schedule, [1.0], batch)
    assert strengths == pytest.approx([0, 0, 0, 0, 0.4, 0.5])


def test_a_rate_equal_to_the_gate_opens_it():
    schedule = SepaSchedule(schema.Sepa(steps=10, delay_steps=0, correct_rate_gate=0.5))
    observe(schedule, [], (1.0, 0.0))
    assert schedule.strength(5, 100) == 0.5


def test_a_gate_of_zero_is_open_from_the_start():
    assert SepaSchedule(schema.Sepa(steps=1, delay_steps=0, correct_rate_gate=0.0)).strength(1, 100) == 1.0


# --- through the transform ----------------------------------------------------------------------------------------


@given(st.lists(rows(), min_size=1, max_size=6), st.sampled_from([0.0, 0.4]))
def test_the_transform_shows_the_schedule_one_variance_per_completion_with_execution_tokens(batches, gate):
    """Taken before SEPA changes anything, at every step, the gate closed or not."""
    transform = Sepa(schema.Sepa(steps=4, delay_steps=1, schedule="auto", correct_rate_gate=gate))
    slow = reference.Schedule("auto", 4, 1, gate)
    for step, batch in enumerate(batches):
        case = build(batch, step=step)
        transform(case.credit, case.ctx)
        assert case.logged["sepa/lambda"] == pytest.approx(slow.strength(step), abs=1e-9)
        slow.observe_rows(batch)
    state = transform.state_dict()
    assert state["count"] == slow.count
    assert state["ema"] == pytest.approx(slow.ema, rel=1e-9, abs=1e-9)
    assert state["gate_open"] == slow.gate_open


def test_what_a_step_shows_acts_from_the_next_one():
    """The batch that opens the gate and the batch after it are the same: only the second is evened out."""
    transform = Sepa(schema.Sepa(steps=1, delay_steps=0, correct_rate_gate=0.5))
    row, logged = Row((Token(1.0, 1.0), Token(1.0, 3.0))), []
    for step in (2, 3):
        case = build([row], step=step)
        logged.append((transform(case.credit, case.ctx).uncertainty.tolist(), case.logged["sepa/lambda"]))
    assert logged == [([[1.0, 3.0]], 0.0), ([[2.0, 2.0]], 1.0)]


def test_a_resumed_transform_goes_on_where_it_was():
    options = schema.Sepa(steps=0, schedule="auto", correct_rate_gate=0.5)
    straight, first, resumed = Sepa(options), Sepa(options), Sepa(options)
    batches = [build([Row((Token(1.0, 1.0), Token(1.0, 3.0 + i)))] * 20, step=i) for i in range(6)]
    for case in batches[:3]:
        straight(case.credit, case.ctx)
        first(case.credit, case.ctx)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    for case in batches[3:]:
        expected = straight(case.credit, case.ctx).uncertainty
        assert torch.equal(resumed(case.credit, case.ctx).uncertainty, expected)
    assert resumed.state_dict() == straight.state_dict()
