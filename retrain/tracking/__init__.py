"""Trackers: projections of a run directory, sent by a process of its own.

    run directory ── follower (`python -m retrain.tracking RUN`) ──▶ MLflow, Weights & Biases, plots/*.png
    a campaign's ─── one follower for all its runs ──────────────────────▲

The training process only starts the follower and never waits for a tracker; it imports none of their packages.
"""

from retrain.tracking.launch import Follower, start_follower, wait_for_follower
from retrain.tracking.parent import prepare_campaign
from retrain.tracking.uri import resolve_tracking_uri
from retrain.tracking.wandb import check_wandb
from retrain.tracking.watermark import Behind, pending

__all__ = [
    "Behind",
    "Follower",
    "check_wandb",
    "pending",
    "prepare_campaign",
    "resolve_tracking_uri",
    "start_follower",
    "wait_for_follower",
]
