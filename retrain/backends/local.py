"""Train on this machine: TRL's GRPO with PEFT, on a CPU or one GPU. The loop is `retrain/trainer.py`."""

from __future__ import annotations

import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from retrain import checkpoint, registry
from retrain.backends.options import LocalOptions
from retrain.batches import Batches
from retrain.errors import RunError
from retrain.events import CheckpointSaved, Phase, StepDone, Warned
from retrain.layout import Layout
from retrain.model import ChatTokenizer, load_policy, pick_device
from retrain.trainer import Trainer, grpo_config
from retrain.types import Engine, Job, RunResult, Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from peft import PeftModel
    from transformers import PreTrainedModel

    from retrain.config.schema import RunConfig


log = logging.getLogger(__name__)


class LocalBackend:
    """The policy on one device, and the loop around it."""

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
        trainer = Trainer(
            model=self.policy,
            args=grpo_config(config, scratch=store.dir / "checkpoints", on_cpu=on_cpu),
            tokenizer=self.tokenizer.hf,
            source=Batches(job, self.engine, store),
            layout=layout,
            record=lambda step, metrics: self._record(job, store, step, metrics),
            checkpoints=store.dir / "checkpoints",
            saved=lambda folder: self._saved(job, folder),
            exact=self.policy.dtype in (torch.float32, torch.float64),
        )
        if trainer.aux_loss_enabled and layout.skip:
            job.emit(Warned(message="this mixture of experts has a balancing loss: no completion is skipped"))
            trainer.layout = replace(layout, skip=False)
        try:
            trainer.train(resume_from_checkpoint=str(resume_from) if resume_from else None)
        except OSError as error:
            raise RunError(f"{store.dir} cannot be written: {error}") from error
        finally:
            self.engine.stop()
        artifact = self._publish(job, store)
        return RunResult(dir=store.dir, steps=trainer.state.global_step, artifact=artifact)

    @staticmethod
    def _record(job: Job, store: Store, step: int, metrics: Mapping[str, float]) -> None:
        store.append_metrics(step, metrics)
        job.emit(StepDone(step=step, max_steps=job.config.training.max_steps, metrics=metrics))

    @staticmethod
    def _saved(job: Job, folder: Path) -> None:
        checkpoint.prune(folder.parent, job.config.training.keep_checkpoints)
        log.info("saved %s", folder)
        job.emit(CheckpointSaved(path=folder))

    def _publish(self, job: Job, store: Store) -> Path:
        """Write the result into the run, and to `backend.adapter_path` in one move."""
        job.emit(Phase(name="save"))
        final = store.dir / ("adapter" if job.config.model.lora_rank else "model")
        aside = final.with_name(f".{final.name}.partial")
        shutil.rmtree(aside, ignore_errors=True)
        self._save(aside, job.config)
        checkpoint.replace_folder(aside, final)
        if job.config.backend.adapter_path:
            copy = Path(job.config.backend.adapter_path).expanduser()
            beside = copy.with_name(f".{copy.name}.partial")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(final, beside)
            checkpoint.replace_folder(beside, copy)
        return final

    def _save(self, folder: Path, config: RunConfig) -> None:
        options: dict[str, Any] = (
            # Not the embeddings: PEFT would ask the hub whether they changed.
            {"selected_adapters": ["default"], "save_embedding_layers": False} if config.model.lora_rank else {}
        )
        self.policy.save_pretrained(str(folder), **options)
        self.tokenizer.hf.save_pretrained(folder)
        (folder / "README.md").write_text(model_card(config), encoding="utf-8")


def see_only(device: torch.device) -> torch.device:
    """Hide the other GPUs from this process: HF would spread a batch over all it sees. Before CUDA starts."""
    index = device.index or 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[index] if visible else str(index)
    return torch.device("cuda", 0)


def model_card(config: RunConfig) -> str:
    """What the folder holds and how it came to be, in the hub's format."""
    kind = f"LoRA adapter of rank {config.model.lora_rank}" if config.model.lora_rank else "fully fine-tuned model"
    library = "peft" if config.model.lora_rank else "transformers"
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
        f"{training.max_steps} steps of {training.batch_size} × {training.group_size} completions,",
        f"learning rate {training.lr:g}, seed {training.seed}.",
        "",
        "The whole configuration is `config.toml` of the run; `retrain config.toml` repeats it.",
        "",
    ]
    return "\n".join(lines)
