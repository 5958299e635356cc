"""The only subclass of `trl.GRPOTrainer`: our rollouts and our token advantages in TRL's loss, exact on resume.

What is TRL's: the policy loss, the fused LM head, the buffering of batches. HF's: the loop, optimiser and checkpoints.
What is ours, in the overrides below:

    _get_train_sampler                 carries no choice: which tasks come is a function of the step
    _generate_and_score_completions    a `CreditedBatch` as the dict that TRL's loss reads
    training_step                      micro-batches made by `Layout`, one denominator for the whole batch
    _compute_loss, _get_per_token_logps_and_entropies    compare sampler and trainer, token by token
    log                                one line of metrics a step
    _save_checkpoint, _load_optimizer_and_scheduler      complete-or-absent folders that hold all of the state

Written against TRL 1.16; tests/golden compares loss and gradients with stock TRL to the last bit, and is what a move
to another minor has to pass.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import use_adapter

from retrain import checkpoint
from retrain.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from retrain.config.schema import RunConfig
    from retrain.layout import Layout
    from retrain.types import CreditedBatch

EXACT_P99 = 1e-4  # nats; float32 in process: rounding stays below 2e-5, a wrong temperature or template is far above
GROSS_P50, GROSS_OUTSIDE = 0.02, 0.25  # what no precision explains: the sampler is another policy
TRL_METRICS = (
    ("policy/kl", "kl"),
    ("policy/clip_share", "clip_ratio/region_mean"),
    ("policy/clip_share", "cispo_clip_ratio"),
)
STATE = "retrain_state.pt"  # what a checkpoint holds beside HF's files


class Source(Protocol):
    """Makes the batch of a step (`retrain.batches.Batches`)."""

    def next_batch(self, step: int) -> CreditedBatch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


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


def grpo_config(config: RunConfig, *, scratch: Path, on_cpu: bool) -> GRPOConfig:
    """Turn our keys into TRL's arguments. Those that undo a default of TRL or HF say why."""
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


class Trainer(GRPOTrainer):
    """GRPO in TRL's loss, on batches that `source` makes."""

    def __init__(  # noqa: PLR0913  each is a thing of its own, and all are named
        self,
        *,
        model: PreTrainedModel | PeftModel,
        args: GRPOConfig,
        tokenizer: Any,
        source: Source,
        layout: Layout,
        record: Callable[[int, Mapping[str, float]], None],
        checkpoints: Path,
        saved: Callable[[Path], None] = lambda _: None,
        exact: bool = True,
    ) -> None:
        """Make a trainer.

        record:      called once a step with (steps done, metrics)
        checkpoints: where `step-N` folders go
        saved:       called with each finished checkpoint
        exact:       sampler and trainer compute the same numbers up to float32 rounding: hold them to it
        """
        super().__init__(
            model=model,
            reward_funcs=unused_reward,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            processing_class=tokenizer,
        )
        self.policy = model
        self.source, self.layout, self.record = source, layout, record
        self.checkpoints, self.saved, self.exact = checkpoints, saved, exact
        self._gate_open = False  # sampler and trainer have been compared at identical weights
        self._measured: dict[str, float] = {}  # of the step under way
        self._in_loss = False
        self._sampled: Tensor | None = None
        self._log_ratios: list[Tensor] = []
        self._micro_tokens: list[float] = []
        self._step_began = 0.0

    # --- which rows: none of TRL's business -------------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler[int]:  # noqa: ARG002  HF's signature
        return OneRow(self.args.max_steps * self.args.per_device_train_batch_size)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:  # noqa: ARG002  TRL's signature
        """Return the next batch as the dict that TRL buffers, shuffles and feeds to its loss."""
        made = self.source.next_batch(self.state.global_step)
        self._measured |= made.metrics
        batch, device = made.batch, self.accelerator.device
        dtype = torch.float64 if self.policy.dtype == torch.float64 else torch.float32
        rows = {
            "prompt_ids": batch.prompt_ids,
            "prompt_mask": batch.prompt_mask.long(),
            "completion_ids": batch.completion_ids,
            "completion_mask": batch.loss_mask.long(),
            "advantages": made.credit.advantages.to(dtype),
            "sampling_logprobs": batch.sampling_logprobs.to(dtype),
        }
        tensors = {name: value.to(device) for name, value in rows.items()}
        tensors["num_items_in_batch"] = tensors["completion_mask"].sum()
        if self.num_iterations > 1:  # later passes are off-policy: the ratio's denominator is what sampled
            tensors["old_per_token_logps"] = tensors["sampling_logprobs"]
        if self.beta != 0.0:
            tensors["ref_per_token_logps"] = self._reference_logprobs(tensors)
        return tensors

    @torch.no_grad()
    def _reference_logprobs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities [B,T] of the model that training started from: its copy, or the adapter's first state."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        rows = self.layout.micro_batch_size
        if self.ref_model is not None:
            return self._get_per_token_logps_and_entropies(self.ref_model, ids, mask, width, batch_size=rows)[0]
        policy = self.accelerator.unwrap_model(self.model)
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            return self._get_per_token_logps_and_entropies(self.model, ids, mask, width, batch_size=rows)[0]

    # --- the step ---------------------------------------------------------------------------------------------------

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:  # noqa: ARG002  TRL's
        """Forward and backward over the whole batch, in micro-batches; return the loss of the batch.

        Raises:
            RunError: the loss or the gradient is not finite, or sampler and trainer are different policies.
        """
        self._step_began = time.perf_counter()
        model.train()
        batch = self._prepare_inputs(inputs)
        on_policy = self._step % self.num_iterations == 0
        gated = on_policy and not self._gate_open
        layout = self.layout if not gated else self.layout.comparing_everything()
        parts: list[Tensor] = []
        for micro, weight in layout.cut(batch, self.loss_type):
            self._micro_tokens.append(float(micro["completion_mask"].sum()))
            part = self.compute_loss(model, micro) * weight
            self.accelerator.backward(part)
            parts.append(part.detach())
        compared = self._ratio_metrics(gated=gated)
        self._measured |= compared
        self._gate_open |= gated and bool(compared)  # a batch without a trained token has compared nothing
        self._step += 1
        loss = sum(parts[1:], start=parts[0])
        self._stop_unless_finite(loss)
        return loss

    def _stop_unless_finite(self, loss: Tensor) -> None:
        gradients = [p.grad for p in self.policy.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            raise RunError(
                f"step {self.state.global_step + 1}: the loss is {loss.item():g}, the gradient norm {norm.item():g}",
                'a lower training.lr or model.dtype = "float32" usually helps',
            )

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> Tensor:
        self._in_loss, self._sampled = True, inputs["sampling_logprobs"][inputs["completion_mask"].bool()]
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self._in_loss, self._sampled = False, None

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **kwargs: Any
    ) -> Any:
        result = super()._get_per_token_logps_and_entropies(model, input_ids, attention_mask, logits_to_keep, **kwargs)
        if self._in_loss:  # not a scoring pass of the reference
            trained = attention_mask[:, -logits_to_keep:].bool()
            self._log_ratios.append((result[0].detach()[trained] - self._sampled).double())
        return result

    def _ratio_metrics(self, *, gated: bool) -> dict[str, float]:
        """Percentiles of |log new/old| over the step's tokens, and the share of ratios outside [0.9, 1.1].

        Percentiles, because a mean of 1 hides a broken tail. At identical weights every ratio is 1.
        """
        gaps, self._log_ratios = torch.cat(self._log_ratios), []
        if not len(gaps):
            return {}
        p50, p95, p99 = torch.quantile(gaps.abs()[: 2**24], gaps.new_tensor([0.5, 0.95, 0.99])).tolist()
        ratios = gaps.exp()
        outside = float(((ratios < 0.9) | (ratios > 1.1)).double().mean())
        if gated and (p50 > GROSS_P50 or outside > GROSS_OUTSIDE or (self.exact and not p99 <= EXACT_P99)):
            raise RunError(
                f"sampler and trainer disagree at identical weights: |Δ log p| has p50 {p50:.1e}, p95 {p95:.1e}, "
                f"p99 {p99:.1e}, and {outside:.0%} of the ratios lie outside [0.9, 1.1]. The completions were sampled "
                "by another policy, at another temperature, from a truncated distribution, or in another precision",
                "check training.temperature and model.dtype",
            )
        return {"ratio/p50": p50, "ratio/p95": p95, "ratio/p99": p99, "ratio/outside": outside}

    # --- what is written --------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002  HF's signature
        """Record one step. HF calls this once a step, and once more at the end with a summary that is not ours."""
        if "loss" not in logs:
            return
        measured, self._measured = self._measured, {}
        total = time.perf_counter() - self._step_began
        measured |= {
            "policy/loss": logs["loss"],
            "policy/grad_norm": logs["grad_norm"],
            "policy/lr": logs["learning_rate"],
            "tokens/trained": sum(self._micro_tokens),
            "time/train": total - measured.get("time/generate", 0.0) - measured.get("time/score", 0.0),
            "time/total": total,
        }
        for ours, theirs in TRL_METRICS:
            if values := self._metrics["train"].get(theirs):
                measured[ours] = self._token_mean(values)
        self._metrics["train"].clear()
        self._micro_tokens = []
        self.record(self.state.global_step, measured)

    def _token_mean(self, values: list[float]) -> float:
        """Mean over micro-batches, weighted by their tokens."""
        weighted = sum(value * tokens for value, tokens in zip(values, self._micro_tokens, strict=True))
        return weighted / max(1.0, sum(self._micro_tokens))

    # --- exact resume -----------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Let HF write its files aside, add what it leaves out, and publish the folder in one move."""
        step, scratch = self.state.global_step, self.args.output_dir
        with checkpoint.writing(self.checkpoints / f"step-{step}", step=step) as aside:
            self.args.output_dir = str(aside)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = scratch
            written = aside / f"checkpoint-{step}"
            for file in written.iterdir():
                file.replace(aside / file.name)
            written.rmdir()
            state = {
                "trl_step": self._step,
                "buffered_inputs": self._buffered_inputs,
                "source": self.source.state_dict(),
                "gate_open": self._gate_open,
                "threads": torch.get_num_threads(),
            }
            torch.save(state, aside / STATE)
        self.saved(self.checkpoints / f"step-{step}")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = torch.load(Path(checkpoint) / STATE, weights_only=True, map_location=self.accelerator.device)
        torch.set_num_threads(state["threads"])  # sums are split by thread: another number, other last bits
        self._step, self._buffered_inputs = state["trl_step"], state["buffered_inputs"]
        self._gate_open = state["gate_open"]
        self.source.load_state_dict(state["source"])
