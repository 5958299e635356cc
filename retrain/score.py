"""Score what is already there: a finished run, an adapter or a base model, as a run's own evaluation would.

    RUN | ADAPTER | MODEL ──find──▶ Weights ──plan──▶ Plan (weights, composed config) ──score──▶ Scored

Weights, tokenizer, engine, data, reward and random numbers are made by the code that a run uses: the score of a run's
final adapter on its held-out part is the last `eval/score` of its `metrics.jsonl`, on a CPU to the last bit. No run
directory is made and none is changed. Heavy libraries are imported inside the functions.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain import checkpoint, registry, tiny
from retrain.config import adapter, compose
from retrain.config.schema import KEYS, Data, Lora
from retrain.errors import ConfigError, Problem
from retrain.events import Phase, ignore
from retrain.logs import Log
from retrain.references import find_run, is_run
from retrain.store import RunRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from retrain.config import Composed
    from retrain.config.schema import RunConfig
    from retrain.events import Emit
    from retrain.types import HeldOut, Task

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
ANY_START = "model.adapter="  # the adapter that training began with need not be there any more


# --- which weights ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What is scored.

    kind:       "run", "adapter" or "model"
    name:       the folder that holds them; of a model also its hub id, or builtin:tiny
    is_adapter: they go on a base model
    run:        the run directory that they belong to, which knows their config
    """

    kind: str
    name: str
    is_adapter: bool
    run: Path | None = None


def find(text: str, *, best: bool = False, step: int | None = None) -> Weights:
    """Return what `text` names: a folder, else the reference of a run, else a model of the hub.

    Args:
        text: RUN, ADAPTER or MODEL.
        best: of a run: the best by held-out score, instead of the final one.
        step: of a run: the checkpoint of this step.

    Raises:
        ConfigError: it is none of these, or the run does not have what is wanted of it.
    """
    folder = Path(text).expanduser()
    found = None
    if folder.is_dir() and (folder / adapter.FILE).is_file():
        found = Weights(kind="adapter", name=str(folder), is_adapter=True, run=_run_of(folder))
    elif text.startswith("builtin:") or (folder / "config.json").is_file():
        found = Weights(kind="model", name=text, is_adapter=False)
    if found is None:
        try:
            return _of_run(find_run(text), best=best, step=step)
        except ConfigError as error:
            if folder.exists() or not HUB_ID.fullmatch(text):
                ways = "or the folder of an adapter or a model, a hub id such as org/name, or " + tiny.NAME
                raise ConfigError(
                    replace(p, hint="\n".join(filter(None, [p.hint, ways]))) for p in error.problems
                ) from error
            found = Weights(kind="model", name=text, is_adapter=False)
    if best or step is not None:
        raise ConfigError(f"{text} is no run, and only a run has a best adapter and checkpoints")
    return found


def _run_of(folder: Path) -> Path | None:
    """Return the run that an adapter's folder lies in: RUN/adapter, RUN/adapter-best, RUN/checkpoints/step-N."""
    above = list(folder.resolve().parents)[:2]
    return next((place for place in above if is_run(place) and (place / "config.toml").is_file()), None)


def _of_run(run: Path, *, best: bool, step: int | None) -> Weights:
    record = RunRecord.read(run)
    model = compose(run / "config.toml", [ANY_START]).config.model
    whole, start = model.lora_rank == 0, model.adapter or model.model
    kind = "model" if whole else "adapter"
    folder = run / (f"{kind}-best" if best else kind)
    if step is not None:
        folder = run / "checkpoints" / f"step-{step}"
        if folder.is_dir() and (trouble := checkpoint.verify(folder)):
            raise ConfigError(f"{folder} cannot be used: {trouble}")
    if not folder.is_dir() and best and record.best and record.best["step"] == 0:
        raise ConfigError(
            f"the best held-out score of {run} was before its first step: its best adapter is none",
            f"retrain eval {start} {run / 'config.toml'} scores what it began with",
        )
    if not folder.is_dir():
        there = [f"--checkpoint {checkpoint.step_of(place)}" for place in checkpoint.complete(run / "checkpoints")]
        there += ["--best"] if (run / f"{kind}-best").is_dir() else []
        hint = f"it has: {', '.join(there)}" if there else "it has no checkpoint yet either"
        raise ConfigError(f"{run} has no {folder.relative_to(run)}; its state is {record.state}", hint)
    return Weights(kind="run", name=str(folder), is_adapter=not whole, run=run)


# --- on which data --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is scored on what.

    config:  model, data, reward and sampling; the model's keys are those of the weights
    test:    the source's test split, instead of the held-out part
    trained: the config that the weights were trained with, where it is known
    """

    weights: Weights
    config: RunConfig
    places: Sequence[Path]
    test: bool
    trained: Composed | None


def plan(weights: Weights, config: Path | None, arguments: Sequence[str] = (), *, test: bool = False) -> Plan:
    """Compose the config that weights are scored with: CONFIG, else that of their run, with `arguments` above it.

    Raises:
        ConfigError: the config is wrong, or nothing says what to score on.
    """
    own = weights.run / "config.toml" if weights.run else None
    path = config or own
    cut = "eval.every=1"  # whatever the run did: the held-out part is cut here
    given = [ANY_START, cut, *(["eval.final_test=true"] if test else []), *arguments]
    composed = compose(path, given)
    if weights.kind == "model" and composed.config.model.model != weights.name:
        composed = compose(path, [*given, f"model.model={weights.name}", "model.revision="])
    named = [composed.origins[key].kind for key in ("data.source", "eval.source")]
    if path is None and set(named) == {"default"}:
        raise ConfigError(
            f"what is {weights.name} to be scored on? Give a config, or its data",
            f"retrain eval {weights.name} CONFIG.toml, or retrain eval {weights.name} data=gsm8k",
        )
    trained = compose(own, [ANY_START]) if own else None
    return Plan(
        weights=weights,
        config=_with_weights(composed, weights, trained if config else None),
        places=composed.places,
        test=test,
        trained=trained,
    )


def _with_weights(composed: Composed, weights: Weights, trained: Composed | None) -> RunConfig:
    """Return the config with the model's keys for these weights, a base model without an adapter included."""
    config = composed.config
    model = trained.config.model if trained else config.model
    if weights.is_adapter:
        folder = Path(weights.name)
        if trouble := adapter.not_an_adapter(folder):
            raise ConfigError(f"{folder} {trouble[0]}", trouble[1])
        facts = adapter.read(folder)
        if not trained and not weights.run and composed.origins["model.model"].kind == "default":
            model = replace(model, model=_base(weights, facts.base))
        model = replace(model, adapter=weights.name, lora_rank=facts.rank)
        config = replace(config, lora=replace(Lora(), alpha=facts.alpha))
    else:
        model = replace(model, model=weights.name, adapter="", lora_rank=0)
        model = replace(model, revision="") if weights.run else model
        config = replace(config, inference=replace(config.inference, weights="shared"))
    if config.training.seed == -1:
        config = replace(config, training=replace(config.training, seed=KEYS["training.seed"].default))
    return replace(config, model=model)


def _base(weights: Weights, base: str) -> str:
    if not base:
        raise ConfigError(
            f"{weights.name}/{adapter.FILE} does not name the model that the adapter was trained on",
            "name it: --model ID, or a CONFIG.toml with it",
        )
    return base


# --- the score ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A score, and what it is of. `metrics` are those of `retrain.evaluate.measure`."""

    plan: Plan
    metrics: dict[str, float]
    tasks: int
    held_out: HeldOut
    reward: str
    trained_on: int | None  # of these tasks, how many the weights were trained on; None: nobody knows


def score(plan: Plan, *, emit: Emit = ignore) -> Scored:
    """Load the weights, let them answer, and measure the answers.

    Raises:
        ConfigError: weights or data are not to be had, or the run was trained on all of the data.
        RunError: the reward or the policy cannot go on.
    """
    from retrain import data, evaluate, rewards

    config = plan.config
    with Log(emit), contextlib.ExitStack() as opened:
        loaded = data.load(config, plan.places)
        tasks = loaded.test if plan.test else loaded.held_out
        if not tasks:
            message = f'data.source = "{config.data.source}" has too few examples to hold some of them out'
            raise ConfigError(message, "--test scores its test split, --eval-source other problems")
        trained_on = _trained_on(plan, tasks)
        reward = rewards.build(config, loaded.reward, plan.places)
        opened.callback(reward.close)
        held_out = evaluate.prepare(config, loaded, reward, plan.places)
        assert held_out is not None, "there are tasks"
        opened.callback(held_out.reward.close)
        metrics = _examined(plan, held_out, tasks, emit)
    return Scored(
        plan=plan,
        metrics=metrics,
        tasks=len(tasks),
        held_out=held_out,
        reward=config.eval.reward or config.reward.type or loaded.reward,
        trained_on=trained_on,
    )


def _examined(plan: Plan, held_out: HeldOut, tasks: Sequence[Task], emit: Emit) -> dict[str, float]:
    from retrain import evaluate
    from retrain.model import load_tokenizer

    config = plan.config
    backend_class = registry.resolve("backend", config.backend.backend, places=plan.places)
    tokenizer = load_tokenizer(config)
    emit(Phase(name="load", detail=config.model.adapter or config.model.model))
    backend: Any = backend_class.load(config, tokenizer)
    if not hasattr(backend, "engine"):
        raise ConfigError(f'backend "{config.backend.backend}" samples nothing but training batches', "--backend local")
    evaluate.check_lengths(held_out, tokenizer, backend.max_positions)
    try:
        return evaluate.examine(tasks, held_out, backend.engine, tokenizer, version=0, emit=emit)
    finally:
        backend.engine.stop()


def _trained_on(plan: Plan, tasks: Sequence[Task]) -> int | None:
    """Count the tasks that the weights were trained on.

    Raises:
        ConfigError: all of them.
    """
    from retrain import data
    from retrain.data.held_out import shared

    if plan.trained is None:
        return None
    then = plan.trained.config

    def cut(config: RunConfig) -> tuple[Any, ...]:
        wanted = config.eval
        own = (wanted.source, wanted.path, wanted.name, wanted.split, wanted.examples, bool(wanted.every))
        return (*own, replace(config.data, system_prompt="", instruction="", chat_template_args={}))

    if cut(then) == cut(plan.config) and not then.eval.source and not plan.test:
        return 0  # the part that was cut then
    plain = replace(then, data=_bare(then.data), eval=replace(then.eval, final_test=False))
    now = data.load(replace(plan.config, data=_bare(plan.config.data)), plan.places)
    common = shared(now.test if plan.test else now.held_out, data.load(plain, plan.trained.places).tasks)
    if common == len(tasks):
        message = f"{plan.weights.run} was trained on all {common} of these problems: their score would tell nothing"
        hint = "--eval-source (and --eval-path) name other problems; --test scores the source's test split, if any"
        raise ConfigError(Problem(message=message, hint=hint))
    return common


def _bare(section: Data) -> Data:
    """Return a data section that puts nothing around the problems, so that they can be compared."""
    return replace(section, system_prompt="", instruction="")
