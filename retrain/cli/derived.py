"""What follows from a config: counts, sizes, and the sentence that says them. Imports no tensor library."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from retrain import estimate, money, store
from retrain.capabilities import Usage
from retrain.cli import formulas
from retrain.config import adapter
from retrain.estimate import ASSUMED_PROMPT, evaluations, volume
from retrain.shapes import ModelSize, measure

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping
    from pathlib import Path

    from retrain.capabilities import Capabilities
    from retrain.config.schema import RunConfig
    from retrain.estimate import Memory


@dataclass(frozen=True, kw_only=True)
class AdapterFacts:
    """The adapter that training starts from, where it is on this machine."""

    folder: str
    rank: int
    alpha: float
    target_modules: str


@dataclass(frozen=True, kw_only=True)
class Derived:
    """Numbers and sentences that `explain` shows and `--json` gives under ``derived``."""

    completions_per_step: int
    tokens_per_step_at_most: int
    optimizer_steps: int
    generated_batches: int
    generated_tokens_at_most: int
    clipping_can_act: bool
    skips_uninformative: bool
    skipping_reason: str
    rollout_bytes_at_most: int
    checkpoint_bytes_at_most: int | None
    adapter_bytes_at_most: int | None
    disk_bytes_at_most: int | None
    evaluations: int
    evaluation_tokens_at_most: int | None
    pipeline: list[str]
    model: ModelSize
    adapter: AdapterFacts | None
    memory: Memory
    money_at_most: dict[str, float]  # by currency; empty: the backend has no price, or its usage has no bound
    run_directory: Path


def derive(config: RunConfig, name: str, now: dt.datetime, offered: Capabilities) -> Derived:
    """Work out what a run of this config would do, with the functions that the run itself uses where there are any.

    offered: what its backend says of itself
    """
    size, model = volume(config), measure(config)
    memory = estimate.memory(config, device_bytes=memory_of_this_machine(config))
    taken = estimate.disk(config, model, memory.dtype)
    if not offered.on_this_machine:
        note = f'unknown: backend "{config.backend.backend}" does not say what it takes of this machine'
        memory = replace(memory, phases=(), peak="", peak_bytes=None, note=note)
    skips, why = skipping(config)
    return Derived(
        completions_per_step=size.completions_per_step,
        tokens_per_step_at_most=size.tokens_per_step_at_most,
        optimizer_steps=config.training.max_steps,
        generated_batches=size.generated_batches,
        generated_tokens_at_most=size.generated_tokens_at_most,
        clipping_can_act=config.algorithm.num_iterations > 1,
        skips_uninformative=skips,
        skipping_reason=why,
        rollout_bytes_at_most=taken.rollouts,
        checkpoint_bytes_at_most=taken.checkpoints,
        adapter_bytes_at_most=taken.adapters,
        disk_bytes_at_most=taken.total,
        evaluations=evaluations(config),
        evaluation_tokens_at_most=evaluation_tokens(config),
        pipeline=formulas.pipeline(config),
        model=model,
        adapter=starting_adapter(config),
        memory=memory,
        money_at_most=money_at_most(config, offered),
        run_directory=store.planned_directory(config, name, now),
    )


def disk_text(found: Derived) -> str:
    """Say what a run leaves on disk, and of what it consists."""
    parts = {
        "completions": found.rollout_bytes_at_most,
        "checkpoints": found.checkpoint_bytes_at_most,
        "adapters": found.adapter_bytes_at_most,
    }
    said = ", ".join(f"{name} {bytes_text(size)}" for name, size in parts.items() if size is not None)
    if found.disk_bytes_at_most is None:
        return f"at most about {said}; checkpoints as the model is, which is not here"
    return f"at most about {bytes_text(found.disk_bytes_at_most)}: {said}"


def evaluation_tokens(config: RunConfig) -> int | None:
    """Return the most that all evaluations generate, the final test apart; None: `examples` sets no bound."""
    wanted = config.eval
    if not wanted.examples:
        return 0 if not wanted.every else None
    return evaluations(config) * wanted.examples * wanted.samples * (wanted.max_tokens or config.training.max_tokens)


def usage_at_most(config: RunConfig) -> Usage | None:
    """Return the most tokens that a run uses with prompts of `ASSUMED_PROMPT` tokens, the final test apart.

    None: `eval.examples` sets no bound.
    """
    evaluated = evaluation_tokens(config)
    if evaluated is None:
        return None
    training, size = config.training, volume(config)
    prompts = size.generated_batches * training.batch_size + evaluations(config) * config.eval.examples
    rows = training.max_steps * size.completions_per_step
    return Usage(
        prompt=prompts * ASSUMED_PROMPT,
        sampled=size.generated_tokens_at_most + evaluated,
        trained=rows * (ASSUMED_PROMPT + training.max_tokens),
    )


def money_at_most(config: RunConfig, offered: Capabilities) -> dict[str, float]:
    """Return what a run costs at most, by currency; empty where that is not known, or it has no price."""
    prices, usage = offered.price(config), usage_at_most(config)
    return {} if prices is None or usage is None else {prices.currency: prices.of(usage)}


def money_text(amounts: Mapping[str, float]) -> str:
    return f"at most {money.text(amounts)}, if prompts have no more than {ASSUMED_PROMPT} tokens"


def starting_adapter(config: RunConfig) -> AdapterFacts | None:
    """Return the shape of `model.adapter`, which wins over the keys of a new one; None: a new one, or none."""
    folder = adapter.find(config.model.adapter) if config.model.adapter else None
    if folder is None or adapter.not_an_adapter(folder):
        return None
    facts = adapter.read(folder)
    targets = facts.target_modules
    return AdapterFacts(
        folder=str(folder),
        rank=facts.rank,
        alpha=facts.alpha,
        target_modules=targets if isinstance(targets, str) else ",".join(sorted(targets)),
    )


def memory_of_this_machine(config: RunConfig) -> int | None:
    """Return the memory that a run on the CPU has; None on a GPU, which only a tensor library could ask."""
    if estimate.on_gpu(config.backend.devices):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def skipping(config: RunConfig) -> tuple[bool, str]:
    """Tell whether completions without advantage cost no backward pass, and why (not)."""
    if not config.algorithm.skip_uninformative:
        return False, "algorithm.skip_uninformative is false"
    if config.algorithm.kl_coef > 0:
        return False, f"kl_coef = {config.algorithm.kl_coef:g} gives every completion a gradient"
    return True, "their gradient is zero"


def sentence(config: RunConfig, derived: Derived) -> str:
    """Say in words what the run does."""
    training, passes = config.training, config.algorithm.num_iterations
    shape = f"{training.batch_size} prompts × {training.group_size}"
    use = "one optimiser step" if passes == 1 else f"{passes} optimiser steps"
    clip = (
        f"Clipping can act from the second of the {passes} steps on a batch"
        if derived.clipping_can_act
        else "Clipping cannot act: with num_iterations = 1 the ratio is 1"
    )
    tokens = derived.evaluation_tokens_at_most
    most = f", {tokens:,} tokens at most" if tokens is not None else ""
    held_out = f" Evaluated {derived.evaluations} times on held-out problems{most}." if derived.evaluations else ""
    skip = "skipped" if derived.skips_uninformative else "not skipped"
    return (
        f"Trains {config.model.model}: {derived.optimizer_steps:,} optimiser steps. Each batch is "
        f"{derived.completions_per_step:,} completions ({shape}) of at most "
        f"{training.max_tokens:,} tokens, {derived.tokens_per_step_at_most:,} at most, for {use}; "
        f"{derived.generated_tokens_at_most:,} tokens at most in all. {clip}. "
        f"Completions without advantage are {skip} in the backward pass: {derived.skipping_reason}."
        f"{held_out} {disk_sentence(derived)}"
    )


def disk_sentence(derived: Derived) -> str:
    """Say in a sentence how much disk a run takes."""
    if derived.disk_bytes_at_most is None:
        return f"Completions take at most about {bytes_text(derived.rollout_bytes_at_most)} of disk."
    return f"All of it takes at most about {bytes_text(derived.disk_bytes_at_most)} of disk."


def bytes_text(count: int) -> str:
    """Write a size as a person would: ``1.3 GB``."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
