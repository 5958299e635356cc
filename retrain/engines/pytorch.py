"""Sample in process: on the training weights themselves, or on a merged copy of them.

Each prompt is computed once and shared by its group; a row that has finished leaves the batch; the log-probability and
the entropy of every token are kept from the moment it was chosen. Both are of softmax(logits / temperature) over the
whole vocabulary, which is what the loss scores: at identical weights they equal a plain forward pass to rounding.

A completion is a function of its prompt, the weights and its own random numbers (`retrain.engines.draws`). Batches of
another shape may round differently in the last bit, so it takes a number within that distance of a boundary to tell.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from retrain.engines.draws import Drawn, draw, row_keys, uniforms
from retrain.engines.kv_cache import KvCache
from retrain.engines.shadow import MergedShadow, memory_bytes, shadow_bytes, tensor_bytes, unmergeable
from retrain.engines.stop_texts import StopTexts
from retrain.errors import ConfigError, NotFinite, Problem, RunError
from retrain.estimate import SHADOW_SHARE
from retrain.fingerprints import bit_sums
from retrain.model import unwrap
from retrain.types import Completion, Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jaxtyping import Bool, Float, Int
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from retrain.config.schema import Inference
    from retrain.types import Tokenizer

log = logging.getLogger(__name__)

FIRST_POSITIONS = 128  # room for completions at first; the cache grows with the longest


class PytorchEngine:
    """The engine ``pytorch`` (`retrain.types.Engine`).

    weights: "shadow" or "shared", what it samples from; `weights_reason` says why.
    """

    gives_entropies = True

    def __init__(
        self,
        policy: PreTrainedModel | PeftModel,
        tokenizer: Tokenizer,
        inference: Inference,
        *,
        compact_at: float = 0.9,
        share_prompts: bool = True,
    ) -> None:
        """Sample from `policy` as it is now, as version 0.

        compact_at: drop finished rows once at most this share of the batch is unfinished; 0: never.
        share_prompts: compute each prompt once for its group. Both are for measuring what they are worth.

        Raises:
            ConfigError: this engine cannot run the model exactly, or a shadow was asked for and cannot be.
        """
        self._policy, self._tokenizer = policy, tokenizer
        self._compact_at, self._share_prompts = compact_at, share_prompts
        self._model = unwrap(policy)
        self.weights, self.weights_reason = _choose_weights(policy, inference.weights)
        self._shadow = MergedShadow(policy) if self.weights == "shadow" else None  # type: ignore[arg-type]  has an adapter
        if self._shadow is not None:
            self._model = self._shadow.model
        self._num_tokens: int = self._model.get_input_embeddings().weight.shape[0]  # type: ignore[index]  a Tensor
        self._stop_texts: dict[tuple[str, ...], StopTexts] = {}
        self._stopped = False
        self._largest_call: int | None = None  # prompts; set once a call did not fit into memory
        self.beat: Callable[[], None] = _nothing  # called with every token: a sign of life
        self._trained = [p.detach() for p in policy.parameters() if p.requires_grad]
        self._version, self._sampled = 0, _fingerprint(self._trained)
        self._check_exact()

    def update_weights(self, version: int) -> None:
        """Sample from the policy as it is now from here on, and stamp completions with `version`."""
        if self._shadow is not None:
            self._shadow.refresh()
        self._version, self._sampled = version, _fingerprint(self._trained)

    def stop(self) -> None:
        """Give the shadow's memory back; safe to call twice. Nothing can be sampled after."""
        self._stopped, self._shadow, self._model = True, None, unwrap(self._policy)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        group_size: int,
        sampling: Sampling,
        step: int,
        stream: int = 0,
        first_task: int = 0,
    ) -> list[list[Completion]]:
        """Return `group_size` completions for each prompt (`retrain.types.Engine.generate`).

        Raises:
            ConfigError: a prompt holds a token that the model does not have.
            RunError: the policy's logits are not finite.
        """
        assert not self._stopped, "the engine was stopped"
        assert _fingerprint(self._trained) == self._sampled, "the policy has changed since update_weights"
        self._check_prompts(prompts)
        size = self._largest_call or len(prompts)
        done: list[list[Completion]] = []
        while len(done) < len(prompts):
            chunk = prompts[len(done) : len(done) + size]
            rows = self._try(chunk, group_size, sampling, (stream, step, first_task + len(done)))
            if rows is None:
                size = self._largest_call = self._smaller(len(chunk), group_size)
                continue
            done += [rows[start : start + group_size] for start in range(0, len(rows), group_size)]
        return done

    def _try(
        self, prompts: Sequence[Sequence[int]], group_size: int, sampling: Sampling, place: tuple[int, int, int]
    ) -> list[Completion] | None:
        """Sample; None when memory did not suffice. By then nothing of the attempt is held."""
        try:
            with torch.inference_mode(), _evaluating(self._model) if self._shadow is None else contextlib.nullcontext():
                return self._sample(prompts, group_size, sampling, place)
        except RuntimeError as error:  # torch.OutOfMemoryError is one
            if not should_reduce_batch_size(error):
                raise
        clear_device_cache(garbage_collection=True)
        return None

    def _smaller(self, num_prompts: int, group_size: int) -> int:
        """Return how many prompts to try next. What a completion says does not depend on it.

        Raises:
            RunError: it was one prompt already.
        """
        if num_prompts == 1:
            raise RunError(
                f"out of memory while sampling {group_size} completions of a single prompt",
                "a smaller training.group_size or training.max_tokens",
            )
        smaller = (num_prompts + 1) // 2
        log.warning("out of memory while sampling %d prompts at once; from here on %d", num_prompts, smaller)
        return smaller

    def _sample(
        self, prompts: Sequence[Sequence[int]], group_size: int, sampling: Sampling, place: tuple[int, int, int]
    ) -> list[Completion]:
        """Fill a batch of rows token by token; rows leave when they are done."""
        stream, step, first_task = place
        length = max(map(len, prompts))
        num_rows, limit = len(prompts) * group_size, length + sampling.max_tokens
        cache = KvCache(rows=num_rows, positions=min(limit, length + FIRST_POSITIONS), limit=limit)
        logits, visible = self._prefill(prompts, group_size, cache)
        row = torch.arange(num_rows, device=logits.device)
        keys = row_keys(
            stream=stream,
            seed=sampling.seed,
            step=step,
            tasks=first_task + row // group_size,
            rollouts=row % group_size,
        )
        next_position = visible.sum(1)
        bias = self._bias(torch.cat([visible, visible.new_ones(num_rows, sampling.max_tokens)], 1))
        record = _Record(num_rows, sampling.max_tokens, self._ends(sampling), like=logits)
        for t in range(sampling.max_tokens):
            self.beat()
            drawn = draw(logits, uniforms(keys, t), temperature=sampling.temperature, top_p=sampling.top_p)
            open_ = record.add(row, t, drawn)
            if t + 1 == sampling.max_tokens or len(open_) == 0:
                break
            tokens = drawn.tokens
            if len(open_) <= self._compact_at * len(row):
                cache.keep(open_)
                row, keys, tokens, next_position, bias = (
                    each[open_] for each in (row, keys, tokens, next_position, bias)
                )
            seen = bias[:, None, None, : cache.length + 1]
            logits = self._forward(tokens[:, None], next_position[:, None] + t, seen, cache)
        return record.completions(self._version)

    def _prefill(
        self, prompts: Sequence[Sequence[int]], group_size: int, cache: KvCache
    ) -> tuple[Float[Tensor, "N V"], Bool[Tensor, "N S"]]:
        """Compute the prompts, padded on the left; return each row's next logits and which positions it may see."""
        if not self._share_prompts:
            prompts, group_size = [prompt for prompt in prompts for _ in range(group_size)], 1
        length, device = max(map(len, prompts)), self._model.device
        padding = [length - len(prompt) for prompt in prompts]
        ids = torch.tensor([[self._tokenizer.pad_id] * pad + list(p) for pad, p in zip(padding, prompts, strict=True)])
        visible = torch.arange(length)[None] >= torch.tensor(padding)[:, None]
        ids, visible = ids.to(device), visible.to(device)
        causal = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        itself = torch.eye(length, dtype=torch.bool, device=device)  # padding sees itself: an empty softmax is NaN
        bias = self._bias((causal & visible[:, None, None, :]) | itself)
        logits = self._forward(ids, (visible.cumsum(1) - 1).clamp(min=0), bias, cache)
        cache.spread(len(prompts), group_size)
        return logits.repeat_interleave(group_size, 0), visible.repeat_interleave(group_size, 0)

    def _bias(self, visible: Bool[Tensor, "*S"]) -> Float[Tensor, "*S"]:
        """Return what attention adds to its scores: 0 where a position is seen, the lowest number elsewhere.

        Every attention kernel takes it; sdpa would make it again from a mask of truths in every layer of every step.
        """
        dtype = self._model.dtype
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(
            ~visible, torch.finfo(dtype).min
        )

    def _forward(
        self, tokens: Int[Tensor, "N S"], positions: Int[Tensor, "N S"], bias: Float[Tensor, "N 1 S L"], cache: KvCache
    ) -> Float[Tensor, "N V"]:
        """Return the logits after the last token, in float32 or better.

        It calls the model's own forward, so that caps and scales of its logits are right. The 4-D bias is used as it
        is; `use_cache=False` only keeps the model from making a cache of its own.
        """
        logits = self._model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=bias,
            past_key_values=cache,
            use_cache=False,
            logits_to_keep=1,
        ).logits[:, -1]
        cache.advance(tokens.shape[1])
        return logits if logits.dtype == torch.float64 else logits.float()

    def _ends(self, sampling: Sampling) -> _Ends:
        if sampling.stop and sampling.stop not in self._stop_texts:
            self._stop_texts[sampling.stop] = StopTexts(sampling.stop, self._tokenizer)
        eos = torch.tensor(sorted(self._tokenizer.eos_ids), dtype=torch.long, device=self._model.device)
        return _Ends(eos, self._stop_texts.get(sampling.stop))

    def _check_prompts(self, prompts: Sequence[Sequence[int]]) -> None:
        assert prompts, "nothing to generate"
        assert all(prompts), "a prompt has no token"
        largest = max(map(max, prompts))
        if largest >= self._num_tokens:
            message = f"the tokenizer gives token {largest}, but the model knows only {self._num_tokens} tokens"
            raise ConfigError(
                Problem(message=message, hint="tokenizer and model must belong together", key="model.model")
            )

    def _check_exact(self) -> None:
        """Compare a few tokens with the model's own forward, before anything depends on them.

        Raises:
            ConfigError: they differ: an architecture that keeps more than keys and values, or keeps them elsewhere.
        """
        model_type = self._model.config.model_type
        prompts = [[(7 * i + 3) % self._num_tokens for i in range(length)] for length in (5, 3)]
        problem = Problem(
            message=f"the pytorch engine cannot run {model_type} models",
            hint="every layer must be full attention, as in Llama, Qwen2, Qwen3, or Mistral without a window",
            key="model.model",
        )
        try:
            with torch.no_grad(), _evaluating(self._model):
                gap = self._gap(prompts)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, AttributeError, LookupError, ValueError, RuntimeError) as error:
            raise ConfigError(problem) from error
        if not gap <= (3e-3 if torch.finfo(self._model.dtype).bits >= 32 else 0.1):  # tensor cores round to 1e-3
            raise ConfigError(problem)

    def _gap(self, prompts: Sequence[Sequence[int]]) -> float:
        """Compare log-probabilities after two steps of ours with a plain forward's: mean |Δ| over their spread."""
        last = torch.tensor([prompt[-1] for prompt in prompts], device=self._model.device)
        cache = KvCache(rows=len(prompts), positions=8, limit=8)
        _, visible = self._prefill([prompt[:-1] for prompt in prompts], 1, cache)
        seen = torch.cat([visible, visible.new_ones(len(prompts), 1)], 1)
        ours = self._forward(last[:, None], visible.sum(1)[:, None], self._bias(seen[:, None, None]), cache)
        alone = [torch.tensor([list(prompt)], device=last.device) for prompt in prompts]
        plain = torch.stack([self._model(input_ids=ids, use_cache=False).logits[0, -1] for ids in alone]).to(ours.dtype)
        expected = plain.log_softmax(-1)
        return ((ours.log_softmax(-1) - expected).abs().mean() / expected.std()).item()


class _Ends:
    """Tells which rows have just ended: by a token, or by a text."""

    def __init__(self, eos: Int[Tensor, " E"], stop_texts: StopTexts | None) -> None:
        self._eos, self._stop_texts = eos, stop_texts
        self._said: dict[int, list[int]] = {}

    def __call__(self, row: Int[Tensor, " N"], tokens: Int[Tensor, " N"]) -> Bool[Tensor, " N"]:
        ended = torch.isin(tokens, self._eos)
        if self._stop_texts is None:
            return ended
        said = [self._said.setdefault(i, []) for i in row.tolist()]
        for ids, token in zip(said, tokens.tolist(), strict=True):
            ids.append(token)
        completed = [self._stop_texts.completed_by(ids) for ids in said]
        return ended | torch.tensor(completed, device=ended.device)


class _Record:
    """What has been sampled so far, for all R rows of a call."""

    def __init__(self, num_rows: int, max_tokens: int, ends: _Ends, *, like: Float[Tensor, "N V"]) -> None:
        self._ends = ends
        self._tokens = torch.zeros(num_rows, max_tokens, dtype=torch.long, device=like.device)
        self._logprobs, self._entropies = (torch.zeros_like(self._tokens, dtype=like.dtype) for _ in range(2))
        self._lengths = torch.full((num_rows,), max_tokens, device=like.device)
        self._ended = torch.zeros(num_rows, dtype=torch.bool, device=like.device)

    def add(self, row: Int[Tensor, " N"], t: int, drawn: Drawn) -> Int[Tensor, " K"]:
        """Note token `t` of the rows in the batch; return where in the batch the unfinished ones are.

        A finished row that is still in the batch may write on: its length is already fixed.
        """
        self._tokens[row, t] = drawn.tokens
        self._logprobs[row, t] = drawn.logprobs
        self._entropies[row, t] = drawn.entropies
        before = self._ended[row]
        now = self._ends(row, drawn.tokens)
        self._lengths[row] = self._lengths[row].where(before | ~now, t + 1)
        self._ended[row] = before | now
        return (~(before | now)).nonzero()[:, 0]

    def completions(self, version: int) -> list[Completion]:
        """Return the rows, each cut to its own length."""
        lengths, ended = self._lengths.tolist(), self._ended.tolist()
        written = torch.arange(self._tokens.shape[1], device=self._tokens.device) < self._lengths[:, None]
        if not self._logprobs.where(written, 0.0).isfinite().all():
            raise NotFinite(
                "the policy's log-probabilities are not finite: its weights are damaged",
                "a lower training.lr or a lower training.max_grad_norm",
            )
        tokens, logprobs, entropies = self._tokens.tolist(), self._logprobs.tolist(), self._entropies.tolist()
        return [
            Completion(
                token_ids=tokens[i][:length],
                logprobs=logprobs[i][:length],
                entropies=entropies[i][:length],
                finish_reason="stop" if ended[i] else "length",
                policy_version=version,
            )
            for i, length in enumerate(lengths)
        ]


def _nothing() -> None:
    """Nobody watches."""


def _choose_weights(policy: PreTrainedModel | PeftModel, wanted: str) -> tuple[str, str]:
    """Decide between the training weights and a shadow of them; return which, and why.

    Raises:
        ConfigError: a shadow was asked for and this policy cannot have one.
    """
    if wanted == "shared":
        return "shared", 'inference.weights = "shared"'
    obstacle = unmergeable(policy)
    if wanted == "shadow":
        if obstacle:
            message = f'inference.weights = "shadow": there can be no merged copy of the policy: {obstacle}'
            raise ConfigError(Problem(message=message, hint='inference.weights = "auto"', key="inference.weights"))
        return "shadow", 'inference.weights = "shadow"'
    if obstacle:
        return "shared", obstacle
    needed, memory = tensor_bytes(policy.parameters()) + shadow_bytes(policy), memory_bytes(policy.device)
    reason = f"with a merged copy the weights take {needed / 2**20:.0f} of {memory / 2**20:.0f} MiB"
    return ("shadow" if needed <= SHADOW_SHARE * memory else "shared"), reason


def _fingerprint(trained: Sequence[Tensor]) -> int:
    return int(bit_sums(trained).sum())


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Switch dropout and checkpointing off (the latter drops the cache while training), then restore every module."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
