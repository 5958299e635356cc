"""The model loaded and asked: what a run would see before its first update, from the run's own parts.

64 prompts are sampled in batches of the run (`retrain.batches`), and the loss and gradient of the first are computed by
its trainer, with the ratio contract. No weight is changed.
"""

from __future__ import annotations

import math
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils.memory import clear_device_cache

from retrain.backends.local import longest_prompt
from retrain.batches import Batches
from retrain.doctor.probe import Probed
from retrain.errors import RunError
from retrain.events import Diagnosed, Emit, Phase
from retrain.layout import Layout
from retrain.ratio_contract import RatioContract, is_exact
from retrain.replay import make_trainer
from retrain.run import Built, build, with_seed

if TYPE_CHECKING:
    from retrain.config import Composed
    from retrain.trainer import Trainer
    from retrain.types import Books, CreditedBatch, Source, Store

PROMPTS = 64


class _NoStore:
    """Stands where batches and trainer write: nothing is kept."""

    def __init__(self, scratch: Path) -> None:
        self.dir = scratch

    def write_rollouts(self, *_: Any) -> None:
        """Drop them."""


class _Listening:
    """Stands where a trainer keeps the record of a run: remembers what did not fit into memory."""

    stop = None

    def __init__(self) -> None:
        self.halvings: list[str] = []

    def diagnose(self, found: Diagnosed) -> None:
        self.halvings.append(found.message)


class _Remembered(RatioContract):
    """The ratio contract of a run, which also keeps what it found."""

    def settle(self, *, at_identical_weights: bool) -> dict[str, float]:
        self.found = super().settle(at_identical_weights=at_identical_weights)
        return self.found


class _First:
    """Gives the trainer the batch that was sampled already."""

    def __init__(self, batch: CreditedBatch) -> None:
        self.batch = batch

    def next_batch(self, _: int) -> CreditedBatch:
        return self.batch


def probe(composed: Composed, emit: Emit) -> Probed:
    """Build the run, sample, and compute one gradient.

    Raises:
        RetrainError: what a run would have ended with.
    """
    started = time.perf_counter()
    try:
        built = build(with_seed(composed), emit)
        try:
            with tempfile.TemporaryDirectory() as scratch:  # HF's trainer insists on a folder
                return _probed(built, Path(scratch), time.perf_counter() - started, emit)
        finally:
            cast("Any", built.job.backend).engine.stop()
            built.made.close()
            del built
            clear_device_cache(garbage_collection=True)  # a campaign's next condition needs the room
    except torch.OutOfMemoryError as error:
        raise RunError(
            f"out of memory: {str(error).partition('. ')[0]}", "a smaller model, or a larger device"
        ) from error


def _probed(built: Built, scratch: Path, load_seconds: float, emit: Emit) -> Probed:
    job, backend = built.job, cast("Any", built.job.backend)
    training, on_gpu = job.config.training, backend.device.type != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    layout = Layout.chosen(
        micro_batch_size=training.micro_batch_size, max_tokens=training.max_tokens, on_gpu=on_gpu, skip=True
    )
    books, store = _Listening(), cast("Store", _NoStore(scratch))
    trainer = make_trainer(
        job.config,
        backend.policy,
        backend.tokenizer,
        layout.micro_batch_size,
        scratch,
        books=cast("Books", books),
        store=store,
    )
    trainer.ratios = _Remembered(exact=is_exact(backend.policy.dtype))
    source = Batches(job, backend.engine, store)
    wanted = min(PROMPTS, len(job.data))
    made: list[CreditedBatch] = []
    for number in range(math.ceil(wanted / training.batch_size)):
        emit(Phase(name="sample", detail=f"{number * training.batch_size} of {wanted} prompts"))
        made.append(source.next_batch(number * job.config.algorithm.num_iterations))
    emit(Phase(name="train"))
    trainer.source = cast("Source", _First(made[0]))
    trainer.worst_case = (longest_prompt(job), training.max_tokens) if on_gpu else None
    ratios, refused, seconds = _gradients(trainer)
    return Probed(
        batches=[batch.metrics for batch in made],
        prompts=len(made) * training.batch_size,
        completions=len(made) * training.batch_size * training.group_size,
        load_seconds=load_seconds,
        held_out=len(job.held_out.tasks) if job.held_out else 0,
        ratios=ratios,
        refused=refused,
        train_seconds=seconds,
        peak_bytes=torch.cuda.max_memory_allocated() if on_gpu else None,
        halvings=books.halvings,
    )


def _gradients(trainer: Trainer) -> tuple[dict[str, float], RunError | None, float | None]:
    """Compute the batch's gradient twice: to compare sampler and trainer in every row, then as later steps do, timed.

    The first time also pays for what a run pays once: kernels that are compiled, the trial of the worst case.
    """
    try:
        trainer.training_step(trainer.policy, [{}])
        ratios, started = cast("_Remembered", trainer.ratios).found, time.perf_counter()
        trainer.training_step(trainer.policy, [{}])
    except RunError as error:
        if (trainer.store.dir / "debug").is_dir():  # a batch that is not finite was kept, and goes with the folder
            error = RunError(error.problems[0].message, "a run keeps such a batch: retrain debug-batch looks into it")
        return {}, error, None
    return ratios, None, time.perf_counter() - started
