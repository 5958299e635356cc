"""Loading a folder: what works, and one clear message for everything that does not."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

from retrain import hub, model
from tests.models import MAKERS, config_of, refusal

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, make in MAKERS.items()}


# --- text and tokens ----------------------------------------------------------------------------------------------

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Ada has 3 apples."}]


def test_a_chat_template_ends_with_the_beginning_of_the_answer(folders: dict[str, Path]):
    tokenizer = model.load_tokenizer(config_of(folders["qwen2"]))
    text = tokenizer.hf.decode(tokenizer.encode_prompt(CHAT))
    turns = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nAda has 3 apples.<|im_end|>\n"
    assert text == turns + "<|im_start|>assistant\n"


def test_template_arguments_reach_the_template(folders: dict[str, Path]):
    config = config_of(folders["qwen2"], data={"chat_template_args": {"enable_thinking": False}})
    tokenizer = model.load_tokenizer(config)
    assert tokenizer.hf.decode(tokenizer.encode_prompt(CHAT)).endswith("assistant\n<think></think>")


@pytest.mark.parametrize(("name", "why"), [("qwen2", "does not use it"), ("llama", "has no chat template")])
def test_a_template_argument_without_effect_is_an_error(folders: dict[str, Path], name: str, why: str):
    config = config_of(folders[name], data={"chat_template_args": {"enable_reasoning": False}})
    message = refusal(lambda: model.load_tokenizer(config))
    assert "data.chat_template_args.enable_reasoning has no effect" in message
    assert why in message


def test_without_a_chat_template_the_prompt_is_plain_text(folders: dict[str, Path]):
    """Contents joined by blank lines, a new line to go on with, and the beginning of text that the tokenizer writes."""
    tokenizer = model.load_tokenizer(config_of(folders["llama"]))
    ids = tokenizer.encode_prompt(CHAT)
    assert tokenizer.hf.decode(ids) == "<s> Be brief.\n\nAda has 3 apples.\n"
    assert ids[0] == tokenizer.hf.bos_token_id


def test_a_tokenizer_that_closes_what_it_encodes_leaves_the_prompt_open(folders: dict[str, Path]):
    from tokenizers import processors

    tokenizer = model.load_tokenizer(config_of(folders["llama"]))
    open_ids = tokenizer.encode_prompt(CHAT)
    tokenizer.hf.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    assert tokenizer.hf("x")["input_ids"][-1] == 1
    assert tokenizer.encode_prompt(CHAT) == open_ids


def test_a_template_that_refuses_a_role_is_told_to_the_user(folders: dict[str, Path]):
    tokenizer = model.load_tokenizer(config_of(folders["qwen2"]))
    tokenizer.hf.chat_template = "{{ raise_exception('System role not supported') }}"
    message = refusal(lambda: tokenizer.encode_prompt(CHAT))
    assert "system, user: System role not supported" in message
    assert "data.system_prompt" in message


@pytest.mark.parametrize("text", ["", "naïve 福田 \\boxed{3} .", " leading", "a\n\nb  c"])
def test_decoding_gives_back_what_was_encoded(folders: dict[str, Path], text: str):
    for name in ("qwen2", "qwen3"):
        tokenizer = model.load_tokenizer(config_of(folders[name]))
        ids = tokenizer.hf(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode([*ids, *tokenizer.eos_ids]) == text


def test_padding_is_an_id_of_the_tokenizer_or_else_the_end_of_text(folders: dict[str, Path]):
    found = {name: model.load_tokenizer(config_of(folder)) for name, folder in folders.items()}
    assert {name: t.pad_id for name, t in found.items()} == {"llama": 1, "qwen2": 0, "qwen3": 0}
    assert {name: t.eos_ids for name, t in found.items()} == {"llama": {1}, "qwen2": {0}, "qwen3": {0, 2}}


def edited(folder: Path, to: Path, file: str, **changes: Any) -> Path:
    """Copy a model folder with some keys of a JSON file changed; None removes one."""
    shutil.copytree(folder, to)
    values = {**json.loads((to / file).read_text()), **changes}
    (to / file).write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    return to


def test_an_end_token_that_is_ordinary_text_is_a_default_that_nobody_set(folders: dict[str, Path], tmp_path: Path):
    """Token 70 is a letter here. A model that really ends on it would end in the middle of words."""
    folder = edited(folders["qwen3"], tmp_path / "m", "generation_config.json", eos_token_id=[2, 70])
    assert model.load_tokenizer(config_of(folder)).eos_ids == {2}


def test_end_tokens_come_from_the_model_where_there_is_no_generation_config(folders: dict[str, Path], tmp_path: Path):
    folder = edited(folders["qwen3"], tmp_path / "m", "config.json", eos_token_id=0)
    (folder / "generation_config.json").unlink()
    assert model.load_tokenizer(config_of(folder)).eos_ids == {0, 2}


def test_a_tokenizer_without_an_end_needs_a_stop_text(folders: dict[str, Path], tmp_path: Path):
    folder = edited(folders["llama"], tmp_path / "m", "tokenizer_config.json", eos_token=None)
    edited(folder, tmp_path / "n", "generation_config.json", eos_token_id=None)
    config = config_of(tmp_path / "n")
    assert "no token that ends a text" in refusal(lambda: model.load_tokenizer(config))
    config.training.stop = ["\n"]
    assert model.load_tokenizer(config).eos_ids == set()


# --- weights ------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_adapter_whatever_ran_before(folders: dict[str, Path]):
    def first_values(seed: int, before: int) -> torch.Tensor:
        torch.manual_seed(before)
        policy = model.load_policy(config_of(folders["qwen3"], training={"seed": seed}), CPU)
        return torch.cat([p.detach().flatten() for name, p in policy.named_parameters() if "lora_A" in name])

    assert torch.equal(first_values(3, before=0), first_values(3, before=1))
    assert not torch.equal(first_values(3, before=0), first_values(4, before=0))


def test_loading_leaves_the_random_state_alone(folders: dict[str, Path]):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    model.load_policy(config_of(folders["llama"]), CPU)
    assert torch.equal(torch.rand(3), expected)


def test_a_new_adapter_changes_nothing_yet_and_only_it_is_trained(folders: dict[str, Path]):
    ids = torch.tensor([[5, 6, 7]])
    whole = model.load_policy(config_of(folders["qwen2"], model={"lora_rank": 0}), CPU).eval()
    adapted = model.load_policy(config_of(folders["qwen2"], model={"lora_rank": 4}), CPU).eval()
    assert torch.equal(whole(input_ids=ids).logits, adapted(input_ids=ids).logits)
    assert all(p.requires_grad for p in whole.parameters())
    assert {"lora_" in name for name, p in adapted.named_parameters() if p.requires_grad} == {True}
    assert model.unwrap(whole) is whole
    assert type(model.unwrap(adapted)) is type(whole)


def test_the_adapter_has_the_shape_of_the_config(folders: dict[str, Path]):
    lora = {"alpha": 6.0, "dropout": 0.25, "target_modules": "q_proj, down_proj"}
    policy: Any = model.load_policy(config_of(folders["llama"], model={"lora_rank": 4}, lora=lora), CPU)
    found = policy.peft_config["default"]
    assert (found.r, found.lora_alpha, found.lora_dropout) == (4, 6, 0.25)
    adapted = {name.split(".")[-2] for name, _ in policy.named_modules() if name.endswith("lora_A")}
    assert adapted == {"q_proj", "down_proj"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_weights_have_the_number_format_asked_for(folders: dict[str, Path], dtype: str):
    policy = model.load_policy(config_of(folders["llama"], model={"dtype": dtype}), CPU)
    assert {p.dtype for name, p in policy.named_parameters() if "lora" not in name} == {getattr(torch, dtype)}
    assert model.pick_dtype("auto", CPU) is torch.float32


def test_loading_writes_nothing_to_the_terminal(folders: dict[str, Path], capfd: pytest.CaptureFixture[str]):
    config = config_of(folders["qwen2"])
    model.load_tokenizer(config)
    model.load_policy(config, CPU)
    assert capfd.readouterr() == ("", "")


# --- what does not work -------------------------------------------------------------------------------------------


def test_names_that_are_no_model_are_refused(tmp_path: Path):
    def said(name: str) -> str:
        return refusal(lambda: hub.locate(config_of(name).model))

    assert "has no config.json" in said(str(tmp_path))
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "PEFT adapter" in said(str(tmp_path))
    assert "is not a folder" in said(str(tmp_path / "missing"))
    assert "is not a folder" in said("~/no/such/folder")
    assert "is not a folder" in said("a/b/c")
    assert "neither a folder nor a possible hub id" in said("my model")
    assert 'did you mean "builtin:tiny"' in said("builtin:tin")


def break_file(folder: Path, to: Path, pattern: str, content: bytes | None) -> Path:
    shutil.copytree(folder, to)
    for file in to.glob(pattern):
        file.unlink() if content is None else file.write_bytes(content)
    return to


@pytest.mark.parametrize(
    ("pattern", "content", "expected"),
    [
        ("tokenizer*", None, "comes without a tokenizer"),
        ("tokenizer.json", b"{", "the tokenizer of"),
        ("model.safetensors", None, "no file named model.safetensors"),
        ("model.safetensors", b"xx", "cannot be loaded: SafetensorError"),
        ("config.json", b"{", "not a valid JSON"),
    ],
)
def test_broken_folders_are_refused(
    folders: dict[str, Path], tmp_path: Path, pattern: str, content: bytes | None, expected: str
):
    config = config_of(break_file(folders["qwen2"], tmp_path / "m", pattern, content))
    message = refusal(lambda: (model.load_tokenizer(config), model.load_policy(config, CPU)))
    assert expected in message
    assert str(tmp_path / "m") in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, "12 tensors are missing"),
        ({"intermediate_size": 96}, "6 tensors are missing or have another shape"),
        ({"model_type": "zork"}, "model type `zork`"),
        ({"model_type": "t5"}, "T5Config"),
        ({"model_type": "mistral", "sliding_window": 64, "layer_types": None}, "mistral model with sliding_attention"),
        (
            {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True, "sliding_window": 9},
            "qwen2 model with sliding_attention",
        ),
        (
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "qwen2 model with dynamic positions",
        ),
    ],
    ids=str,
)
def test_models_that_cannot_be_trained_exactly_are_refused_before_training(
    folders: dict[str, Path], tmp_path: Path, changes: dict[str, Any], expected: str
):
    folder = edited(folders["qwen2"], tmp_path / "m", "config.json", **changes)
    assert expected in refusal(lambda: model.load_policy(config_of(folder), CPU))


@pytest.mark.parametrize("targets", ["q_proj,foo", "lm_head", "", "proj", "embed_tokens"])
def test_target_modules_that_match_nothing_are_refused_with_the_names_there_are(folders: dict[str, Path], targets: str):
    """The output layer is left out: the loss reads its weight directly, so an adapter there would not be trained."""
    config = config_of(folders["qwen2"], lora={"target_modules": targets})
    message = refusal(lambda: model.load_policy(config, CPU))
    assert "names no layer" in message
    assert "down_proj, gate_proj, k_proj" in message


@pytest.mark.parametrize("text", ["cpu", "CPU", "auto"])
def test_the_cpu_is_always_there(text: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert model.pick_device(text) == CPU


def test_gpus_are_counted_from_zero_under_three_spellings(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    assert {str(model.pick_device(text)) for text in ("gpu:1", "cuda:1", "1")} == {"cuda:1"}
    assert {str(model.pick_device(text)) for text in ("auto", "gpu", "cuda", "0")} == {"cuda:0"}
    assert "this machine has cpu, gpu:0 (card 0), gpu:1 (card 1)" in refusal(lambda: model.pick_device("gpu:2"))
    for text in ("tpu", "gpu:-1", "gpu:0,gpu:1", "gpu:x", ""):
        assert "is not a device" in refusal(lambda text=text: model.pick_device(text))
