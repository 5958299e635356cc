"""Train on this machine: TRL's GRPO with PEFT, on a CPU or one GPU. The loop is `retrain/trainer.py`."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from peft import PeftModel

from retrain import checkpoint, estimate, registry
from retrain.backends.options import LOCAL, LocalOptions
from retrain.batches import Batches
from retrain.bookkeeping import Bookkeeper
from retrain.engines.shadow import memory_bytes
from retrain.evaluate import Best, Evaluator
from retrain.events import Phase, Warned
from retrain.layout import Layout
from retrain.model import ChatTokenizer, load_policy, pick_device
from retrain.ratio_contract import is_exact
from retrain.trainer import Trainer
from retrain.trl_arguments import grpo_config
from retrain.types import Engine, Job, RunResult, Store

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from retrain.config.schema import RunConfig


MEASURED_PROMPTS = 64  # the longest by characters are measured in tokens


class LocalBackend:
    """The policy on one device, and the loop around it."""

    capabilities = LOCAL

    def __init__(
        self, policy: PreTrainedModel | PeftModel, tokenizer: ChatTokenizer, engine: Engine, device: torch.device
    ) -> None:
        self.policy, self.tokenizer, self.engine, self.device = policy, tokenizer, engine, device
        self.num_trainable = sum(p.numel() for p in policy.parameters() if p.requires_grad)
        self.max_positions: int | None = getattr(policy.config, "max_position_embeddings", None)

    @classmethod
    def load(cls, config: RunConfig, tokenizer: ChatTokenizer) -> Self:
        """Load the model that the config names.

        Raises:
            ConfigError: the device or the model is not there, or the model cannot be trained here.
        """
        options = LocalOptions(**config.backend.options)
        if options.threads:
            torch.set_num_threads(options.threads)
        device = pick_device(config.backend.devices)
        if device.type == "cuda":
            device = see_only(device)
        policy = load_policy(config, device)
        engine_class = registry.resolve("engine", config.inference.engine, places=())
        return cls(policy, tokenizer, engine_class(policy, tokenizer, config.inference), device)

    def train(self, job: Job, store: Store, *, resume_from: Path | None) -> RunResult:
        """Train to the end and write the final adapter, or the model where every weight was trained.

        Raises:
            RunError: a step could not be done; the run directory keeps what was.
        """
        config = job.config
        on_cpu = self.device.type == "cpu"
        layout = Layout.chosen(
            micro_batch_size=config.training.micro_batch_size,
            max_tokens=config.training.max_tokens,
            on_gpu=not on_cpu,
            skip=config.algorithm.skips_zero_rows,
        )
        self.engine.beat = job.beat
        longest = longest_prompt(job)
        self._warn_of_memory(job, longest)
        books = Bookkeeper(job, store, Evaluator(job, self.engine), lambda best: self._keep_best(job, store, best))
        trainer = Trainer(
            model=self.policy,
            args=grpo_config(config, scratch=store.dir / "checkpoints", on_cpu=on_cpu),
            tokenizer=self.tokenizer.hf,
            source=Batches(job, self.engine, store),
            layout=layout,
            books=books,
            store=store,
            signals=job.signals,
            beat=job.beat,
            exact=is_exact(self.policy.dtype),
            worst_case=None if on_cpu else (longest, config.training.max_tokens),
        )
        if trainer.aux_loss_enabled and layout.skip:
            job.emit(Warned(message="this mixture of experts has a balancing loss: no completion is skipped"))
            trainer.accumulator.layout = replace(layout, skip=False)
        try:
            trainer.fit(resume_from)
            artifact = self._publish(job, store)
        finally:
            self.engine.stop()
        return RunResult(dir=store.dir, steps=trainer.state.global_step, artifact=artifact)

    def _warn_of_memory(self, job: Job, longest: int) -> None:
        """Say beforehand what will probably not fit: a CPU's memory gives no second chance."""
        total = memory_bytes(self.device)
        needed = estimate.memory(job.config, gpu=self.device.type != "cpu", device_bytes=total, prompt_tokens=longest)
        if problem := estimate.fits(needed, total):
            job.emit(Warned(message=str(problem)))

    def _keep_best(self, job: Job, store: Store, best: Best) -> None:
        """Write the weights as they are to adapter-best, or model-best, in one move."""
        name = "adapter-best" if job.config.model.lora_rank else "model-best"
        with checkpoint.publishing(store.dir / name) as aside:
            self._save(aside, job.config, steps=best.step)
            (aside / "best.json").write_text(json.dumps(asdict(best)) + "\n", encoding="utf-8")

    def _publish(self, job: Job, store: Store) -> Path:
        """Write the result into the run, and to `backend.adapter_path` in one move."""
        job.emit(Phase(name="save"))
        final = store.dir / ("adapter" if job.config.model.lora_rank else "model")
        with checkpoint.publishing(final) as aside:
            self._save(aside, job.config, steps=job.config.training.max_steps)
        if job.config.backend.adapter_path:
            copy = Path(job.config.backend.adapter_path).expanduser()
            with checkpoint.publishing(copy) as beside:
                shutil.copytree(final, beside, dirs_exist_ok=True)
        return final

    def _save(self, folder: Path, config: RunConfig, *, steps: int) -> None:
        options: dict[str, Any] = (
            # Not the embeddings: PEFT would ask the hub whether they changed.
            {"selected_adapters": ["default"], "save_embedding_layers": False} if config.model.lora_rank else {}
        )
        self.policy.save_pretrained(str(folder), **options)
        self.tokenizer.hf.save_pretrained(folder)
        rank = cast("LoraConfig", self.policy.peft_config["default"]).r if isinstance(self.policy, PeftModel) else 0
        (folder / "README.md").write_text(model_card(config, rank=rank, steps=steps), encoding="utf-8")


def longest_prompt(job: Job) -> int:
    """Tokens of the longest prompt that may come, among those with the most characters."""
    held_out = job.held_out.tasks if job.held_out else ()
    by_length = sorted(chain(job.data, held_out), key=lambda task: -sum(len(m["content"]) for m in task.prompt))
    return max(len(job.tokenizer.encode_prompt(task.prompt)) for task in by_length[:MEASURED_PROMPTS])


def see_only(device: torch.device) -> torch.device:
    """Hide the other GPUs from this process: HF would spread a batch over all it sees. Before CUDA starts."""
    index = device.index or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[index] if visible else str(index)
    return torch.device("cuda", 0)


def model_card(config: RunConfig, *, rank: int, steps: int) -> str:
    """What the folder holds and how it came to be, in the hub's format; rank 0: no adapter."""
    kind = f"LoRA adapter of rank {rank}" if rank else "fully fine-tuned model"
    library = "peft" if rank else "transformers"
    start = [f"It started from the adapter `{config.model.adapter}`."] if config.model.adapter else []
    algorithm, training = config.algorithm, config.training
    lines = [
        "---",
        f"base_model: {config.model.model}",
        f"library_name: {library}",
        "tags: [reinforcement-learning, grpo, retrain]",
        "---",
        "",
        f"# {kind} for {config.model.model}",
        "",
        f"Trained with retrain on `{config.data.source}`:",
        f"{algorithm.advantage_mode} + {algorithm.transform_mode}, loss {algorithm.loss_type},",
        f"{steps} steps of {training.batch_size} × {training.group_size} completions,",
        f"learning rate {training.lr:g}, seed {training.seed}.",
        *start,
        "",
        "The whole configuration is `config.toml` of the run; `retrain config.toml` repeats it.",
        "",
    ]
    return "\n".join(lines)
