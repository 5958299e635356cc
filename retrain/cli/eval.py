"""`retrain eval RUN|ADAPTER|MODEL`: the held-out score of what is already there."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.cli import extras, output
from retrain.cli.flags import take_own
from retrain.errors import ConfigError
from retrain.events import Phase, Warned

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.events import Event
    from retrain.score import Scored

HELP = "retrain eval --help"
CLEAR = "\r\033[K"  # the line that says how far it is


def main(arguments: Sequence[str]) -> int:
    """Score a run, an adapter or a model, and show it as a table or as JSON.

    Raises:
        ConfigError: nothing of that name, a wrong config, or data that the run was trained on.
        RunError: the policy or the reward could not go on.
    """
    switches, rest = take_own("eval", arguments)
    step = _step(switches.get("--checkpoint"))
    if not rest or rest[0].startswith("-"):
        raise ConfigError("retrain eval takes a RUN, an ADAPTER or a MODEL first", HELP)
    if "--best" in switches and step is not None:
        raise ConfigError("--best and --checkpoint name two adapters; take one at a time")
    target, *rest = rest
    config = Path(rest.pop(0)) if rest and not rest[0].startswith(("-", "~")) and "=" not in rest[0] else None
    if config is not None and not config.is_file():
        raise ConfigError(f"there is no file {config}; a TOML comes second, overrides after it", HELP)

    from retrain import score

    weights = score.find(target, best="--best" in switches, step=step)
    plan = score.plan(weights, config, rest, test="--test" in switches)
    extras.require("local", "scoring a model")
    with contextlib.redirect_stdout(sys.stderr):  # libraries print when they are imported
        scored = score.score(plan, emit=tell)
    if sys.stderr.isatty() and not output.quiet():
        print(CLEAR, end="", file=sys.stderr, flush=True)
    if "--json" in switches:
        output.document(document(scored))
    else:
        print(table(scored))
    return 0


def _step(text: str | None) -> int | None:
    """Read the number of ``--checkpoint N``."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ConfigError(f'--checkpoint takes the number of a step, got "{text}"', HELP)
    return int(text)


def tell(event: Event) -> None:
    """Show a warning, and on a terminal how far it is."""
    if isinstance(event, Warned):
        output.say(f"warning: {event.message}")
    elif isinstance(event, Phase) and event.name == "evaluate" and sys.stderr.isatty() and not output.quiet():
        print(f"{CLEAR}{event.detail} problems", end="", file=sys.stderr, flush=True)


# --- what is shown --------------------------------------------------------------------------------------------------


def document(scored: Scored) -> dict[str, Any]:
    """Return the JSON document; its keys are stable, and null where there is nothing to say."""
    config, held_out, metrics = scored.plan.config, scored.held_out, scored.metrics
    return {
        "kind": scored.plan.weights.kind,
        "weights": scored.plan.weights.name,
        "model": config.model.model,
        "part": part(scored),
        "source": config.eval.source if other_source(scored) else config.data.source,
        "problems": scored.tasks,
        "trained_on": scored.trained_on,
        "reward": scored.reward,
        "samples": held_out.samples,
        "temperature": held_out.sampling.temperature,
        "top_p": held_out.sampling.top_p,
        "max_tokens": held_out.sampling.max_tokens,
        "seed": held_out.sampling.seed,
        "score": metrics.get("score"),
        "score_se": metrics.get("score_se"),
        "pass_at": {
            str(k): {"value": metrics.get(f"pass_at_{k}"), "se": metrics.get(f"pass_at_{k}_se")} for k in ks(scored)
        },
        "training_reward": metrics.get("reward"),
        "length_mean": metrics["length_mean"],
        "truncated_rate": metrics["truncated_rate"],
        "unscorable": metrics["unscorable"],
    }


def table(scored: Scored) -> str:
    """Return the score in a few lines."""
    metrics, held_out, sampling = scored.metrics, scored.held_out, scored.held_out.sampling
    config = scored.plan.config
    source = config.eval.source if other_source(scored) else config.data.source
    many = f"{held_out.samples} completions each" if held_out.samples > 1 else "1 completion each"
    how = f"temperature {sampling.temperature:g}" if sampling.temperature else "the likeliest token"
    rows = [("score", shown(metrics, "score"), f"mean reward, {scored.reward}")]
    rows += [(f"pass@{k}", shown(metrics, f"pass_at_{k}"), "") for k in ks(scored)]
    if "reward" in metrics:
        rows.append(("reward", shown(metrics, "reward"), "by the training reward"))
    rows += [
        ("length", f"{metrics['length_mean']:.1f}", "tokens"),
        ("truncated", f"{metrics['truncated_rate']:.1%}", "of the completions"),
        ("unscorable", f"{metrics['unscorable']:.1%}", "of the completions"),
    ]
    lines = [
        scored.plan.weights.name,
        f"{part(scored)} of {source}: {scored.tasks} problems, {many}",
        f"{how}, at most {sampling.max_tokens} tokens, seed {sampling.seed}",
        "",
        *(f"{name:<11} {value:<16} {note}".rstrip() for name, value, note in rows),
        "",
        "± is one standard error, over problems",
    ]
    if scored.trained_on:
        lines.append(f"{scored.trained_on} of the {scored.tasks} problems were trained on: the score is too good")
    return "\n".join(lines)


def shown(metrics: dict[str, float], name: str) -> str:
    """Return ``0.312 ± 0.029``."""
    if name not in metrics:
        return "-"
    error = metrics.get(f"{name}_se")
    return f"{metrics[name]:.3f}" + ("" if error is None else f" ± {error:.3f}")


def part(scored: Scored) -> str:
    return "test split" if scored.plan.test else "held-out part"


def other_source(scored: Scored) -> bool:
    """Tell whether the problems are those of `eval.source`; the test split is always the training source's."""
    return bool(scored.plan.config.eval.source) and not scored.plan.test


def ks(scored: Scored) -> list[int]:
    """Return the k of pass@k, in order."""
    found = [name.removeprefix("pass_at_") for name in scored.metrics if name.startswith("pass_at_")]
    return sorted(int(k) for k in found if k.isdigit())
