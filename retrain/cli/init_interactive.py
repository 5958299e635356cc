"""`retrain init --interactive`: six questions, each answer checked at once, and a config that says why."""

from __future__ import annotations

import datetime as dt
import sys
import textwrap
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from retrain import history
from retrain.cli import ask, extras, output
from retrain.cli.derived import derive, disk_text, sentence
from retrain.cli.explain import memory_lines, size_of
from retrain.cli.init import next_lines, refuse_existing, write
from retrain.cli.init_questions import QUESTIONS, Here
from retrain.cli.progress import duration
from retrain.config import compose, toml
from retrain.config.check import TINY
from retrain.config.names import SHORTEST_FLAG
from retrain.config.schema import KEYS
from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from retrain.cli.init_questions import Question
    from retrain.config import Composed

WITHOUT = "retrain init --template demo asks nothing; retrain init --list shows the templates"
WHY_COLUMN, WIDEST_LINE = 30, 120

HEAD = """\
# Written by retrain init --interactive.
#   retrain explain FILE     what this file would do, and where each value comes from
#   retrain FILE             do it
# Every key that is not here has its default: retrain explain FILE --all"""

WHY: dict[str, str] = {
    "model.model": "a hub id, the folder of a model, or builtin:tiny",
    "model.lora_rank": "an adapter of this rank is trained, not the model; 0 trains every weight",
    "model.dtype": "small numbers of steps on a CPU: exact and repeatable",
    "training.max_steps": "optimiser steps; retrain resume RUN --max-steps N makes a finished run longer",
    "training.batch_size": "problems a step: more of them make each step surer, and dearer",
    "training.group_size": "completions of each, compared with one another: all right or all wrong teaches nothing",
    "training.max_tokens": "what is cut here cannot be right: watch completion/truncated_rate",
    "eval.every": "steps between scores on problems that it never trains on; also at the start and the end",
    "eval.examples": "so many of them: more make the score surer, and take longer",
    "backend.devices": "auto: the first GPU if there is one, else the CPU",
    "backend.options": "more threads would only get in each other's way: the model is small",
    "health.max_length_correlation": "wrong answers of this model are often empty: longer is better for a while",
    "data.source": "where the problems come from",
    "data.path": 'one JSON object a line: {"question": "…", "answer": "…"}',
    "data.prompt_key": "the column that holds the problem",
    "data.answer_key": "the column that holds the reference answer",
    "logging.wandb_project": "also sent to Weights & Biases",
}
"""Why a key is in the file. Those that depend on their value are in `why`."""


def main(file: Path) -> int:
    """Ask, show the config and what it would cost, and write it if that is wanted.

    Raises:
        ConfigError: there is no terminal, the file exists already, or the answers ended before the questions.
    """
    if not ask.can_ask():
        raise ConfigError("--interactive asks questions, and there is nobody to answer: this is no terminal", WITHOUT)
    refuse_existing(file)
    here = Here.look()
    settings: dict[str, Any] = {}
    tell("Six questions; an empty answer takes what is in brackets, Ctrl-C ends it and writes nothing.")
    try:
        for number, question in enumerate(QUESTIONS, 1):
            settings |= answered(question, number, here, settings)
        text = as_toml(settings)
        show(text, composed_of(settings))
        if not ask.agreed(f"write {file}?"):
            tell("nothing was written")
            return 0
    except ask.NoAnswer:
        raise ConfigError("the answers ended before the questions did; nothing was written", WITHOUT) from None
    write(file, text)
    output.say("\n".join([f"wrote {file}", *next_lines(file)]))
    return 0


def tell(text: str) -> None:
    """Say something that questions cannot do without, --quiet or not."""
    print(text, file=sys.stderr, flush=True)


def answered(question: Question, number: int, here: Here, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Ask until an answer fits; what is wrong with one that does not is said at once.

    Raises:
        ask.NoAnswer: there will be no answer.
    """
    default = question.default(here, settings)
    first, *others = question.about(here, settings)
    width = min(output.WIDEST, columns())
    lines = output.fold(first, width, f"{number}. ", "   ")
    tell("\n".join(["", *lines, *(part for line in others for part in output.fold(line, width, "   ", "   "))]))
    while True:
        answer = ask.line(f"   {question.name} [{default}]: ") or default
        try:
            found = dict(question.read(answer, settings))
            composed_of({**settings, **found})
        except ConfigError as error:
            for problem in error.problems:
                tell(textwrap.indent(str(replace(problem, file="", line=0, topic="")), "   "))
        else:
            return found


def columns() -> int:
    return output.columns(sys.stderr) or output.WIDEST


def composed_of(settings: Mapping[str, Any]) -> Composed:
    """Compose what has been answered so far, as a command line would, and read a file of problems if there is one.

    Raises:
        ConfigError: what is wrong with it.
    """
    arguments = []
    for dotted, value in settings.items():
        if isinstance(value, dict):
            arguments += [f"{dotted}.{name}={item}" for name, item in value.items()]
        else:
            arguments.append(f"{SHORTEST_FLAG[dotted]}={value}")
    composed = compose(None, arguments)
    if composed.config.data.source == "jsonl":
        from retrain.data import jsonl

        jsonl.load(composed.config.data)
    return composed


# --- the config -----------------------------------------------------------------------------------------------------


def as_toml(settings: Mapping[str, Any]) -> str:
    """Return the config as a commented TOML, its keys in the order of the schema."""
    parts = [HEAD]
    for section in dict.fromkeys(key.section for key in KEYS.values()):
        own = [dotted for dotted in KEYS if dotted in settings and KEYS[dotted].section == section]
        tables = [dotted for dotted in own if isinstance(settings[dotted], dict)]
        lines = [commented(KEYS[d].name, settings[d], why(d, settings)) for d in own if d not in tables]
        if lines:
            parts.append("\n".join([f"[{section}]", *lines]))
        for dotted in tables:
            entries = [commented(name, value, why(dotted, settings)) for name, value in settings[dotted].items()]
            parts.append("\n".join([f"[{dotted}]", *entries]))
    return "\n\n".join(parts) + "\n"


def commented(name: str, value: Any, comment: str) -> str:
    """Return a line of TOML with its reason behind it, or above it where both are too long."""
    line = toml.write({name: value}).strip()
    beside = f"{line:<{WHY_COLUMN - 1}} # {comment}"
    return beside if len(beside) <= WIDEST_LINE else f"# {comment}\n{line}"


def why(dotted: str, settings: Mapping[str, Any]) -> str:
    """Say why a key is set."""
    value, tiny = settings[dotted], settings["model.model"] == TINY
    if dotted == "training.lr":
        return "ten times what a real model takes: this one is tiny" if tiny else "good for LoRA with any rank"
    if dotted == "data.name":
        recipe = 'additions of two-digit numbers; "+-*:2" takes three operations'
        return recipe if settings["data.source"] == "arithmetic" else "the data set's hub id"
    if dotted == "logging.tracking_uri":
        return "nothing is tracked; metrics.jsonl of a run has it all" if value == "none" else "the tracker"
    if dotted == "reward.type":
        rewards = {
            "match": "the completion's last \\boxed{} equals the answer",
            "math": "mathematically equal to the answer; match compares the text",
            "random": "a control: what improves without a reward is not learned from it",
        }
        return rewards.get(value, "a reward of your own")
    return WHY[dotted]


def show(text: str, composed: Composed) -> None:
    """Show the config, and what it would cost."""
    derived = derive(composed.config, composed.name, dt.datetime.now().astimezone(), extras.backend_of(composed)[0])
    (pace,) = history.paces([composed.config])
    took = f"about {duration(pace.seconds(composed.config.training.max_steps))}, as earlier runs here" if pace else ""
    facts = [
        textwrap.fill(sentence(composed.config, derived), min(output.WIDEST, columns())),
        "",
        f"Model:      {size_of(derived)}",
        f"Disk:       {disk_text(derived)}",
        *([f"Time:       {took}"] if took else []),
        *memory_lines(derived.memory),
    ]
    tell("\n".join(["", text, *facts, ""]))
