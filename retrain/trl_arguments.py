"""What TRL's and HF's trainers are made with: our keys as their arguments, and stand-ins for what is ours to do.

Defaults of theirs that we undo say why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.utils.data import Sampler
from trl.trainer.grpo_config import GRPOConfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrain.config.schema import RunConfig


def grpo_config(config: RunConfig, *, scratch: Path, on_cpu: bool) -> GRPOConfig:
    """Turn our keys into TRL's arguments. HF's checkpoints pass through `scratch`."""
    training, algorithm, optimizer = config.training, config.algorithm, config.optimizer
    rows = training.batch_size * training.group_size
    schedule = "constant_with_warmup" if training.lr_schedule == "constant" else training.lr_schedule
    checkpointing = training.gradient_checkpointing == "on" or (
        training.gradient_checkpointing == "auto" and not on_cpu
    )
    return GRPOConfig(
        output_dir=str(scratch),
        use_cpu=on_cpu,
        seed=training.seed,
        # the loop
        max_steps=training.max_steps,
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=1,  # micro-batches are ours: one optimiser step is one call of training_step
        num_generations=training.group_size,
        num_iterations=algorithm.num_iterations,
        save_strategy="steps",
        save_steps=training.save_every or training.max_steps,
        logging_steps=1,
        # the loss
        loss_type=algorithm.loss_type,
        importance_sampling_level=algorithm.importance_sampling_level,
        beta=algorithm.kl_coef,
        epsilon=algorithm.clip_eps,
        epsilon_high=algorithm.clip_eps_high or None,
        delta=algorithm.delta or None,
        temperature=training.temperature,
        max_completion_length=training.max_tokens,
        # AdamW
        learning_rate=training.lr,
        lr_scheduler_type=schedule,
        warmup_steps=training.warmup_steps,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        adam_epsilon=optimizer.eps,
        # defaults of TRL and HF that we undo
        bf16=False,  # TRL turns None into True: autocast would hide the dtype that the config names
        activation_checkpointing=checkpointing,
        disable_dropout=config.lora.dropout == 0.0,
        logging_nan_inf_filter=False,  # it replaces a loss of NaN by the running mean
        dataloader_pin_memory=not on_cpu,
        report_to=[],  # the run directory is the truth; followers mirror it
        disable_tqdm=True,
        use_vllm=False,
    )


def unused_reward(**_: Any) -> list[float | None]:
    """Stand where TRL insists on a reward function; rewards come with the batches."""
    raise AssertionError("TRL asked for rewards: _generate_and_score_completions was not ours")


class OneRow(Sampler[int]):
    """Index 0, as often as the loop asks: `Source` chooses the data, so the loader has no state to save."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        return iter([0] * self.length)
