"""Out of memory costs an attempt, never a step: injected, because a CPU has no memory to run out of in a test."""

import pytest
import torch

from retrain.accumulate import Accumulator
from retrain.errors import RunError
from retrain.layout import Layout

ROWS, TOKENS = 8, 6


def batch():
    lengths = torch.arange(ROWS) % TOKENS + 1
    mask = (torch.arange(TOKENS) < lengths[:, None]).long()
    return {
        "prompt_ids": torch.ones(ROWS, 3, dtype=torch.long),
        "prompt_mask": torch.ones(ROWS, 3, dtype=torch.long),
        "completion_ids": torch.arange(ROWS * TOKENS).reshape(ROWS, TOKENS),
        "completion_mask": mask,
        "advantages": torch.linspace(-1, 1, ROWS, dtype=torch.float64)[:, None].expand(ROWS, TOKENS) * mask,
        "num_items_in_batch": mask.sum(),
    }


class Device:
    """A model of one weight, on a device where only so many rows fit into one forward pass."""

    def __init__(self, *, rows, size=ROWS):
        self.weight = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.limit, self.widths, self.found = rows, [], []
        self.accumulator = Accumulator(
            Layout(micro_batch_size=size, skip=False),
            loss_type="dapo",
            backward=lambda loss: loss.backward(),
            forget=self.forget,
            diagnose=self.found.append,
            beat=lambda: None,
        )

    def forget(self):
        self.weight.grad = None

    def loss(self, micro):
        self.widths.append(
            (len(micro["completion_ids"]), micro["prompt_ids"].shape[1], micro["completion_ids"].shape[1])
        )
        if len(micro["completion_ids"]) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        dropped = torch.rand(()) * 0  # something random, as dropout would be
        return (self.weight**2 * micro["advantages"] + dropped).sum() / micro["num_items_in_batch"]

    def gradient(self):
        self.forget()
        loss = self.accumulator.gradient(batch(), self.loss, step=4, whole=False)
        return float(loss), float(self.weight.grad)


def test_the_micro_batch_is_halved_until_it_fits_and_the_gradient_is_the_same():
    expected = Device(rows=ROWS).gradient()
    device = Device(rows=3)
    assert device.gradient() == pytest.approx(expected, rel=1e-12)
    assert device.accumulator.layout.micro_batch_size == 2
    assert [found.evidence for found in device.found] == [{"before": 8, "after": 4}, {"before": 4, "after": 2}]
    assert {found.rule for found in device.found} == {"out_of_memory"}
    assert sum(device.accumulator.take_tokens()) == int(batch()["completion_mask"].sum())


def test_random_numbers_of_the_repeated_attempt_are_those_of_the_first():
    torch.manual_seed(0)
    Device(rows=ROWS, size=4).gradient()
    after = torch.get_rng_state()
    torch.manual_seed(0)
    Device(rows=4).gradient()  # one attempt with 8 fails, then two of 4
    assert torch.equal(torch.get_rng_state(), after)


def test_a_single_completion_that_does_not_fit_ends_the_run():
    with pytest.raises(RunError, match="step 5: out of memory with a single completion"):
        Device(rows=0).gradient()


def test_another_error_is_not_taken_for_memory():
    device = Device(rows=ROWS)
    with pytest.raises(RuntimeError, match="shapes"):
        device.accumulator.gradient(
            batch(), lambda _: (_ for _ in ()).throw(RuntimeError("shapes")), step=0, whole=True
        )


def test_the_worst_case_is_tried_and_leaves_nothing_behind():
    device = Device(rows=5)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    device.accumulator.try_worst_case(batch(), device.loss, prompt=11, completion=17, step=0)
    assert device.widths == [(8, 11, 17), (4, 11, 17)]
    assert device.accumulator.layout.micro_batch_size == 4
    assert device.weight.grad is None
    assert device.accumulator.tokens == []
    assert torch.equal(torch.get_rng_state(), before)
