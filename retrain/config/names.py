"""Names that are not in the schema: which ones could be meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from retrain.config.schema import GROUPS, KEYS, SECTIONS
from retrain.errors import Problem, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from retrain.config.origins import Origin

BARE_SECTIONS = ("training", "algorithm", "logging")
"""Sections whose keys are flags without the section's name: ``--lr``."""

SHORT_FLAGS = {
    "--model": "model.model",
    "--lora-rank": "model.lora_rank",
    "--backend": "backend.backend",
    "--devices": "backend.devices",
    "--engine": "inference.engine",
    "--adapter-path": "backend.adapter_path",
    "--resume": "resume.path",
}

OTHER_FLAGS = {
    "--config-dir": "DIR: one more folder of group files",
    "--backend-opt": "NAME=VALUE: an option of the backend itself",
}
"""Flags of a config that set no one key: what follows, and what for. They may be repeated."""

OTHER_NAMES = {  # what other programs call it; suggestions only
    "alpha": "lora.alpha",
    "base_model": "model.model",
    "batch": "training.batch_size",
    "beta": "algorithm.kl_coef",
    "checkpoint_every": "training.save_every",
    "clip_range": "algorithm.clip_eps",
    "clip_ratio": "algorithm.clip_eps",
    "dataset": "data.source",
    "dataset_name": "data.name",
    "device": "backend.devices",
    "epsilon": "algorithm.clip_eps",
    "epsilon_high": "algorithm.clip_eps_high",
    "gpus": "backend.devices",
    "grad_clip": "training.max_grad_norm",
    "kl": "algorithm.kl_coef",
    "kl_beta": "algorithm.kl_coef",
    "learning_rate": "training.lr",
    "lora_alpha": "lora.alpha",
    "lora_dropout": "lora.dropout",
    "lora_r": "model.lora_rank",
    "loss": "algorithm.loss_type",
    "max_completion_length": "training.max_tokens",
    "max_length": "training.max_tokens",
    "max_new_tokens": "training.max_tokens",
    "model_name": "model.model",
    "model_name_or_path": "model.model",
    "num_generations": "training.group_size",
    "num_samples": "training.group_size",
    "num_steps": "training.max_steps",
    "output_dir": "logging.log_dir",
    "per_device_train_batch_size": "training.batch_size",
    "project": "logging.wandb_project",
    "r": "model.lora_rank",
    "rank": "model.lora_rank",
    "eval_steps": "eval.every",
    "resume_from_checkpoint": "resume.path",
    "save_steps": "training.save_every",
    "steps": "training.max_steps",
    "total_steps": "training.max_steps",
    "train_file": "data.path",
    "warmup": "training.warmup_steps",
}


def _flags() -> dict[str, str]:
    flags = {"--" + key.dotted.replace(".", "-").replace("_", "-"): dotted for dotted, key in KEYS.items()}
    for dotted, key in KEYS.items():
        if key.section in BARE_SECTIONS:
            flags["--" + key.name.replace("_", "-")] = dotted
    return flags | SHORT_FLAGS


FLAGS: dict[str, str] = _flags()
"""Every flag and the key it sets; the shortest form of a key comes last."""

SHORTEST_FLAG: dict[str, str] = {dotted: flag for flag, dotted in FLAGS.items()}


def likely_keys(name: str, section: str = "", limit: int = 3) -> list[str]:
    """Return the dotted keys that a wrong key name may stand for, the likeliest first."""
    leaf = name.replace("-", "_").lower().rpartition(".")[2]
    found = [OTHER_NAMES[leaf]] if leaf in OTHER_NAMES else []
    found += [dotted for dotted, key in KEYS.items() if key.name == leaf]
    names = list(dict.fromkeys(key.name for key in KEYS.values()))
    typos = difflib.get_close_matches(leaf, names, n=limit, cutoff=0.85)
    similar = typos or [*difflib.get_close_matches(leaf, names, n=limit, cutoff=0.8), *_with_word(leaf)]
    found += [dotted for near in similar for dotted, key in KEYS.items() if key.name == near]
    own = [dotted for dotted in found if dotted.startswith(f"{section}.")]
    return list(dict.fromkeys(own if typos and own else found))[:limit]


def _with_word(word: str) -> list[str]:
    return [key.name for key in KEYS.values() if word in key.name.split("_")]


def likely_flags(flag: str, limit: int = 3) -> list[str]:
    """Return the flags that a wrong one may stand for, the likeliest first."""
    meant = [SHORTEST_FLAG[dotted] for dotted in likely_keys(flag.removeprefix("--"))]
    near = difflib.get_close_matches(flag, FLAGS, n=limit, cutoff=0.8)
    return list(dict.fromkeys([*meant, *near]))[:limit]


def question(candidates: Iterable[str]) -> str:
    """Return ``; did you mean a, b or c?``, or nothing without candidates."""
    names = list(candidates)
    if not names:
        return ""
    return f"; did you mean {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}?"


def unknown_key(section: str, name: str, origin: Origin, *, group: bool = False) -> Problem:
    """Describe a key that its section does not have."""
    place = f"{origin.file} sets [{section}]" if group else f"[{section}]"
    candidates = likely_keys(name, section)
    shown = [dotted.partition(".")[2] if dotted.startswith(f"{section}.") else dotted for dotted in candidates]
    known = ", ".join(key.name for key in KEYS.values() if key.section == section)
    message = f'{place}, which has no key "{name}"' if group else f'[{section}] has no key "{name}"'
    hint = "" if candidates else f"its keys: {known}"
    return origin.problem(message + question(shown), hint, f"{section}.{name}")


def unknown_section(name: str, origin: Origin) -> Problem:
    """Describe a section that the schema does not have."""
    near = nearest(name, SECTIONS)
    candidates = [f"[{near}]"] if near else likely_keys(name)
    return origin.problem(
        f"there is no section [{name}]{question(candidates)}", f"sections: {', '.join(SECTIONS)}", name
    )


def unknown_group(name: str, origin: Origin, groups: Sequence[str] = (*GROUPS, "experiment")) -> Problem:
    """Describe a group that does not exist."""
    near = nearest(name, groups)
    return origin.problem(
        f'there is no group "{name}"{question([near] if near else [])}', f"groups: {', '.join(groups)}", name
    )
