"""Replay the loss of a batch that was kept because it was not finite, and find where that began.

    RUN/debug/step-N.pt + RUN/config.toml ──▶ the same model, weights and micro-batches ──▶ Replay

The batch is computed twice: as the run did, for its loss, log-probabilities and gradient, and row by row, for the row
to blame. Dropout is drawn anew.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from retrain.backends.local import see_only
from retrain.config import compose
from retrain.errors import ConfigError
from retrain.layout import Layout
from retrain.model import ChatTokenizer, load_policy, load_tokenizer, pick_device
from retrain.ratio_contract import RatioContract
from retrain.trainer import Trainer
from retrain.training_state import DEBUG_FORMAT
from retrain.trl_arguments import grpo_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from torch import Tensor

    from retrain.config.schema import RunConfig
    from retrain.types import Books, Source, Store

KEPT = {"format", "step", "reason", "micro_batch_size", "inputs", "weights"}
AROUND = 40  # characters of text on either side of a token


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """A tensor of the batch with values that are not finite; no rows: it is one number."""

    name: str
    rows: list[int]


@dataclass(frozen=True, kw_only=True)
class BadWeight:
    """A parameter with values that are not finite."""

    name: str
    num_bad: int
    num_values: int


@dataclass(frozen=True, kw_only=True)
class BadToken:
    """A token whose log-probability is not finite."""

    row: int
    position: int  # in the completion, from 0
    logprob: float
    before: str
    text: str
    after: str


@dataclass(frozen=True, kw_only=True)
class RowLoss:
    """One completion alone: its share of the loss, and the norm of its gradient."""

    row: int
    num_tokens: int
    loss: float
    grad_norm: float
    text: str

    @property
    def is_finite(self) -> bool:
        return isfinite(self.loss) and isfinite(self.grad_norm)


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """The norm of one parameter's gradient over the whole batch."""

    name: str
    norm: float


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What was found, in the order in which a step computes it."""

    file: str
    step: int  # steps done before this one
    reason: str  # what the run said
    device: str
    dtype: str
    inputs: list[BadInput]
    weights: list[BadWeight]
    module: str  # the first module whose output is not finite, in the order of the forward pass; "": none
    logprobs: list[BadToken]
    loss: float
    grad_norm: float
    rows: list[RowLoss]
    gradients: list[Gradient]  # not finite ones first, then by size

    @property
    def first(self) -> str:
        """Where it began: "inputs", "weights", "log-probabilities", "loss", "gradient", or "" where all is finite."""
        stages = {
            "inputs": bool(self.inputs),
            "weights": bool(self.weights),
            "log-probabilities": bool(self.logprobs),
            "loss": not isfinite(self.loss) or any(not isfinite(row.loss) for row in self.rows),
            "gradient": not isfinite(self.grad_norm),
        }
        return next((name for name, is_bad in stages.items() if is_bad), "")

    @property
    def to_blame(self) -> list[int]:
        """The rows whose loss or gradient is not finite."""
        return [row.row for row in self.rows if not row.is_finite]


def replay(file: Path, arguments: Sequence[str] = ()) -> Replay:
    """Compute a kept batch again; `arguments` may change the run's config, such as ``--devices cpu``.

    Raises:
        ConfigError: the file is no kept batch, or its run cannot be loaded here.
    """
    kept = read(file)
    config = compose(file.resolve().parent.parent / "config.toml", arguments).config
    device = pick_device(config.backend.devices)
    if device.type == "cuda":
        device = see_only(device)
    tokenizer, policy = load_tokenizer(config), load_policy(config, device)
    load_weights(policy, kept["weights"], file)
    batch = {name: _to(value, device) for name, value in kept["inputs"].items()}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(config, policy, tokenizer, kept["micro_batch_size"], Path(scratch))
        trainer.ratios = seen = _Logprobs()
        batch["row"] = torch.arange(len(batch["completion_mask"]), device=device)
        whole = kept["step"] == 0  # the first step leaves no row out, to compare sampler and trainer
        loss = trainer.accumulator.gradient(batch, seen.watching(trainer), step=kept["step"], whole=whole)
        gradients = _gradients(policy)
        tokens, culprit = seen.bad_tokens(tokenizer)
        return Replay(
            file=str(file),
            step=kept["step"],
            reason=kept["reason"],
            device=str(device),
            dtype=str(policy.dtype).removeprefix("torch."),
            inputs=[BadInput(name=name, rows=found) for name, found in _bad_inputs(batch)],
            weights=list(_bad_weights(policy)),
            module=_first_bad_module(trainer, culprit) if culprit else "",
            logprobs=tokens,
            loss=float(loss),
            grad_norm=_norm(gradients),
            rows=list(_row_by_row(trainer, batch, tokenizer, skip=trainer.accumulator.layout.skip and not whole)),
            gradients=_by_size(gradients),
        )


def read(file: Path) -> dict[str, Any]:
    """Read a kept batch.

    Raises:
        ConfigError: it is not one, or has no config of its run two folders above.
    """
    try:
        kept = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:  # what is no file of torch's fails in many ways
        raise ConfigError(f"{file} is not a batch that a run kept", "give RUN/debug/step-N.pt") from error
    if not isinstance(kept, dict) or not kept.keys() >= KEPT:
        raise ConfigError(f"{file} is not a batch that a run kept", "give RUN/debug/step-N.pt")
    if kept["format"] != DEBUG_FORMAT:
        raise ConfigError(
            f"{file} has format {kept['format']}, this version reads {DEBUG_FORMAT}; use the retrain that wrote it"
        )
    if not (file.resolve().parent.parent / "config.toml").is_file():
        raise ConfigError(f"{file} is not in its run: there is no {file.parent.parent / 'config.toml'}; put it back")
    return kept


@torch.no_grad()
def load_weights(policy: torch.nn.Module, weights: Mapping[str, Tensor], file: Path) -> None:
    """Give the policy the trained weights of the file.

    Raises:
        ConfigError: they are those of another model.
    """
    own = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    wrong = sorted(own.keys() ^ weights.keys()) + [
        name for name, p in own.items() if name in weights and p.shape != weights[name].shape
    ]
    if wrong:
        raise ConfigError(
            f"{file} has the weights of another model than its run's config.toml names: {len(wrong)} differ, such as "
            f"{wrong[0]}; the model's files may have changed since"
        )
    for name, parameter in own.items():
        parameter.copy_(weights[name])


class _Unused:
    """Stands where the trainer keeps the record of a run: nothing is trained here."""

    stop = None

    def diagnose(self, _: object) -> None:
        """Say nothing: how a replay fits into memory is nobody's business."""


def make_trainer(
    config: RunConfig,
    policy: Any,
    tokenizer: ChatTokenizer,
    micro_batch_size: int,
    scratch: Path,
    *,
    books: Books | None = None,
    store: Store | None = None,
) -> Trainer:
    """Make the trainer of the run, without anything to train on; without books and store, nothing is kept."""
    trainer = Trainer(
        model=policy,
        args=grpo_config(config, scratch=scratch, on_cpu=policy.device.type == "cpu"),
        tokenizer=tokenizer.hf,
        source=cast("Source", _Unused()),
        layout=Layout(micro_batch_size=micro_batch_size, skip=config.algorithm.skips_zero_rows),
        books=books or cast("Books", _Unused()),
        store=store or cast("Store", _Unused()),
    )
    if trainer.aux_loss_enabled:
        trainer.accumulator.layout = trainer.accumulator.layout.comparing_everything()
    trainer.current_gradient_accumulation_steps = 1  # set by HF's loop, which does not run here
    policy.train()
    return trainer


# --- the stages -----------------------------------------------------------------------------------------------------


def _bad_inputs(batch: Mapping[str, Any]) -> Iterator[tuple[str, list[int]]]:
    for name, value in batch.items():
        if torch.is_tensor(value) and value.is_floating_point() and not bool(value.isfinite().all()):
            bad = ~value.isfinite()
            yield name, bad.flatten(1).any(dim=1).nonzero()[:, 0].tolist() if value.dim() > 1 else []


def _bad_weights(policy: torch.nn.Module) -> Iterator[BadWeight]:
    for name, p in policy.named_parameters():
        if num_bad := int((~p.isfinite()).sum()):
            yield BadWeight(name=name, num_bad=num_bad, num_values=p.numel())


class _Logprobs(RatioContract):
    """Takes the log-probabilities that the loss computes, micro-batch by micro-batch; compares nothing."""

    def __init__(self) -> None:
        super().__init__(exact=False)
        self._micro: dict[str, Any] = {}
        self._seen: list[tuple[dict[str, Any], Tensor]] = []

    def watching(self, trainer: Trainer) -> Callable[[dict[str, Any]], Tensor]:
        """Return the trainer's loss of a micro-batch that has its row numbers under "row"."""

        def loss(micro: dict[str, Any]) -> Tensor:
            self._micro = micro
            return trainer.compute_loss(trainer.model, micro)

        return loss

    def add(self, new: Tensor, sampled: Tensor) -> None:  # noqa: ARG002  the signature of what it replaces
        self._seen.append((self._micro, new.detach()))

    def forget(self) -> None:
        self._seen = []

    def bad_tokens(self, tokenizer: ChatTokenizer) -> tuple[list[BadToken], dict[str, Any] | None]:
        """Return the tokens whose log-probability is not finite, by row, and the first micro-batch that has some."""
        tokens, culprit = [], None
        for micro, logprobs in self._seen:
            masks = micro["completion_mask"].bool()
            parts = logprobs.split(masks.sum(dim=1).tolist())
            for row, ids, mask, part in zip(micro["row"].tolist(), micro["completion_ids"], masks, parts, strict=True):
                tokens += _bad_tokens(row, ids[mask].tolist(), part, tokenizer)
            culprit = micro if culprit is None and not bool(logprobs.isfinite().all()) else culprit
        return sorted(tokens, key=lambda token: (token.row, token.position)), culprit


def _bad_tokens(row: int, ids: Sequence[int], logprobs: Tensor, tokenizer: ChatTokenizer) -> Iterator[BadToken]:
    for position in (~logprobs.isfinite()).nonzero()[:, 0].tolist():
        yield BadToken(
            row=row,
            position=position,
            logprob=float(logprobs[position]),
            before=tokenizer.decode(ids[:position])[-AROUND:],
            text=tokenizer.decode(ids[position : position + 1]),
            after=tokenizer.decode(ids[position + 1 :])[:AROUND],
        )


def _row_by_row(
    trainer: Trainer, batch: Mapping[str, Any], tokenizer: ChatTokenizer, *, skip: bool
) -> Iterator[RowLoss]:
    """Yield each completion's loss and gradient; with `skip`, not of those that the step left out."""
    alone = Layout(micro_batch_size=1, sort=False, skip=skip)
    for micro, weight in alone.cut(batch, trainer.loss_type):
        trainer.policy.zero_grad(set_to_none=True)
        part = trainer.compute_loss(trainer.model, micro) * weight
        trainer.accelerator.backward(part)
        ids = micro["completion_ids"][0][micro["completion_mask"][0].bool()].tolist()
        yield RowLoss(
            row=int(micro["row"]),
            num_tokens=len(ids),
            loss=float(part.detach()),
            grad_norm=_norm(_gradients(trainer.policy)),
            text=tokenizer.decode(ids),
        )


def _first_bad_module(trainer: Trainer, micro: dict[str, Any]) -> str:
    """Name the module that gives out the first value that is not finite in a micro-batch's forward pass."""
    found: list[str] = []

    def look(name: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            if any(torch.is_tensor(t) and t.is_floating_point() and not bool(t.isfinite().all()) for t in tensors):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in trainer.policy.named_modules() if name]
    try:
        with torch.no_grad():
            trainer.compute_loss(trainer.model, micro)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else ""


def _gradients(policy: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.norm() for name, p in policy.named_parameters() if p.grad is not None}


def _norm(gradients: Mapping[str, Tensor]) -> float:
    return float(torch.stack(list(gradients.values())).norm()) if gradients else 0.0


def _by_size(gradients: Mapping[str, Tensor]) -> list[Gradient]:
    found = [Gradient(name=name, norm=float(norm)) for name, norm in gradients.items()]
    return sorted(
        found, key=lambda gradient: (isfinite(gradient.norm), -gradient.norm if isfinite(gradient.norm) else 0.0)
    )


def _to(value: Any, device: torch.device) -> Any:
    return value.to(device) if torch.is_tensor(value) else value
