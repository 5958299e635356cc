r"""Data sets of the Hugging Face hub.

    source = "math"     EleutherAI/hendrycks_math; name = "" or some of its subjects: "algebra,geometry"
    source = "gsm8k"    openai/gsm8k
    source = "hf"       name = "org/name" or "org/name:configuration"; prompt_key, answer_key name the columns

Everything is read through `datasets`, which keeps a cache; without a network the cache alone is used, at once.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retrain.data.rows import RowError, absent_everywhere, id_of, question, task_of
from retrain.data.source import Source, unused
from retrain.errors import ConfigError, Problem, nearest
from retrain.rewards.boxed import last_boxed
from retrain.types import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from retrain.config.schema import Data


MATH = "EleutherAI/hendrycks_math"
SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
GSM8K = "openai/gsm8k"

PROBE_SECONDS = 5.0  # without a network `datasets` retries for half a minute, behind a silent firewall for minutes
BARE_BOX = re.compile(r"\\boxed\s+([^\s${}]+)")  # a few solutions of MATH say \boxed 2


def load_math(section: Data) -> Source:
    """Return the problems of MATH (arXiv 2103.03874), of all subjects or of those in `data.name`."""
    problems = unused(section, "path", "prompt_key", "answer_key")
    subjects = [name.strip() for name in section.name.split(",")] if section.name else list(SUBJECTS)
    for name in subjects:
        if name not in SUBJECTS:
            near = nearest(name, SUBJECTS)
            message = f'data.name = "{name}" is not a subject of {MATH}' + (f'; did you mean "{near}"?' if near else "")
            problems.append(Problem(message=message, hint=", ".join(SUBJECTS), key="data.name"))
    if problems:
        raise ConfigError(problems)
    tasks: list[Task] = []
    for name in dict.fromkeys(subjects):
        rows = _download(section, MATH, name)
        tasks += _converted(MATH, (math_task(row, f"math-{name}-{i}") for i, row in enumerate(rows)))
    return Source(tasks=tasks)


def load_gsm8k(section: Data) -> Source:
    """Return the word problems of GSM8K (arXiv 2110.14168)."""
    if problems := unused(section, "path", "name", "prompt_key", "answer_key"):
        raise ConfigError(problems)
    rows = _download(section, GSM8K, "main")
    return Source(tasks=_converted(GSM8K, (gsm8k_task(row, f"gsm8k-{i}") for i, row in enumerate(rows))))


def load_hf(section: Data) -> Source:
    """Return the rows of any data set, by default its columns "question" and "answer"."""
    problems = unused(section, "path")
    name, _, configuration = section.name.partition(":")
    if not name:
        hint = 'name = "org/name", or "org/name:configuration"'
        problems.append(Problem(message="data.name is empty; name the data set", hint=hint, key="data.name"))
    if problems:
        raise ConfigError(problems)
    keys = {"prompt_key": section.prompt_key or "question", "answer_key": section.answer_key or "answer"}
    rows = list(_download(section, name, configuration))
    if absent := absent_everywhere(rows, **keys):
        raise ConfigError(absent)
    stem = name.rpartition("/")[2]
    tasks = (task_of(row, task_id=id_of(row, f"{stem}-{i}"), **keys) for i, row in enumerate(rows))
    return Source(tasks=_converted(name, tasks))


def math_task(row: Mapping[str, Any], task_id: str) -> Task:
    """Return the task of a row of MATH; the answer is the last box of its worked solution."""
    answer = last_boxed(row["solution"])
    if answer is None:
        bare = BARE_BOX.findall(row["solution"])
        if not bare:
            raise RowError(f"{task_id}: the solution has no \\boxed{{}}")
        answer = bare[-1]
    info = {key: value for key, value in row.items() if key != "problem"}
    return Task(id=task_id, prompt=question(row["problem"]), answer=answer, info=info)


def gsm8k_task(row: Mapping[str, Any], task_id: str) -> Task:
    """Return the task of a row of GSM8K; the answer follows ####, its thousands without commas."""
    solution, mark, answer = row["answer"].rpartition("####")
    if not mark:
        raise RowError(f"{task_id}: the answer has no ####")
    return Task(
        id=task_id,
        prompt=question(row["question"]),
        answer=answer.strip().replace(",", ""),
        info={"solution": solution.strip()},
    )


def _converted(name: str, tasks: Iterator[Task]) -> list[Task]:
    try:
        return list(tasks)
    except RowError as error:
        raise ConfigError(Problem(message=f"{name}: {error}", hint=error.hint)) from error


def _download(section: Data, name: str, configuration: str) -> Any:
    """Return the rows of a data set, from the hub or from the local cache.

    Raises:
        ConfigError: it could not be had, or `datasets` is not installed.
    """
    if importlib.util.find_spec("datasets") is None:
        message = f'data.source = "{section.source}" needs the package datasets'
        raise ConfigError(Problem(message=message, hint='pip install "retrain[local]"', key="data.source"))
    from datasets import exceptions, load_dataset

    with _offline_without_network() as online:
        try:
            return load_dataset(name, configuration or None, split=section.split)
        except (OSError, ValueError, RuntimeError, exceptions.DatasetsError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            what = f"{name} ({configuration})" if configuration else name
            message = f'data.source = "{section.source}": {what}, split {section.split}, could not be loaded: {reason}'
            hint = "check the name, the configuration and the split, and HF_TOKEN where access is restricted"
            if not online:
                hint = (
                    "the hub cannot be reached: fill the cache (HF_HOME) on a machine with a network, "
                    'or use data.source = "arithmetic" or "jsonl"'
                )
            raise ConfigError(Problem(message=message, hint=hint, key="data.source")) from error


@contextlib.contextmanager
def _offline_without_network() -> Iterator[bool]:
    """Yield whether the hub answers; while it does not, make `datasets` read its cache at once."""
    from datasets import config
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or config.HF_HUB_OFFLINE:
        yield False
    elif _hub_answers(constants.ENDPOINT):
        yield True
    else:
        with _asking_nobody():
            yield False


@contextlib.contextmanager
def cache_only() -> Iterator[None]:
    """Make `datasets` read its cache, without a word about the hub that it does not ask."""
    from datasets import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with _asking_nobody():
            yield
    finally:
        logging.set_verbosity(level)


@contextlib.contextmanager
def _asking_nobody() -> Iterator[None]:
    from datasets import config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def cache() -> tuple[Path, int]:
    """Return where `datasets` keeps what it has read, and the bytes of all that it and the hub keep of data sets."""
    from datasets import config
    from huggingface_hub import constants

    home = Path(config.HF_DATASETS_CACHE)
    folders = [home, *Path(constants.HF_HUB_CACHE).glob("datasets--*")]
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return home, sum(file.stat().st_size for file in files)


def _hub_answers(endpoint: str) -> bool:
    """Ask once, through the hub's own client: it knows the proxies and certificates of this machine."""
    from huggingface_hub.utils import get_session

    try:
        get_session().head(endpoint, timeout=PROBE_SECONDS)
    except Exception:  # noqa: BLE001  the client's kind and errors differ between versions: no answer is no answer
        return False
    return True
