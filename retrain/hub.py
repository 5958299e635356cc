"""Find the files of models and adapters: in a folder, in the local cache, or on the Hugging Face hub.

Everything that a user can get wrong here (a name, a folder, no network, no access) is a `ConfigError` that says what to
type. Nothing here imports a tensor library.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read once, when huggingface_hub is imported

import huggingface_hub as hub
from huggingface_hub import errors as hub_errors
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from retrain import tiny
from retrain.config import adapter
from retrain.errors import ConfigError, Problem, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from retrain.config import schema

HUB_SECONDS = 5.0  # how long the hub may take to say that it is there
LOG_IN = "`hf auth login`, or set HF_TOKEN"

SETTINGS = ("*.json", "*.jinja", "*.txt", "tokenizer.model", "*.tiktoken", "*.spm")
"""Beside the weights: config.json, generation_config.json, and every form of a tokenizer and its chat template."""
SAFETENSORS = ("model.safetensors", "model-*.safetensors")
PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin")
"""What transformers looks for where a repository has no safetensors."""
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A model that is known to exist: what to give to `from_pretrained`, and how."""

    name: str  # a folder, or a hub id
    label: str  # as the user wrote it
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository of the hub that a key of the config names."""

    name: str
    key: str  # model.model or model.adapter
    kind: str  # what it should be: "model" or "adapter"
    file: str  # what tells that it is one
    revision: str = ""
    local_files_only: bool = False

    def problem(self, message: str, hint: str = "") -> ConfigError:
        return ConfigError(Problem(message=message, hint=hint, key=self.key))

    @property
    def shown(self) -> str:
        return f'{self.key} = "{self.name}"'


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What became of a repository: where its files are now, and how many bytes were downloaded for that.

    reached: whether the hub was asked; without it, what is here is taken as it is.
    """

    folder: Path
    downloaded_bytes: int
    total_bytes: int
    reached: bool


@dataclass(frozen=True, kw_only=True)
class Survey:
    """How large a model is, and how much of it is not on this machine."""

    total_bytes: int
    missing_bytes: int


# --- where the files are ------------------------------------------------------------------------------------------


def resolve_path(name: str) -> str:
    """Turn ``builtin:tiny`` into its folder and expand ``~``; anything else stays as it is.

    Raises:
        ConfigError: there is no such built-in model.
    """
    if name == tiny.NAME:
        return str(tiny.path())
    if name.startswith("builtin:"):
        raise ConfigError(unknown_name(kind="built-in model", name=name, known=[tiny.NAME], key="model.model"))
    return str(Path(name).expanduser()) if name.startswith("~") else name


def locate(model: schema.Model) -> Source:
    """Find the model's folder, or make sure that the hub or its local cache has it.

    Raises:
        ConfigError: it is nowhere, gated, or out of reach.
    """
    folder = model_folder(model)
    if folder is not None:  # resolved, because PEFT writes it into the adapter's config
        return Source(name=str(folder.resolve()), label=model.model, arguments={"local_files_only": True})
    wanted = model_repository(model)
    offline = not online(wanted)
    if offline:
        _check_cache(wanted)
    arguments = {"local_files_only": offline, "revision": model.revision or "main"}
    return Source(name=wanted.name, label=model.model, arguments=arguments)


def locate_adapter(model: schema.Model) -> Path:
    """Return the folder of the adapter that training starts from, downloaded where it is on the hub.

    Raises:
        ConfigError: it is nowhere, gated, out of reach, or not an adapter.
    """
    folder = adapter_folder(model)
    return folder if folder is not None else fetch_adapter(model).folder


def model_folder(model: schema.Model) -> Path | None:
    """Return the folder that `model.model` names; None: it can only be on the hub.

    Raises:
        ConfigError: it is neither, or the folder holds no model.
    """
    folder = _folder(resolve_path(model.model), model_repository(model))
    if folder is None or (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        hint = "it holds a PEFT adapter; name the model that it was trained on, and the folder as model.adapter"
    else:
        hint = "a model folder holds config.json, tokenizer.json and *.safetensors"
    raise model_repository(model).problem(
        f'model.model = "{model.model}": the folder {folder} has no config.json', hint
    )


def adapter_folder(model: schema.Model) -> Path | None:
    """Return the folder that `model.adapter` names; None: it can only be on the hub.

    Raises:
        ConfigError: it is neither, or the folder holds no adapter.
    """
    wanted = adapter_repository(model)
    folder = _folder(str(Path(model.adapter).expanduser()), wanted)
    if folder is not None and (trouble := adapter.not_an_adapter(folder)):
        raise wanted.problem(f"{wanted.shown} {trouble[0]}", trouble[1])
    return folder


def model_repository(model: schema.Model) -> Repository:
    """Name the model's repository on the hub."""
    return Repository(
        name=model.model,
        key="model.model",
        kind="model",
        file="config.json",
        revision=model.revision,
        local_files_only=model.local_files_only,
    )


def adapter_repository(model: schema.Model) -> Repository:
    """Name the adapter's repository on the hub; it has no revision of its own in the config."""
    return Repository(
        name=model.adapter,
        key="model.adapter",
        kind="adapter",
        file="adapter_config.json",
        local_files_only=model.local_files_only,
    )


def _folder(name: str, wanted: Repository) -> Path | None:
    if Path(name).is_dir():
        return Path(name)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1 or Path(name).exists():
        raise wanted.problem(
            f"{wanted.shown} is not a folder", f"give the folder of a {wanted.kind}, or its id on the hub"
        )
    try:
        validate_repo_id(name)
    except hub_errors.HFValidationError as error:
        raise wanted.problem(f"{wanted.shown} is neither a folder nor a possible hub id", "write owner/name") from error
    return None


# --- the hub --------------------------------------------------------------------------------------------------------


def online(wanted: Repository) -> bool:
    """Tell whether the hub may be asked and answers, and make sure that it has what is wanted.

    Raises:
        ConfigError: the hub says that there is no such repository or revision, or that it is not for everyone.
    """
    return not (wanted.local_files_only or hub.is_offline_mode()) and _hub_answers(wanted)


def _hub_answers(wanted: Repository) -> bool:
    """Ask the hub for the file that tells what the repository is. False: the hub cannot be reached."""
    name, kind = wanted.name, wanted.kind
    try:
        address = hub.hf_hub_url(name, wanted.file, revision=wanted.revision or None)
        hub.get_hf_file_metadata(address, timeout=HUB_SECONDS)
    except hub_errors.GatedRepoError as error:
        hint = f"accept its terms on https://huggingface.co/{name}, then {LOG_IN}"
        raise wanted.problem(f"{wanted.shown} is a gated {kind} and the hub refused it", hint) from error
    except hub_errors.RevisionNotFoundError as error:
        message = f'model.revision = "{wanted.revision}": {name} has no such branch, tag or commit'
        hint = "leave model.revision out for the newest; the hub's page of the model lists its branches and tags"
        raise ConfigError(Problem(message=message, hint=hint, key="model.revision")) from error
    except hub_errors.RepositoryNotFoundError as error:
        hint = f"check the spelling; a private {kind} needs {LOG_IN}; a folder must exist: ./{name}"
        raise wanted.problem(f"{wanted.shown} does not exist on the hub, or is private", hint) from error
    except hub_errors.EntryNotFoundError as error:
        message = f"{wanted.shown}: this hub repository has no {wanted.file}: it is not a {kind}"
        raise wanted.problem(message) from error
    except Exception:  # noqa: BLE001  the hub's HTTP library changes; whatever it raises, the hub was not reached
        return False
    return True


def _check_cache(wanted: Repository) -> Path:
    """Return the cached folder of a repository that cannot be downloaded now.

    Raises:
        ConfigError: there is none.
    """
    name = wanted.name
    try:
        found = hub.hf_hub_download(name, wanted.file, revision=wanted.revision or None, local_files_only=True)
    except OSError as error:  # LocalEntryNotFoundError is one
        if wanted.local_files_only or hub.is_offline_mode():
            why = "model.local_files_only" if wanted.local_files_only else "HF_HUB_OFFLINE"
            message = f"{wanted.shown} is not in the local cache, and {why} forbids to download it"
            hint = "once, with network: retrain fetch CONFIG.toml\nor give a local folder"
            raise wanted.problem(message, hint) from error
        hint = (
            "connect this machine, or fill its cache elsewhere and set model.local_files_only = true\n"
            f"(retrain fetch CONFIG.toml, or hf download {name}; HF_HOME says where), or give a local folder"
        )
        if wanted.kind == "model":
            hint += f": --model /path/to/model\nto see retrain work without any download: --model {tiny.NAME}"
        message = f"{wanted.shown} cannot be downloaded: the Hugging Face hub is out of reach"
        raise wanted.problem(message, hint) from error
    return Path(found).parent


# --- downloading ----------------------------------------------------------------------------------------------------


def fetch_model(model: schema.Model) -> Fetched:
    """Bring everything that training reads of a hub model into the local cache: settings, tokenizer, weights.

    Raises:
        ConfigError: it could not be had.
    """
    wanted = model_repository(model)
    if not online(wanted):
        return _cached(wanted, [*SETTINGS, *SAFETENSORS, *PICKLES])
    return _download(wanted, _model_plan(wanted))


def survey_model(model: schema.Model) -> Survey:
    """Tell what `fetch_model` would download, and download nothing.

    Raises:
        ConfigError: it could not be had.
    """
    wanted = model_repository(model)
    if not online(wanted):
        return Survey(total_bytes=_cached(wanted, [*SETTINGS, *SAFETENSORS, *PICKLES]).total_bytes, missing_bytes=0)
    plan = _model_plan(wanted)
    _check_weights(wanted, plan)
    return Survey(
        total_bytes=sum(info.file_size for info in plan),
        missing_bytes=sum(info.file_size for info in plan if info.will_download),
    )


def _model_plan(wanted: Repository) -> Sequence[Any]:
    plan = _plan(wanted, [*SETTINGS, *SAFETENSORS])
    return plan if _has_weights(plan) else _plan(wanted, [*SETTINGS, *PICKLES])


def fetch_adapter(model: schema.Model) -> Fetched:
    """Bring a hub adapter into the local cache.

    Raises:
        ConfigError: it could not be had.
    """
    wanted = adapter_repository(model)
    return _download(wanted, _plan(wanted, ADAPTER_FILES)) if online(wanted) else _cached(wanted, ADAPTER_FILES)


def _plan(wanted: Repository, patterns: Sequence[str]) -> Sequence[Any]:
    """Ask the hub which files there are, how large, and which of them are here."""
    try:
        with _without_bars():
            return hub.snapshot_download(
                wanted.name,
                revision=wanted.revision or None,
                allow_patterns=list(patterns),
                ignore_patterns=["*/*"],  # other formats and demonstrations live in folders
                dry_run=True,
            )
    except Exception as error:  # the hub's HTTP library changes; every failure means the same
        raise _broken_off(wanted, error) from error


def _has_weights(plan: Sequence[Any]) -> bool:
    return any(info.filename.endswith((".safetensors", ".bin")) for info in plan)


def _check_weights(wanted: Repository, plan: Sequence[Any]) -> None:
    if not _has_weights(plan):
        raise wanted.problem(f"{wanted.shown}: this hub repository has no weights", f"is it a {wanted.kind}?")


def _download(wanted: Repository, plan: Sequence[Any]) -> Fetched:
    _check_weights(wanted, plan)
    missing = [info for info in plan if info.will_download]
    names = [info.filename for info in plan]
    try:
        with contextlib.nullcontext() if missing else _without_bars():
            folder = hub.snapshot_download(wanted.name, revision=wanted.revision or None, allow_patterns=names)
    except Exception as error:  # a connection that breaks, a full disk: all of it means that the files are not here
        raise _broken_off(wanted, error) from error
    return Fetched(
        folder=Path(folder),
        downloaded_bytes=sum(info.file_size for info in missing),
        total_bytes=sum(info.file_size for info in plan),
        reached=True,
    )


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Draw no progress bars where nothing takes time."""
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            enable_progress_bars()


def _broken_off(wanted: Repository, error: Exception) -> ConfigError:
    reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    return wanted.problem(
        f"{wanted.shown} could not be downloaded: {reason}", "try again: what has arrived is kept (HF_HOME says where)"
    )


def _cached(wanted: Repository, patterns: Sequence[str]) -> Fetched:
    """Describe what the cache holds while the hub cannot be asked.

    Raises:
        ConfigError: it holds nothing, or not all of the weights.
    """
    folder = _check_cache(wanted)
    files = [path for pattern in patterns for path in folder.glob(pattern)]
    if missing := missing_weights(folder):
        hint = "retrain fetch CONFIG.toml again, with network"
        raise wanted.problem(f"{wanted.shown}: the local cache {folder} lacks {missing}", hint)
    return Fetched(folder=folder, downloaded_bytes=0, total_bytes=sum(p.stat().st_size for p in files), reached=False)


def missing_weights(folder: Path) -> str:
    """Name what a folder's weights lack: a shard of their index, or all of them; empty: nothing."""
    for index in (*folder.glob("model.safetensors.index.json"), *folder.glob("pytorch_model.bin.index.json")):
        shards = sorted(set(adapter.read_json(index).get("weight_map", {}).values()))
        if gone := [name for name in shards if not (folder / name).is_file()]:
            return ", ".join(gone)
        if shards:
            return ""
    names = (*SAFETENSORS, *PICKLES, *ADAPTER_FILES[1:])
    return "" if any(any(folder.glob(name)) for name in names) else "the weights"
