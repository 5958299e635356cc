"""The tensors of a model and of its adapter, by name and shape: no weight is read and no library is loaded.

They come from the headers of safetensors files where those are on this machine, else, for the architectures that are
known here, from what config.json implies.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import tiny
from retrain.config import adapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrain.config.schema import RunConfig

NOT_CACHED = "unknown: not cached"
EMBEDDINGS = ("embed", "wte", "wpe", "lm_head", "output")  # no adapter goes on these
DENSE = ("llama", "mistral", "qwen2", "qwen3")  # architectures whose shapes are known here

Shapes = dict[str, list[int]]


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """parameters, trainable: None where they cannot be told without a download; `note` then says why."""

    architecture: str
    parameters: int | None
    trainable: int | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Tensors:
    """What is known of a model on this machine.

    config:  its config.json
    model:   the model's own tensors; empty: not known
    adapter: those of the adapter that is trained; empty: there is none
    """

    config: Mapping[str, Any]
    model: Shapes
    adapter: Shapes


def read(config: RunConfig) -> Tensors | None:
    """Read what is on this machine of the config's model and adapter; None: the model is not here.

    Raises:
        OSError, ValueError: its files are damaged.
    """
    folder = local_folder(config.model.model, config.model.revision)
    if folder is None:
        return None
    raw = adapter.read_json(folder / "config.json")
    shapes = dict(tensor_shapes(folder)) or implied(raw)
    return Tensors(config=raw, model=shapes, adapter=_adapter(config, shapes))


def measure(config: RunConfig) -> ModelSize:
    """Count the parameters of the config's model, and those that are trained."""
    try:
        found = read(config)
    except (OSError, ValueError) as error:
        return ModelSize(architecture="", parameters=None, trainable=None, note=f"unknown: {error}")
    if found is None:
        return ModelSize(architecture="", parameters=None, trainable=None, note=NOT_CACHED)
    architecture = found.config.get("model_type", "")
    if not found.model:
        note = "unknown: its weights are not here as safetensors"
        return ModelSize(architecture=architecture, parameters=None, trainable=None, note=note)
    total = count(found.model)
    return ModelSize(
        architecture=architecture, parameters=total, trainable=count(found.adapter) if found.adapter else total
    )


def local_folder(model: str, revision: str) -> Path | None:
    """Return the folder that holds the model's files on this machine, without asking any network."""
    if model == tiny.NAME:
        return tiny.path()
    folder = Path(model).expanduser()
    return folder if (folder / "config.json").is_file() else adapter.cached(model, revision, "config.json")


def tensor_shapes(folder: Path, files: str = "*.safetensors") -> Iterator[tuple[str, list[int]]]:
    """Yield every tensor's name and shape.

    A safetensors file begins with the length of its header, eight bytes, and the header, JSON.
    """
    for path in sorted(folder.glob(files)):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, path.stat().st_size)))  # a damaged length may be astronomical
        for name, tensor in header.items():
            if name != "__metadata__":
                yield name, tensor["shape"]


def implied(raw: Mapping[str, Any]) -> Shapes:
    """Return the tensors that a config.json of a known architecture implies; nothing for any other."""
    if raw.get("model_type") not in DENSE:
        return {}
    form, kind = Form.of(raw), raw["model_type"]
    hidden, query, keys, inner = form.hidden, form.heads * form.width, form.kv_heads * form.width, form.inner
    qkv_bias = kind == "qwen2" or bool(raw.get("attention_bias"))
    layer = {
        "self_attn.q_proj": [query, hidden],
        "self_attn.k_proj": [keys, hidden],
        "self_attn.v_proj": [keys, hidden],
        "self_attn.o_proj": [hidden, query],
        "mlp.gate_proj": [inner, hidden],
        "mlp.up_proj": [inner, hidden],
        "mlp.down_proj": [hidden, inner],
    }
    biased = [name for name in layer if "self_attn" in name and qkv_bias and ("o_proj" not in name or kind != "qwen2")]
    biased += [name for name in layer if "mlp" in name and raw.get("mlp_bias")]
    vectors = {f"{name}.bias": [layer[name][0]] for name in biased}
    vectors |= {"input_layernorm.weight": [hidden], "post_attention_layernorm.weight": [hidden]}
    if form.query_norm:
        vectors |= {"self_attn.q_norm.weight": [form.width], "self_attn.k_norm.weight": [form.width]}
    one = {f"{name}.weight": shape for name, shape in layer.items()} | vectors
    shapes = {f"model.layers.{i}.{name}": shape for i in range(form.layers) for name, shape in one.items()}
    shapes |= {"model.embed_tokens.weight": [form.vocabulary, hidden], "model.norm.weight": [hidden]}
    return shapes if raw.get("tie_word_embeddings") else shapes | {"lm_head.weight": [form.vocabulary, hidden]}


def _adapter(config: RunConfig, shapes: Shapes) -> Shapes:
    """Return the adapter's tensors: those of `model.adapter` where it is here, else A and B of each adapted layer."""
    rank = config.model.lora_rank
    if config.model.adapter and (folder := adapter.find(config.model.adapter)):
        found = tensor_shapes(folder, "adapter_model.safetensors")
        return {name.removeprefix("base_model.model."): shape for name, shape in found}
    made = {}
    for name in _targets(shapes, config.lora.target_modules) if rank else ():
        rows, columns = shapes[name]
        layer = name.removesuffix(".weight")
        made |= {f"{layer}.lora_A.weight": [rank, columns], f"{layer}.lora_B.weight": [rows, rank]}
    return made


def _targets(shapes: Shapes, target_modules: str) -> list[str]:
    """Return the weights of the layers that a new adapter goes on."""
    wanted = [] if target_modules.strip() == "all-linear" else [n.strip() for n in target_modules.split(",")]

    def targeted(name: str) -> bool:
        layer = name.removesuffix(".weight")
        if wanted:
            return any(layer == module or layer.endswith(f".{module}") for module in wanted)
        return not any(part in layer for part in EMBEDDINGS)

    return [name for name, shape in shapes.items() if len(shape) == 2 and targeted(name)]


def count(shapes: Shapes) -> int:
    """Return the number of parameters."""
    return sum(math.prod(shape) for shape in shapes.values())


@dataclass(frozen=True, kw_only=True)
class Form:
    """The measures of a decoder: what activations, keys and values depend on."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    width: int  # of a head
    inner: int  # of the MLP
    vocabulary: int
    query_norm: bool  # queries and keys are normalised, as in Qwen3

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Form:
        """Read a config.json.

        Raises:
            ValueError: a measure is not there, or the model is a mixture of experts.
        """
        if raw.get("num_experts") or raw.get("num_local_experts"):
            raise ValueError("a mixture of experts")
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
        if absent := [name for name in names if not isinstance(raw.get(name), int)]:
            raise ValueError(f"config.json does not say {', '.join(absent)}")
        hidden, layers, heads, inner, vocabulary = (raw[name] for name in names)
        return cls(
            hidden=hidden,
            layers=layers,
            heads=heads,
            kv_heads=raw.get("num_key_value_heads") or heads,
            width=raw.get("head_dim") or hidden // heads,
            inner=inner,
            vocabulary=vocabulary,
            query_norm=raw.get("model_type") == "qwen3",
        )
