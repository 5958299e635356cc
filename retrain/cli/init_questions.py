"""The six questions of `retrain init --interactive`: what is asked, what is likely here, and what an answer sets."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import estimate
from retrain.config import adapter
from retrain.config.check import OWN_REWARD, TINY
from retrain.config.secrets import mask_urls
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Settings = Mapping[str, Any]  # dotted key → value

A_MODEL = "Qwen/Qwen3-4B-Instruct-2507"
LISTED = 4  # cached models, or files
COLUMNS = {
    "prompt_key": ("question", "prompt", "problem", "input", "query"),
    "answer_key": ("answer", "solution", "target", "output", "reference"),
}
"""What columns of problems are called; the first is what a run looks for unless it is told otherwise."""


@dataclass(frozen=True, kw_only=True)
class Here:
    """What is found on this machine and in this folder."""

    gpu: bool
    models: list[str]
    files: list[str]

    @classmethod
    def look(cls) -> Here:
        """Look around, without a tensor library and without the network."""
        cache = adapter.hub_place("HF_HUB_CACHE", "hub")
        folders = sorted(cache.glob("models--*")) if cache.is_dir() else []
        names = [folder.name.removeprefix("models--").replace("--", "/") for folder in folders]
        return cls(
            gpu=estimate.on_gpu("auto"),
            models=[name for name in names if adapter.cached(name, "", "config.json")],
            files=sorted(str(path) for path in Path().glob("*.jsonl")),
        )


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question. `about` gives its lines, `default` what an empty answer means, `read` the keys that it sets."""

    name: str
    about: Callable[[Here, Settings], list[str]]
    default: Callable[[Here, Settings], str]
    read: Callable[[str, Settings], Settings]


def some(names: list[str]) -> str:
    more = f", … {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"


# --- model ----------------------------------------------------------------------------------------------------------


def about_model(here: Here, _: Settings) -> list[str]:
    found = f"on this machine: {some(here.models)}" if here.models else "no model is in this machine's cache yet"
    return ["Which model: a hub id, a folder, or builtin:tiny (in the package; learns sums on any CPU)", found]


def default_model(here: Here, _: Settings) -> str:
    if not here.gpu:
        return TINY
    instruct = [name for name in here.models if "instruct" in name.lower() or "chat" in name.lower()]
    return next(iter([*instruct, *here.models]), A_MODEL)


def read_model(answer: str, _: Settings) -> Settings:
    if answer == TINY:
        sizes = {"training.group_size": 8, "training.max_tokens": 48, "training.lr": 5e-4, "model.lora_rank": 16}
        own = {"model.dtype": "float32", "backend.options": {"threads": 1}, "eval.examples": 128}
        return {"model.model": answer, **sizes, **own}
    sizes = {"training.group_size": 16, "training.max_tokens": 1024, "training.lr": 4e-5, "model.lora_rank": 32}
    return {"model.model": answer, **sizes, "eval.examples": 256}


# --- data and reward ------------------------------------------------------------------------------------------------


def about_data(here: Here, _: Settings) -> list[str]:
    found = f"; in this folder: {some(here.files)}" if here.files else ""
    return [
        "Which problems: math, gsm8k, arithmetic (sums), a file of yours, a data set (org/name), or module:attribute",
        f'a file has one JSON object a line, {{"question": "…", "answer": "…"}}{found}',
    ]


def default_data(here: Here, settings: Settings) -> str:
    if here.files:
        return here.files[0]
    return "arithmetic" if settings["model.model"] == TINY else "math"


def read_data(answer: str, settings: Settings) -> Settings:
    if answer == "arithmetic":
        tiny = settings["model.model"] == TINY  # whose wrong answers are often empty: longer is better for a while
        return {"data.source": answer, "data.name": "+:2"} | ({"health.max_length_correlation": 1.0} if tiny else {})
    if answer in ("jsonl", "hf"):
        raise ConfigError(f'"{answer}" alone names no problems', "give the FILE.jsonl, or the data set's org/name")
    if answer.endswith((".jsonl", ".json")) or Path(answer).is_file():
        return {"data.source": "jsonl", "data.path": answer, **columns_of(Path(answer))}
    return {"data.source": "hf", "data.name": answer} if "/" in answer else {"data.source": answer}


def columns_of(file: Path) -> Settings:
    """Return which columns hold problem and answer, where the first row of a file has other ones than expected."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            row = json.loads(lines.readline())
    except (OSError, ValueError):  # who reads the whole file says what is wrong with it
        return {}
    found = {}
    for key, (expected, *others) in COLUMNS.items():
        other = next((name for name in others if name in row), None) if isinstance(row, dict) else None
        if other is not None and expected not in row:
            found[f"data.{key}"] = other
    return found


def about_reward(_: Here, __: Settings) -> list[str]:
    return [
        "What is right: match (the last \\boxed{} equals the answer), math (mathematically equal), module:function of",
        "yours, or random (a control: it must teach nothing)",
    ]


def own_reward(settings: Settings) -> str:
    return OWN_REWARD.get(settings["data.source"], "math")


def read_reward(answer: str, _: Settings) -> Settings:
    return {"reward.type": answer}


# --- budget, device, tracking ---------------------------------------------------------------------------------------


def about_budget(_: Here, settings: Settings) -> list[str]:
    completions = 8 * settings["training.group_size"]
    tokens = completions * settings["training.max_tokens"]
    each = f"{completions} completions of at most {settings['training.max_tokens']:,} tokens"
    return [f"How long, in optimiser steps: each is {each}, {tokens:,} tokens at most"]


def default_budget(_: Here, settings: Settings) -> str:
    return "40" if settings["model.model"] == TINY else "100"


def read_budget(answer: str, _: Settings) -> Settings:
    plain = answer.removesuffix("steps").strip().replace(",", "").replace("_", "")
    if not (plain.isascii() and plain.isdigit()):
        raise ConfigError(f'"{answer}" is not a number of steps', "a whole number from 1 on, such as 100")
    steps = int(plain)
    return {"training.max_steps": steps, "training.batch_size": 8, "eval.every": max(1, min(50, steps // 2))}


def about_device(here: Here, _: Settings) -> list[str]:
    found = "there is a GPU here" if here.gpu else "there is no GPU here"
    return ["Where: auto (the first GPU if there is one, else the CPU), cpu, gpu:0, gpu:1, …", found]


def read_device(answer: str, _: Settings) -> Settings:
    return {"backend.devices": answer}


def about_tracking(_: Here, __: Settings) -> list[str]:
    return [
        "Where its curves go: mlflow (a file under outputs/), none, the address of an MLflow server, or wandb:PROJECT",
        "its metrics are in the run directory in any case",
    ]


def read_tracking(answer: str, _settings: Settings) -> Settings:
    kind, colon, project = answer.partition(":")
    if answer == "mlflow":
        return {}
    if answer == "none":
        return {"logging.tracking_uri": "none"}
    if kind == "wandb":
        if not (colon and project):
            raise ConfigError("wandb needs the name of a project", "wandb:my-project")
        if find_spec("wandb") is None:
            raise ConfigError("wandb is not installed here", 'pip install "retrain[wandb]"')
        return {"logging.wandb_project": project}
    if not re.match(r"[a-z][a-z+.]*:/", answer):
        raise ConfigError(f'"{answer}" is no tracker', "mlflow, none, wandb:PROJECT, or an address: http://host:5000")
    if mask_urls(answer) != answer:
        shown = mask_urls(answer)
        raise ConfigError(f"{shown} holds a secret, which no file should", "set MLFLOW_TRACKING_URI and say mlflow")
    return {"logging.tracking_uri": answer}


QUESTIONS = (
    Question(name="model", about=about_model, default=default_model, read=read_model),
    Question(name="data", about=about_data, default=default_data, read=read_data),
    Question(name="reward", about=about_reward, default=lambda _, settings: own_reward(settings), read=read_reward),
    Question(name="budget", about=about_budget, default=default_budget, read=read_budget),
    Question(name="device", about=about_device, default=lambda *_: "auto", read=read_device),
    Question(name="tracking", about=about_tracking, default=lambda *_: "mlflow", read=read_tracking),
)
