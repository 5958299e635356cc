"""What a checkpoint holds beside HF's files, and what is kept of a batch that went wrong."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

STATE = "retrain_state.pt"
DEBUG_FORMAT = 1


def random_state() -> dict[str, Any]:
    """Return the state of every global random number generator: Python's, numpy's, torch's on each device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Go back to what `random_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])


def keep_batch(
    run_dir: Path, *, step: int, reason: str, inputs: Mapping[str, Any], model: torch.nn.Module, micro_batch_size: int
) -> Path:
    """Write a batch and the weights that met it to RUN/debug/step-N.pt, for `retrain debug-batch`.

    step: steps done before; the file is called after the step that it belongs to
    """
    folder = run_dir / "debug"
    folder.mkdir(exist_ok=True)
    file = folder / f"step-{step + 1}.pt"
    weights = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
    held = {name: value.cpu() if torch.is_tensor(value) else value for name, value in inputs.items()}
    kept = {
        "format": DEBUG_FORMAT,
        "step": step,
        "reason": reason,
        "micro_batch_size": micro_batch_size,
        "inputs": held,
        "weights": weights,
        "rng": torch.get_rng_state(),
    }
    torch.save(kept, file)
    return file
