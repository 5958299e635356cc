"""The only subclass of `trl.GRPOTrainer`: our rollouts and our token advantages in TRL's loss, exact on resume.

What is TRL's: the policy loss, the fused LM head, the buffering of batches. HF's: the loop, optimiser and checkpoints.
What is ours, in the overrides below:

    _get_train_sampler                 carries no choice: which tasks come is a function of the step
    _generate_and_score_completions    a `CreditedBatch` as the dict that TRL's loss reads
    training_step                      micro-batches made by `Layout`, one denominator for the whole batch
    _compute_loss, _get_per_token_logps_and_entropies    compare sampler and trainer, token by token
    log                                one line of metrics a step, with the held-out score when that is due
    _save_checkpoint, _load_optimizer_and_scheduler      complete-or-absent folders that hold all of the state

A run that is asked to stop saves the last finished step: what moves during a step, apart from the weights, which move
last, is remembered at its beginning.

Written against TRL 1.16; tests/golden compares loss and gradients with stock TRL to the last bit, and is what a move
to another minor has to pass.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import use_adapter

from retrain import checkpoint, training_state
from retrain.accumulate import Accumulator
from retrain.errors import Interrupted, NotFinite, RunError
from retrain.fingerprints import bit_sums
from retrain.ratio_contract import RatioContract
from retrain.signals import Signals
from retrain.trl_arguments import OneRow, unused_reward
from retrain.types import no_beat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from peft import PeftModel
    from torch import Tensor
    from torch.utils.data import Sampler
    from transformers import PreTrainedModel
    from trl.trainer.grpo_config import GRPOConfig

    from retrain.layout import Layout
    from retrain.types import Books, Source, Store

TRL_METRICS = (
    ("policy/kl", "kl"),
    ("policy/clip_share", "clip_ratio/region_mean"),
    ("policy/clip_share", "cispo_clip_ratio"),
)


class _Moments(TrainerCallback):
    """Calls the trainer back when everything is loaded, and when a step begins."""

    def __init__(self, *, loaded: Callable[[], None], step_begins: Callable[[], None]) -> None:
        self._loaded, self._step_begins = loaded, step_begins

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._loaded()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._step_begins()


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
        books: Books,
        store: Store,
        signals: Signals | None = None,
        beat: Callable[[], None] = no_beat,
        exact: bool = True,
        worst_case: tuple[int, int] | None = None,
    ) -> None:
        """Make a trainer.

        books:      what happens with the metrics of a step, and what is saved
        store:      the run directory; `checkpoints/step-N` go there
        signals:    requests to stop
        beat:       called with every micro-batch: a sign of life
        exact:      sampler and trainer compute the same numbers up to float32 rounding: hold them to it
        worst_case: tokens of the longest prompt and completion: try whether a micro-batch of them fits, before the
                    first step; None: do not
        """
        super().__init__(
            model=model,
            reward_funcs=unused_reward,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": [""]}),
            processing_class=tokenizer,
            callbacks=[_Moments(loaded=self._finish_what_was_begun, step_begins=self._remember)],
        )
        self.policy = model
        self.source, self.books, self.store, self.signals = source, books, store, signals or Signals()
        self.worst_case = worst_case
        self.accumulator = Accumulator(
            layout,
            loss_type=self.loss_type,
            backward=self.accelerator.backward,
            forget=self._forget,
            diagnose=books.diagnose,
            beat=beat,
        )
        self.ratios = RatioContract(exact=exact)
        self._trained = [p for p in model.parameters() if p.requires_grad]
        self._measured: dict[str, float] = {}  # of the step under way
        self._unwritten: dict[str, float] | None = None  # of a finished step whose evaluation has not ended
        self._boundary: dict[str, Any] = {}  # all that moves in a step before the weights do, at its beginning
        self._saved_step = -1
        self._in_loss = False
        self._sampled: Tensor | None = None
        self._step_began = 0.0

    def fit(self, resume_from: Path | None) -> None:
        """Train to the end, from the start or from a checkpoint.

        Raises:
            Interrupted: the run was asked to stop; its last finished step is saved.
            RunError: a step could not be done, or a rule of health that stops a run was broken.
        """
        try:
            if resume_from is None:
                self.books.before_first_step()
            self.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        except Interrupted:
            self._save_last_finished_step()
            raise
        if self.books.stop is not None:
            raise self.books.stop

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
        rows = self.accumulator.layout.micro_batch_size
        if self.ref_model is not None:
            return self._get_per_token_logps_and_entropies(self.ref_model, ids, mask, width, batch_size=rows)[0]
        policy = self.accelerator.unwrap_model(self.model)
        with use_adapter(policy, adapter_name="ref" if "ref" in policy.peft_config else None):
            return self._get_per_token_logps_and_entropies(self.model, ids, mask, width, batch_size=rows)[0]

    # --- the step ---------------------------------------------------------------------------------------------------

    def training_step(self, model: torch.nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:  # noqa: ARG002  TRL's
        """Forward and backward over the whole batch, in micro-batches; return the loss of the batch.

        Raises:
            Interrupted: the run is asked to stop.
            RunError: the loss or the gradient is not finite, sampler and trainer are different policies, or a single
                completion does not fit into memory.
        """
        self._step_began = time.perf_counter()
        model.train()
        with self.signals.allowed():
            try:
                batch = self._prepare_inputs(inputs)
            except NotFinite as error:
                if not self._buffered_inputs:  # nothing was trained yet: the model came like this
                    raise
                self._keep(self._buffered_inputs[0], error.problems[0].message)
            on_policy, step = self._step % self.num_iterations == 0, self.state.global_step

            def loss_of(micro: dict[str, Any]) -> Tensor:
                return self.compute_loss(model, micro)

            if self.worst_case is not None:
                (prompt, completion), self.worst_case = self.worst_case, None
                self.accumulator.try_worst_case(batch, loss_of, prompt=prompt, completion=completion, step=step)
            compare = on_policy and not self.ratios.open
            loss = self.accumulator.gradient(batch, loss_of, step=step, whole=compare)
            self._stop_unless_finite(loss, batch)
            self._measured |= self.ratios.settle(at_identical_weights=on_policy)
        self._step += 1
        self._weights_before = bit_sums(self._trained)
        return loss

    def _stop_unless_finite(self, loss: Tensor, batch: Mapping[str, Any]) -> None:
        norm = torch.nn.utils.get_total_norm([p.grad for p in self._trained if p.grad is not None])
        if not bool(torch.isfinite(loss) & torch.isfinite(norm)):
            self._keep(batch, f"the loss is {loss.item():g}, the gradient norm {norm.item():g}")

    def _keep(self, batch: Mapping[str, Any], reason: str) -> NoReturn:
        """Keep what made a number that is not finite, and stop.

        Raises:
            RunError: with the command that looks into it.
        """
        step = self.state.global_step
        narrow = ' or model.dtype = "float32"' if torch.finfo(self.policy.dtype).bits < 32 else ""
        file = training_state.keep_batch(
            self.store.dir,
            step=step,
            reason=f"step {step + 1}: {reason}",
            inputs=batch,
            model=self.policy,
            micro_batch_size=self.accumulator.layout.micro_batch_size,
        )
        raise RunError(
            f"step {step + 1}: {reason}",
            f"retrain debug-batch {file} tells which completion and which weight;\n"
            f"a lower training.lr{narrow} usually helps",
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
            assert self._sampled is not None
            self.ratios.add(result[0][attention_mask[:, -logits_to_keep:].bool()], self._sampled)
        return result

    # --- what is written --------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002  HF's signature
        """Finish one step. HF calls this once a step, and once more at the end with a summary that is not ours."""
        if "loss" not in logs:
            return
        measured, self._measured = self._measured, {}
        total = time.perf_counter() - self._step_began
        tokens = self.accumulator.take_tokens()
        changed = (bit_sums(self._trained) != self._weights_before).double().mean()
        measured |= {
            "policy/loss": logs["loss"],
            "policy/grad_norm": logs["grad_norm"],
            "policy/lr": logs["learning_rate"],
            "policy/changed": float(changed),
            "tokens/trained": sum(tokens),
            "time/train": total - measured.get("time/generate", 0.0) - measured.get("time/score", 0.0),
            "time/total": total,
        }
        for ours, theirs in TRL_METRICS:
            if values := self._metrics["train"].get(theirs):
                measured[ours] = _token_mean(values, tokens)
        self._metrics["train"].clear()
        self._finish_step(measured)

    def _finish_step(self, measured: dict[str, float]) -> None:
        self._unwritten = measured
        self.books.finish_step(self.state.global_step, measured)
        self._unwritten = None
        self.control.should_save |= self.books.wants_save()
        self.control.should_training_stop |= self.books.stop is not None

    # --- exact resume -----------------------------------------------------------------------------------------------

    def _moving(self) -> dict[str, Any]:
        """Return all that moves during a step before the weights do. Lists are copied: TRL writes into its own."""
        buffered = self._buffered_inputs
        return {
            "trl_step": self._step,
            "buffered_inputs": None if buffered is None else list(buffered),
            "source": self.source.state_dict(),
            "books": self.books.state_dict(),
            "gate_open": self.ratios.open,
        }

    def _finish_what_was_begun(self) -> None:
        """Evaluate, and write the line of, a step whose evaluation was interrupted.

        Raises:
            RunError: a rule of health that stops a run is broken.
        """
        if self._unwritten is None:
            return
        self._finish_step(self._unwritten)
        if self.books.stop is not None:
            raise self.books.stop

    def _forget(self) -> None:
        """Drop the gradient, and what the loss has measured on the way to it."""
        self.policy.zero_grad(set_to_none=True)
        self.ratios.forget()
        self._metrics["train"].clear()

    def _remember(self) -> None:
        self._boundary = {**self._moving(), "random": training_state.random_state()}

    def _save_last_finished_step(self) -> None:
        """Save the step that was finished last, wherever in the next one this is called.

        The weights are those of that step: they move at the very end of a step, where nothing interrupts.
        """
        if self.state.global_step in (0, self._saved_step):
            return
        if self._unwritten is None:
            training_state.restore_random_state(self._boundary.pop("random"))
            moving = self._boundary
        else:  # the step is finished but for its evaluation, which resuming repeats
            moving = {**self._moving(), "unwritten": self._unwritten}
        self._write_checkpoint(moving)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:  # noqa: ARG002  HF's signature
        self._write_checkpoint(self._moving())

    def _write_checkpoint(self, moving: Mapping[str, Any]) -> None:
        """Let HF write its files aside, add what it leaves out, and publish the folder in one move."""
        step, scratch = self.state.global_step, self.args.output_dir
        self.store.sync()
        final = self.store.dir / "checkpoints" / f"step-{step}"
        with checkpoint.writing(final, step=step) as aside:
            self.args.output_dir = str(aside)
            try:
                super()._save_checkpoint(self.policy, None)
            finally:
                self.args.output_dir = scratch
            written = aside / f"checkpoint-{step}"
            for file in written.iterdir():
                file.replace(aside / file.name)
            written.rmdir()
            held = {"micro_batch_size": self.accumulator.layout.micro_batch_size, "threads": torch.get_num_threads()}
            torch.save({**moving, **held}, aside / training_state.STATE)
        self._saved_step = step
        self.books.saved(final)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        file = Path(checkpoint) / training_state.STATE
        state = torch.load(file, weights_only=True, map_location=self.accelerator.device)
        torch.set_num_threads(state["threads"])  # sums are split by thread: another number, other last bits
        self._step, self._buffered_inputs = state["trl_step"], state["buffered_inputs"]
        self.ratios.open = state["gate_open"]
        self.accumulator.layout = replace(self.accumulator.layout, micro_batch_size=state["micro_batch_size"])
        self.worst_case = None  # the size that was found then is known
        self.source.load_state_dict(state["source"])
        self.books.load_state_dict(state["books"])
        self._saved_step = self.state.global_step
        self._unwritten = state.get("unwritten")


def _token_mean(values: list[float], tokens: list[float]) -> float:
    """Mean over micro-batches, weighted by their tokens."""
    return sum(value * weight for value, weight in zip(values, tokens, strict=True)) / max(1.0, sum(tokens))
