"""What a training step really takes on a CPU: the tensors that autograd saves, and the top of what is allocated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch.profiler import ProfilerActivity, profile
from trl import GRPOConfig, GRPOTrainer

from retrain import model
from tests.models import config_of

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


def trl_loss(config: Any, scratch: Path) -> tuple[Any, Any]:
    """Return stock TRL around the config's policy, and the rows of one micro-batch at their full length."""
    policy: Any = model.load_policy(config, CPU)
    checkpointing = config.training.gradient_checkpointing == "on"
    args = GRPOConfig(
        output_dir=str(scratch),
        use_cpu=True,
        bf16=False,
        report_to=[],
        per_device_train_batch_size=8,
        num_generations=8,
        activation_checkpointing=checkpointing,
        beta=0.0,
        disable_dropout=config.lora.dropout == 0.0,
    )
    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=lambda **_: [],
        args=args,
        train_dataset=Dataset.from_dict({"prompt": [""]}),
        processing_class=model.load_tokenizer(config).hf,
    )
    if checkpointing:
        policy.activation_checkpointing_enable()
        if config.model.lora_rank:
            policy.enable_input_require_grads()
    trainer.current_gradient_accumulation_steps = 1  # set by its loop
    return trainer, policy.train()


def batch(rows: int, prompt: int, completion: int) -> dict[str, torch.Tensor]:
    """Return the inputs of TRL's loss; one prompt is shorter, as always."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(rows, prompt, dtype=torch.long)
    mask[0, :3] = 0
    made = {
        "prompt_ids": torch.randint(3, 200, (rows, prompt), generator=generator),
        "prompt_mask": mask,
        "completion_ids": torch.randint(3, 200, (rows, completion), generator=generator),
        "completion_mask": torch.ones(rows, completion, dtype=torch.long),
        "advantages": torch.randn(rows, completion, generator=generator),
    }
    return {**made, "num_items_in_batch": made["completion_mask"].sum()}


def saved_bytes(trainer: Any, policy: Any, inputs: Any) -> int:
    """Add up the storages that a forward pass keeps for its backward pass, without the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in policy.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = trainer.compute_loss(policy, inputs)
    del loss
    return sum(seen.values())


def peak_bytes(trainer: Any, policy: Any, inputs: Any) -> int:
    """Return the most that is allocated at once over a forward and backward pass, without the parameters' gradients."""
    trainer.compute_loss(policy, inputs).backward()  # gradients are there from now on
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.compute_loss(policy, inputs).backward()
    held = top = 0
    for event in sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            top = max(top, held)
    return top


def training_config(folder: Path, *, rows: int, completion: int, **keys: Any) -> Any:
    """Return a config whose micro-batch is `rows` full-length completions."""
    training = {"batch_size": 1, "group_size": rows, "micro_batch_size": rows, "max_tokens": completion}
    training["gradient_checkpointing"] = keys.pop("gradient_checkpointing", "off")
    return config_of(folder, model=keys, training=training)
