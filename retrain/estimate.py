"""What a run generates, writes and needs of memory, before anything is loaded: from `retrain.shapes` and the config.

Memory is what tensors take, in bytes, by phase:

    load        weights, adapter, the engine's merged copy, the KL reference
    generate    those, the optimiser's state, keys and values, one step's logits
    train       those without keys and values, gradients, activations, the head's tiles

How far to trust it. Tests on a CPU, with Llama, Qwen2 and Qwen3, float32 and bfloat16, LoRA and full, with and without
checkpointing, hold weights, adapters, keys and values to the real tensors exactly, activations to what autograd saves
within 5 %, and the most that a forward and backward pass allocates to within 15 %. On a GPU it has not been measured:
the formula differs there in the head only, which Triton computes in place. Other dense architectures are taken for
Llamas. CUDA itself (about half a GB) and fragmentation come on top: `fits` leaves a tenth of the device for them.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import shapes
from retrain.errors import Problem
from retrain.shapes import Form, Tensors

if TYPE_CHECKING:
    from retrain.config.schema import RunConfig

CPU_TOKENS = 1024  # completion tokens in one forward: more is slower on a CPU, whose caches overflow
GPU_TOKENS = 32_768
ASSUMED_PROMPT = 256  # tokens, where nobody has measured the prompts
SHADOW_SHARE = 0.5  # of a device's memory may hold weights: the rest is for keys, values and the backward pass
USABLE = 0.9  # of a device's memory; the rest is CUDA's own and fragmentation
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8}

HEAD_TOKENS, HEAD_COLUMNS = 4096, 32_768  # TRL's fused head works on tiles of so many tokens and vocabulary entries
HEAD_TILES = 8  # float32 copies of a tile that its backward holds at once where there is no Triton
DRAW_ROW = 28  # bytes a vocabulary entry while a token is drawn: five float32 and the sum over float64
BACKWARD = 2  # gradients of the widest layer that live at once
LOSS_TOKEN = 40  # bytes that the loss keeps of a token: labels, sums, log-probability, entropy, masks

TOKEN_BYTES = 16  # id, log-probability, entropy, advantage: four bytes each, of which compression takes little
TEXT_BYTES = 4  # a token's text, about


# --- volume ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Volume:
    """How much a run generates."""

    completions_per_step: int
    generated_batches: int
    tokens_per_step_at_most: int
    generated_tokens_at_most: int
    rollout_bytes_at_most: int

    @property
    def completions(self) -> int:
        return self.completions_per_step * self.generated_batches


def volume(config: RunConfig) -> Volume:
    """Work out how much a run of this config generates, evaluations apart."""
    training = config.training
    completions = training.batch_size * training.group_size
    batches = math.ceil(training.max_steps / config.algorithm.num_iterations)
    tokens = completions * training.max_tokens
    keep = config.logging.keep_rollouts
    kept = batches if keep == "all" else 0 if keep == "none" else batches // int(keep)
    return Volume(
        completions_per_step=completions,
        generated_batches=batches,
        tokens_per_step_at_most=tokens,
        generated_tokens_at_most=batches * tokens,
        rollout_bytes_at_most=kept * tokens * (TOKEN_BYTES + TEXT_BYTES),
    )


def evaluations(config: RunConfig) -> int:
    """Count the held-out evaluations of a run: at the start, every `eval.every` steps, and at the end."""
    steps, every = config.training.max_steps, config.eval.every
    return len({*range(0, steps + 1, every), steps}) if every else 0


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What a run leaves on disk at most, in bytes; None: the model is not here, so its adapter's size is not known.

    Checkpoints hold weights and two moments; one more than is kept while it is written, one of the best score.
    """

    rollouts: int
    checkpoints: int | None
    adapters: int | None  # or models, where every weight is trained

    @property
    def total(self) -> int | None:
        if self.checkpoints is None or self.adapters is None:
            return None
        return self.rollouts + self.checkpoints + self.adapters


def disk(config: RunConfig, model: shapes.ModelSize, dtype: str) -> Disk:
    """Work out what a run leaves on disk: completions, checkpoints, the finished and the best adapter."""
    rollouts, training = volume(config).rollout_bytes_at_most, config.training
    if model.trainable is None:
        return Disk(rollouts=rollouts, checkpoints=None, adapters=None)
    item = ITEM_BYTES[dtype]
    weights = model.trainable * (max(4, item) if config.model.lora_rank else item)  # as `memory` counts them
    best = bool(config.eval.every and config.eval.keep_best)
    kept = min(training.keep_checkpoints + 1 + best, training.max_steps)
    copies = 1 + best + bool(config.backend.adapter_path)
    return Disk(rollouts=rollouts, checkpoints=kept * 3 * weights, adapters=copies * weights)


def dtype_of(config: RunConfig, *, gpu: bool) -> str:
    """Return the number format of the weights, on a GPU that has bfloat16 or on a CPU."""
    return config.model.dtype if config.model.dtype != "auto" else "bfloat16" if gpu else "float32"


# --- memory ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Component:
    """One thing that takes memory, and the key that makes it smaller."""

    name: str
    bytes: int
    key: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is in memory at the top of a phase."""

    name: str  # load, generate or train
    bytes: int
    components: tuple[Component, ...]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The memory of a run on one device; without phases where `note` says why it is unknown."""

    device: str  # cpu or gpu
    dtype: str
    micro_batch_size: int
    prompt_tokens: int
    phases: tuple[Phase, ...] = ()
    peak: str = ""
    peak_bytes: int | None = None
    note: str = ""


def rows_in_a_forward(micro_batch_size: int, max_tokens: int, *, on_gpu: bool) -> int:
    """Return how many completions a forward pass takes: `training.micro_batch_size`, or as many as fill it."""
    return micro_batch_size or max(1, (GPU_TOKENS if on_gpu else CPU_TOKENS) // max_tokens)


def on_gpu(devices: str) -> bool:
    """Tell whether `backend.devices` means a GPU, without loading a library that would know for sure."""
    name = devices.strip().lower()
    if name != "auto":
        return name != "cpu"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    return not hidden and any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd"))


def memory(
    config: RunConfig, *, gpu: bool | None = None, device_bytes: int | None = None, prompt_tokens: int = ASSUMED_PROMPT
) -> Memory:
    """Estimate the memory of a run.

    gpu:           where it trains; None: where `backend.devices` says
    device_bytes:  all the memory of the device, which decides about the engine's merged copy; None: there is enough
    prompt_tokens: the longest prompt
    """
    gpu = on_gpu(config.backend.devices) if gpu is None else gpu
    dtype, training = dtype_of(config, gpu=gpu), config.training
    rows = rows_in_a_forward(training.micro_batch_size, training.max_tokens, on_gpu=gpu)
    rows = min(rows, training.batch_size * training.group_size)
    known = Memory(device="gpu" if gpu else "cpu", dtype=dtype, micro_batch_size=rows, prompt_tokens=prompt_tokens)
    try:
        tensors = shapes.read(config)
        form = Form.of(tensors.config) if tensors else None
    except (OSError, ValueError) as error:
        return replace(known, note=f"unknown: {error}")
    if tensors is None or form is None:
        return replace(known, note=shapes.NOT_CACHED)
    if not tensors.model:
        return replace(known, note="unknown: its weights are not here as safetensors")
    needs = _Needs(config, tensors, form, known, device_bytes)
    phases = tuple(
        Phase(name=name, bytes=sum(c.bytes for c in found), components=found)
        for name, found in (
            (name, tuple(sorted((c for c in parts if c.bytes), key=lambda c: -c.bytes)))
            for name, parts in (("load", needs.held()), ("generate", needs.generate()), ("train", needs.train()))
        )
    )
    top = max(phases, key=lambda phase: phase.bytes)
    return replace(known, phases=phases, peak=top.name, peak_bytes=top.bytes)


class _Needs:
    """The components of each phase; everything is in bytes unless it is called otherwise."""

    def __init__(
        self, config: RunConfig, tensors: Tensors, form: Form, known: Memory, device_bytes: int | None
    ) -> None:
        self.config, self.training, self.form, self.gpu = config, config.training, form, known.device == "gpu"
        self.item = ITEM_BYTES[known.dtype]
        self.adapter_item = max(4, self.item)  # PEFT keeps an adapter at float32 beside half precision
        self.weights = shapes.count(tensors.model) * self.item
        self.adapted = layers_with(tensors)
        self.trained = shapes.count(tensors.adapter) * self.adapter_item if tensors.adapter else self.weights
        self.full, self.rows, self.prompt = not tensors.adapter, known.micro_batch_size, known.prompt_tokens
        self.length = self.prompt + self.training.max_tokens
        self.shadow = self._shadow(tensors, device_bytes)

    def _shadow(self, tensors: Tensors, device_bytes: int | None) -> int:
        """Return what the engine's merged copy takes; 0 where it samples from the training weights."""
        wanted = self.config.inference.weights
        if self.full or wanted == "shared" or any("lora_magnitude_vector" in name for name in tensors.adapter):
            return 0
        size = sum(math.prod(tensors.model[layer]) for layer in self.adapted) * self.item
        adapter = shapes.count(tensors.adapter) * self.adapter_item
        if wanted == "auto" and device_bytes and self.weights + adapter + size > SHADOW_SHARE * device_bytes:
            return 0
        return size

    def held(self) -> list[Component]:
        """What stays from loading to the end."""
        copies = self.trained if self.config.algorithm.kl_coef > 0 else 0  # of the model, or of the adapter as "ref"
        smaller = "a smaller model" if self.item <= 2 else "bfloat16 halves it, and so does a smaller model"
        key = "model.model" if self.item <= 2 else "model.dtype"
        parts = [
            Component(name="weights", bytes=self.weights, key=key, fix=smaller),
            Component(
                name="merged copy", bytes=self.shadow, key="inference.weights", fix='inference.weights = "shared"'
            ),
            Component(
                name="KL reference", bytes=copies, key="algorithm.kl_coef", fix="algorithm.kl_coef = 0 needs none"
            ),
        ]
        return parts if self.full else [*parts, self._of_trained("adapter", self.trained)]

    def _of_trained(self, name: str, size: int) -> Component:
        fix = "model.lora_rank = 32 trains an adapter" if self.full else "a smaller model.lora_rank"
        return Component(name=name, bytes=size, key="model.lora_rank", fix=fix)

    def generate(self) -> list[Component]:
        """While every completion is at its full length."""
        training, form = self.training, self.form
        rows = training.batch_size * training.group_size
        kv = kv_cache_bytes(form, rows=rows, positions=self.length, item=self.item)
        prompts = training.batch_size * self.prompt * (3 * form.inner * self.item + 8 * form.hidden)
        return [
            *self.held(),
            self._of_trained("optimiser", 2 * self.trained),
            Component(name="keys and values", bytes=kv, key="training.batch_size", fix="a smaller training.batch_size"),
            Component(
                name="sampling",
                bytes=max(rows * form.vocabulary * (DRAW_ROW + self.item), prompts),
                key="training.batch_size",
                fix="a smaller training.batch_size",
            ),
        ]

    def train(self) -> list[Component]:
        """While the gradient of one micro-batch is computed: in the loss's head, or in the widest layer below it."""
        kept, layer = self.activations()
        head, below = self._head(), layer + self._backward()
        name, size = ("logits", head) if head >= below else ("backward pass", below)
        key, fix = "training.micro_batch_size", "training.micro_batch_size = 1"
        if self.rows == 1:
            key, fix = "training.max_tokens", "a smaller training.max_tokens"
            if not self.checkpointing:
                key, fix = "training.gradient_checkpointing", 'training.gradient_checkpointing = "on"'
        return [
            *self.held(),
            self._of_trained("gradients", self.trained),
            self._of_trained("optimiser", 2 * self.trained),
            Component(name="activations", bytes=kept, key=key, fix=fix),
            Component(name=name, bytes=size, key=key, fix=fix),
        ]

    @property
    def checkpointing(self) -> bool:
        wanted = self.training.gradient_checkpointing
        return wanted == "on" or (wanted == "auto" and self.gpu)

    def activations(self) -> tuple[int, int]:
        """Return what autograd keeps of a forward pass, and what a layer that is computed again takes meanwhile."""
        form, item, tokens = self.form, self.item, self.rows * self.length
        query, keys = form.heads * form.width, form.kv_heads * form.width
        norms = 2 * (4 * form.hidden + 4)  # float32 whatever the weights are, and the scale
        if form.query_norm:
            norms += 4 * (query + keys + form.heads + form.kv_heads)
        attention = item * (4 * query + self.length) + 4 * form.heads  # q, k and v for each head, result, mask, sums
        layer = norms + attention + 3 * item * form.inner  # gate, its activation, up
        if self.full:  # normalised twice (before and after its scale, for two norms), down's input
            layer += item * (4 * form.hidden + form.inner + (query + keys if form.query_norm else 0))
        every = tokens * (form.layers * layer + self._adapter_inputs())
        hidden = tokens * (form.hidden * item + LOSS_TOKEN)  # what the head reads
        if self.checkpointing:
            scaled = tokens * form.hidden * item if self.full else 0
            return tokens * form.hidden * (form.layers * item + 4) + hidden + scaled, every // form.layers
        final = tokens * form.hidden * (4 + item) if self.full else 0
        return every + hidden + final, 0

    def _adapter_inputs(self) -> int:
        """Return what adapters keep for one token: their input in their own precision, and what A makes of it.

        In the precision of the weights an input is shared by the layers that read it, and attention keeps o's already.
        """
        mask = 0 if self.config.lora.dropout == 0 else 1 if self.gpu else self.adapter_item
        ranks = sum(rank for rank, _ in self.adapted.values()) * self.adapter_item
        if mask or self.item != self.adapter_item:
            return ranks + sum(width for _, width in self.adapted.values()) * (self.adapter_item + mask)
        inputs = {}
        for name, (_, width) in self.adapted.items():
            layer, _, projection = name.removesuffix(".weight").rpartition(".")
            if projection != "o_proj":
                shared = projection in ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
                inputs[layer if shared else name] = width
        return ranks + sum(inputs.values()) * self.adapter_item

    def _head(self) -> int:
        """Return what TRL's fused head holds in its backward pass: a tile of logits, and its gradients in float32."""
        form = self.form
        tokens = self.rows * (self.training.max_tokens if self.gpu else self.length)
        rows = min(tokens, HEAD_TOKENS)
        tile = rows * HEAD_COLUMNS * self.item  # of that width for a small vocabulary too
        copies = 0 if self.gpu else rows * min(form.vocabulary, HEAD_COLUMNS) * (4 * HEAD_TILES + 1)
        weight = 4 * form.vocabulary * form.hidden if self.full else 0
        return tile + copies + tokens * form.hidden * (4 + self.item) + weight

    def _backward(self) -> int:
        """Return the gradients that are under way in one layer."""
        form = self.form
        item = self.item if self.full else self.adapter_item
        return BACKWARD * self.rows * self.length * max(form.inner, form.heads * form.width, form.hidden) * item


def kv_cache_bytes(form: Form, *, rows: int, positions: int, item: int) -> int:
    """Return what keys and values of so many rows and positions take (`retrain.engines.kv_cache`)."""
    return 2 * form.layers * rows * form.kv_heads * form.width * positions * item


def layers_with(tensors: Tensors) -> dict[str, tuple[int, int]]:
    """Return each adapted weight's (rank, width of its input)."""
    found = {}
    for name, shape in tensors.adapter.items():
        layer, mark, _ = name.partition(".lora_A.")
        if mark:
            found[f"{layer}.weight"] = (shape[0], shape[1])
    return found


def fits(estimate: Memory, device_bytes: int) -> Problem | None:
    """Compare with a device; None: it fits, or nobody knows.

    The key to change is that of the largest component whose going would be enough; if none would, of the largest.
    """
    usable = int(USABLE * device_bytes)
    if estimate.peak_bytes is None or estimate.peak_bytes <= usable:
        return None
    (top,) = [phase for phase in estimate.phases if phase.name == estimate.peak]
    largest, missing = top.components[0], estimate.peak_bytes - usable
    enough = [c for c in top.components if c.bytes >= missing and c.name != "weights"]
    chosen = enough[0] if enough else largest
    message = (
        f"about {gigabytes(estimate.peak_bytes)} are needed to {top.name}, and {gigabytes(usable)} of the device's "
        f"{gigabytes(device_bytes)} can be used; the largest part is {largest.name}, {gigabytes(largest.bytes)}"
    )
    return Problem(message=message, hint=f"{chosen.fix} ({chosen.name}: {gigabytes(chosen.bytes)})", key=chosen.key)


def gigabytes(size: int) -> str:
    """Write a size as graphics cards are sold: GB of 2^30 bytes; a small one in MB of 2^20."""
    return f"{size / 2**30:.1f} GB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MB"
