"""Load the language model, its tokenizer and its adapter: the one home of transformers' and PEFT's loading.

Where their files are is known to `retrain.hub`. Everything that a user can get wrong here (broken files, an
architecture, a layer name, an adapter of another model, a device) is a `ConfigError` that says what to type.
Generation's merged copy of the weights lives in `retrain.engines.shadow`.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights, set_peft_model_state_dict

from retrain.config import adapter
from retrain.errors import ConfigError, Problem
from retrain.hub import locate, locate_adapter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from transformers import PretrainedConfig, PreTrainedModel

    from retrain.config import schema
    from retrain.hub import Source
    from retrain.types import Message

KEY, ADAPTER = "model.model", "model.adapter"
logger = logging.getLogger(__name__)


def _problem(message: str, hint: str = "", key: str = KEY) -> ConfigError:
    return ConfigError(Problem(message=message, hint=hint, key=key))


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


# --- text and tokens ----------------------------------------------------------------------------------------------


class ChatTokenizer:
    """Messages to token ids and back (`retrain.types.Tokenizer`), around a transformers tokenizer (`hf`).

    A tokenizer without a chat template, that of a base model, gets plain text: the contents of the messages joined by
    blank lines, then a new line for the model to go on with, after the beginning-of-text token if the tokenizer
    writes one.
    """

    def __init__(self, hf: Any, *, eos_ids: Iterable[int], template_args: Mapping[str, Any], label: str) -> None:
        self.hf = hf
        self.eos_ids = frozenset(eos_ids)
        self.label = label
        known = (hf.pad_token_id, hf.eos_token_id, min(self.eos_ids, default=0))
        self.pad_id: int = next(id_ for id_ in known if id_ is not None)  # any id will do: masks tell padding, not ids
        self._template_args = dict(template_args)
        self._check_template_args()

    def _check_template_args(self) -> None:
        template = self.hf.chat_template or ""
        for name in self._template_args:
            if name not in str(template):
                why = (
                    f"the chat template of {self.label} does not use it"
                    if template
                    else f"{self.label} has no chat template"
                )
                message = f"data.chat_template_args.{name} has no effect: {why}"
                raise _problem(message, "remove it or check its spelling", key="data.chat_template_args")

    def encode_prompt(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids that the model continues with its answer.

        Raises:
            ConfigError: the chat template refuses the messages, e.g. a system prompt.
        """
        if not self.hf.chat_template:
            return self._encode_plain("\n\n".join(message["content"] for message in messages) + "\n")
        try:
            return self.hf.apply_chat_template(
                [dict(message) for message in messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
                **self._template_args,
            )
        except jinja2.TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise _problem(
                f"the chat template of {self.label} refuses messages with the roles {roles}: {error}",
                'a template without a system role needs data.system_prompt = ""',
                key="data.system_prompt",
            ) from error

    def _encode_plain(self, text: str) -> list[int]:
        ids = list(self.hf(text, add_special_tokens=True)["input_ids"])
        while ids and ids[-1] in self.eos_ids:  # some tokenizers close what they encode
            ids.pop()
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text, without special tokens."""
        return self.hf.decode(list(token_ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)


def load_tokenizer(config: schema.RunConfig) -> ChatTokenizer:
    """Load the tokenizer of the config's model.

    Raises:
        ConfigError: it is not there, cannot be read, or knows no token that ends a text while `training.stop` is empty.
    """
    source = locate(config.model)
    hint = "a model folder needs tokenizer.json (or its older forms) and tokenizer_config.json"
    try:
        with _quiet():
            hf = transformers.AutoTokenizer.from_pretrained(source.name, **source.arguments)
            eos_ids = _eos_ids(hf, source)
    except Exception as error:  # broken files fail in many ways; all of them are the same news
        raise _problem(f"the tokenizer of {source.label} cannot be loaded: {_first_line(error)}", hint) from error
    if not hf("1 + 1 = 2", add_special_tokens=False)["input_ids"]:  # what transformers makes up where there is none
        raise _problem(f"{source.label} comes without a tokenizer", hint)
    if not eos_ids and not config.training.stop:
        message = f"{source.label} has no token that ends a text: every completion would be cut at max_tokens"
        raise _problem(message, 'name it in its tokenizer_config.json ("eos_token"), or give training.stop')
    return ChatTokenizer(hf, eos_ids=eos_ids, template_args=config.data.chat_template_args, label=source.label)


def _eos_ids(hf: Any, source: Source) -> set[int]:
    """Collect the tokens that end a completion: the tokenizer's and those of the model's generation config.

    An id of the model's that the tokenizer holds for ordinary text is left out: it is a default that was never set
    (transformers writes 2 into a Llama config that does not say).
    """
    try:
        declared = transformers.GenerationConfig.from_pretrained(source.name, **source.arguments).eos_token_id
    except OSError:  # no generation_config.json
        declared = transformers.AutoConfig.from_pretrained(source.name, **source.arguments).eos_token_id
    ids = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
    special = {*hf.added_tokens_decoder, *hf.all_special_ids}
    own = set() if hf.eos_token_id is None else {hf.eos_token_id}
    return own | (special & set(ids))


# --- weights ------------------------------------------------------------------------------------------------------


def pick_device(text: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``gpu:0``, ``cuda:0`` or ``0`` into a device that is here; auto: the first GPU, if any.

    Raises:
        ConfigError: the text names no device, or one that is not here.
    """
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    name = text.strip().lower()
    if name == "cpu" or (name == "auto" and not num_gpus):
        return torch.device("cpu")
    index = "0" if name in ("auto", "gpu", "cuda") else name.removeprefix("gpu:").removeprefix("cuda:")
    here = ", ".join(["cpu", *(f"gpu:{i} ({torch.cuda.get_device_name(i)})" for i in range(num_gpus))])
    if not (index.isascii() and index.isdigit()):
        hint = f"one of auto, cpu, gpu:N; this machine has {here}"
        raise _problem(f'backend.devices = "{text}" is not a device', hint, key="backend.devices")
    if int(index) >= num_gpus:
        hint = f"this machine has {here}; auto takes the first GPU there is, else the CPU"
        raise _problem(f'backend.devices = "{text}" is not on this machine', hint, key="backend.devices")
    return torch.device("cuda", int(index))


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """Turn `model.dtype` into a number format; auto: bfloat16 on a GPU that has it, else float32."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    return getattr(torch, name)


def unwrap(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the causal language model inside, with adapters in its layers if it has any."""
    return model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[return-value]  PEFT: Module


def load_policy(config: schema.RunConfig, device: torch.device) -> PreTrainedModel | PeftModel:
    """Load the model that is trained: with a LoRA adapter, a new one or `model.adapter`, or whole at `lora_rank` 0.

    The adapter is float32 also beside a bfloat16 base (PEFT's default). A new one's first values depend on
    `training.seed` and on nothing that ran before. Whether the model trains or evaluates is left to the caller.

    Raises:
        ConfigError: the files, the architecture, the adapter or the names in `lora.target_modules` will not do.
    """
    source = locate(config.model)
    start = _starting_adapter(config) if config.model.adapter else None
    model = _load_weights(source, config.model, pick_dtype(config.model.dtype, device))
    if start is not None:
        return _load_adapter(model, config, start, source).to(device)
    if config.model.lora_rank == 0:
        return model.requires_grad_(requires_grad=True).to(device)  # type: ignore[arg-type]  transformers' own wrapper
    return _add_adapter(model, config, source.label).to(device)


def _load_weights(source: Source, model: schema.Model, dtype: torch.dtype) -> PreTrainedModel:
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, **source.arguments}
    options["ignore_mismatched_sizes"] = True  # they are in the loading report, which says it better
    options["adapter_kwargs"] = {"local_files_only": source.arguments["local_files_only"]}  # not passed on otherwise
    if model.attn_implementation != "auto":
        options["attn_implementation"] = model.attn_implementation
    try:
        with _quiet():
            hf_config = transformers.AutoConfig.from_pretrained(source.name, **source.arguments)
            check_architecture(hf_config, source.label)
            answer: Any = transformers.AutoModelForCausalLM.from_pretrained(source.name, config=hf_config, **options)
    except ConfigError:
        raise
    except Exception as error:  # broken files fail in many ways; all of them are the same news
        raise _problem(f"{source.label} cannot be loaded: {_first_line(error)}") from error
    loaded, report = answer
    wrong = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    if wrong:
        message = f"{source.label}: {len(wrong)} tensors are missing or have another shape than config.json says"
        raise _problem(message, f"{', '.join(wrong[:3])} …: they would start as random numbers; complete the files")
    return loaded


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from writing to the terminal: what matters of it is said in our own errors."""
    level, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # between transformers and PEFT, nothing of the user's
            yield
    finally:
        transformers.logging.set_verbosity(level)
        if bars:
            transformers.logging.enable_progress_bar()


def check_architecture(hf_config: PretrainedConfig, label: str) -> None:
    """Refuse, before any weight is read, what the generation loop cannot run exactly.

    Raises:
        ConfigError: layers other than full attention, or positions that depend on the longest row of a batch.
    """
    text_config = hf_config.get_text_config()
    kinds = set(getattr(text_config, "layer_types", None) or []) - {"full_attention"}
    if not getattr(text_config, "layer_types", None) and getattr(text_config, "sliding_window", None):
        kinds.add("sliding_attention")
    rope = getattr(text_config, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        kinds.add(f"{rope['rope_type']} positions")
    if kinds:
        message = f"{label} is a {hf_config.model_type} model with {', '.join(sorted(kinds))}"
        hint = "every layer must be full attention, as in Llama, Qwen2, Qwen3, or Mistral without a window"
        raise _problem(message, hint)


def _add_adapter(model: PreTrainedModel, config: schema.RunConfig, label: str) -> PeftModel:
    targets = _target_modules(model, config.lora.target_modules, label)
    alpha = config.lora.alpha
    lora = LoraConfig(
        r=config.model.lora_rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]  PEFT divides: 0.5 is fine
        lora_dropout=config.lora.dropout,
        target_modules=targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    assert config.training.seed >= 0, "a seed of -1 is drawn before anything is loaded"
    with (
        _quiet(),
        torch.random.fork_rng(devices=[]),
    ):  # the model is still on the CPU, so that every device starts alike
        torch.default_generator.manual_seed(config.training.seed)
        return get_peft_model(model, lora)  # type: ignore[return-value]  PeftMixedModel only when mixed=True


def _target_modules(model: PreTrainedModel, text: str, label: str) -> str | list[str]:
    """Return what PEFT takes: "all-linear", or names that each match at least one linear layer."""
    if text.strip() == "all-linear":
        return "all-linear"
    names = [name.strip() for name in text.split(",") if name.strip()]
    head = model.get_output_embeddings()
    linear = [
        path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear) and module is not head
    ]
    known = sorted({path.rpartition(".")[2] for path in linear})
    missing = [name for name in names if not any(path == name or path.endswith(f".{name}") for path in linear)]
    if missing or not names:
        wrong = ", ".join(missing) or "an empty list"
        message = f'lora.target_modules = "{text}": {wrong} names no layer of {label} that can have an adapter'
        raise _problem(message, f"all-linear, or some of {', '.join(known)}", key="lora.target_modules")
    return names


def _starting_adapter(config: schema.RunConfig) -> Path:
    """Return the folder of `model.adapter`.

    Raises:
        ConfigError: it is not to be had, or the config asks for another rank, alpha or other layers than it has.
    """
    folder = locate_adapter(config.model)
    if trouble := adapter.not_an_adapter(folder):
        raise _problem(f'{ADAPTER} = "{config.model.adapter}" {trouble[0]}', trouble[1], key=ADAPTER)
    found = [
        Problem(message=f"{key} = {getattr(getattr(config, section), name)} {message}", hint=hint, key=key)
        for key, message, hint in adapter.conflicts(config, adapter.read(folder))
        for section, _, name in [key.partition(".")]
    ]
    if found:
        raise ConfigError(found)
    return folder


def _load_adapter(model: PreTrainedModel, config: schema.RunConfig, folder: Path, source: Source) -> PeftModel:
    """Put an existing adapter on the model, to be trained on: its own shape and values, `lora.dropout` of the config.

    Raises:
        ConfigError: its tensors are not those of this model, or sit on something else than linear layers.
    """
    label = f'{ADAPTER} = "{config.model.adapter}"'
    base = adapter.read(folder).base
    if base and not _is_same(base, source):
        logger.warning("%s was trained on %s, and is put on %s", label, base, source.label)
    try:
        with _quiet(), torch.random.fork_rng(devices=[]):
            lora: Any = LoraConfig.from_pretrained(str(folder))
            lora.lora_dropout, lora.inference_mode, lora.task_type = config.lora.dropout, False, "CAUSAL_LM"
            lora.base_model_name_or_path, lora.revision = source.name, config.model.revision or None
            policy: Any = get_peft_model(model, lora)
            report = set_peft_model_state_dict(policy, load_peft_weights(str(folder), device="cpu"))
    except Exception as error:  # other layers, other shapes, broken files: all of them are the same news
        reason = " ".join(str(error).split())[:300]
        raise _problem(f"{label} does not fit {source.label}: {reason}", "name its own model", key=ADAPTER) from error
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    if wrong := sorted({*report.unexpected_keys, *(trained & set(report.missing_keys))}):
        message = f"{label} does not fit {source.label}: {len(wrong)} tensors are missing or have no layer"
        raise _problem(message, f"{', '.join(wrong[:3])} …", key=ADAPTER)
    head = unwrap(policy).get_output_embeddings()
    for name, module in unwrap(policy).named_modules():
        if isinstance(module, LoraLayer) and (module is head or type(module.get_base_layer()) is not torch.nn.Linear):
            hint = "neither sampler nor loss would be exact: only linear layers below the head can have one"
            raise _problem(f"{label} has a part on {name}", hint, key=ADAPTER)
    return policy


def _is_same(base: str, source: Source) -> bool:
    """Whether an adapter's base, a hub id or a folder, is the model that was loaded."""
    return base in (source.name, source.label) or Path(base).expanduser().resolve() == Path(source.name).resolve()
