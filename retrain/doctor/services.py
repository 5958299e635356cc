"""What runs talk to: the tracker, the hub and its cache. Each is asked once, and waited for a few seconds only."""

from __future__ import annotations

import base64
import contextlib
import http.client
import os
import re
import socket
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import preflight, shapes, tracking
from retrain.config.adapter import hub_place
from retrain.config.schema import RunConfig
from retrain.data.source import NOT_OF_THE_HUB
from retrain.doctor.finding import Found, ok, skipped, warn
from retrain.doctor.machine import free_bytes, http_date
from retrain.estimate import gigabytes
from retrain.tracking.uri import OFF, database_path, masked

if TYPE_CHECKING:
    from retrain.doctor.machine import Machine

SECONDS = 5.0  # for an answer
HUB = "https://huggingface.co"
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
UNTRACKED = "training goes on without it; `retrain sync RUN` sends later what it missed"
TRUE = ("1", "on", "yes", "true")  # as huggingface_hub reads its variables


# --- the tracker ----------------------------------------------------------------------------------------------------


def default_tracker(_: Machine) -> Found:
    """Look at the tracker of runs whose config names none."""
    return tracker(RunConfig())


def tracker(config: RunConfig) -> Found:
    """Tell whether the tracker of a run answers, and whether the installed MLflow understands it.

    Raises:
        ConfigError: the config names no store.
    """
    uri = tracking.resolve_tracking_uri(config)
    if uri == OFF:
        return ok("off")
    if find_spec("mlflow") is None:
        return warn(f"{masked(uri)}: mlflow is not installed", 'pip install "retrain[tracking]"')
    if (database := database_path(uri)) is not None:
        return sqlite_store(database)
    if uri.startswith(("http://", "https://")):
        return server(uri)
    return database_server(uri)


def database_server(uri: str) -> Found:
    """Tell whether anything listens where the database should be."""
    parts, shown = urllib.parse.urlsplit(uri), masked(uri)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    if port is None or not parts.hostname:
        return skipped(f"{shown}: is not asked")
    try:
        with socket.create_connection((parts.hostname, port), timeout=SECONDS):
            return ok(f"{shown}: something listens on port {port}")
    except OSError as error:
        fix = "start the database, or correct the URI"
        return warn(f"{shown} cannot be reached: {error}. {capital(UNTRACKED)}", fix)


def sqlite_store(database: Path) -> Found:
    """Compare the schema of a store with those that the installed MLflow knows; the file is only read."""
    if not database.exists():
        preflight.check_place(database.parent)
        return ok(f"{database}: made by the first run")
    try:
        with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        fix = f"move it away and train: a new one is made, and `retrain sync RUN` fills it. {database}"
        return warn(f"{database} is not a store of MLflow: {error}", fix)
    if not os.access(database, os.W_OK):
        return warn(f"{database} cannot be written. {capital(UNTRACKED)}", f"chmod u+w {database}")
    known, newest = revisions()
    version = row[0] if row else "none"
    said = f"{database}: schema {version}"
    if version not in known:
        message = f"{said} is not known to mlflow {metadata.version('mlflow')}: a newer one wrote it"
        return warn(message, "pip install --upgrade mlflow, or another logging.tracking_uri")
    return ok(f"{said}, up to date" if version in newest else f"{said}, brought up to date by the next run")


def revisions() -> tuple[set[str], set[str]]:
    """Return the schema versions that the installed MLflow knows, and the newest of them, from its files alone."""
    spec = find_spec("mlflow")
    assert spec is not None, "the caller has looked"
    assert spec.origin is not None, "it has an __init__.py"
    before: set[str] = set()
    known: set[str] = set()
    for file in (Path(spec.origin).parent / "store" / "db_migrations" / "versions").glob("*.py"):
        text = file.read_text(encoding="utf-8")
        known.update(re.findall(r'^revision\b[^=\n]*=\s*["\'](\w+)', text, re.MULTILINE))
        for line in re.findall(r"^down_revision\b[^=\n]*=(.*)$", text, re.MULTILINE):
            before.update(re.findall(r"\w+", line))
    return known, known - before


def server(uri: str) -> Found:
    """Ask an MLflow server whether it is well, and which version it is."""
    root, shown = uri.rstrip("/"), masked(uri)
    try:
        asked(f"{root}/health")
        version = asked(f"{root}/version")[0].strip()[:40]
    except urllib.error.HTTPError as error:
        fix = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" if error.code in (401, 403) else "correct the URI"
        return warn(f"{shown} answers {error.code} {error.reason}. {capital(UNTRACKED)}", fix)
    except (OSError, http.client.HTTPException, ValueError) as error:
        fix = "start the server, or correct logging.tracking_uri (MLFLOW_TRACKING_URI)"
        return warn(f"{shown} does not answer: {reason(error)}. {capital(UNTRACKED)}", fix)
    ours = metadata.version("mlflow")
    if version.partition(".")[0] != ours.partition(".")[0]:
        return warn(f"{shown}: version {version}, and mlflow here is {ours}", "the same major version on both sides")
    return ok(f"{shown}: MLflow {version} (here {ours})")


def asked(address: str, method: str = "GET") -> tuple[str, str | None]:
    """Return a reply's text and its Date header. A name and password in the address are sent, and in no error."""
    parts = urllib.parse.urlsplit(address)
    user, _, host = parts.netloc.rpartition("@")
    plain = urllib.parse.urlunsplit(parts._replace(netloc=host))
    request = urllib.request.Request(plain, method=method)  # noqa: S310  http(s), checked by the callers
    if user:
        coded = base64.b64encode(urllib.parse.unquote(user).encode()).decode()
        request.add_header("Authorization", f"Basic {coded}")
    with urllib.request.urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
        return reply.read(4096).decode(errors="replace"), reply.headers.get("Date")


def reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return f"nothing within {SECONDS:g} s" if isinstance(cause, TimeoutError) else str(cause)


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


# --- the hub --------------------------------------------------------------------------------------------------------


def is_offline() -> bool:
    return any(os.environ.get(name, "").lower() in TRUE for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def hub(machine: Machine) -> Found:
    """Ask the hub, or the mirror that HF_ENDPOINT names, whether it is there."""
    if is_offline():
        return skipped("HF_HUB_OFFLINE is set: only what is in the cache can be used")
    endpoint = os.environ.get("HF_ENDPOINT") or HUB
    if not endpoint.startswith(("http://", "https://")):
        return warn(f'HF_ENDPOINT = "{masked(endpoint)}" is no address', f"export HF_ENDPOINT={HUB}, or unset it")
    shown, began = masked(endpoint), time.time()
    try:
        date = asked(endpoint, "HEAD")[1]
    except urllib.error.HTTPError as error:  # an answer is an answer
        date = error.headers.get("Date")
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not machine.needs_hub:
            return skipped(f"{shown} cannot be reached, and nothing of it is needed")
        fix = "connect this machine, or fill its cache elsewhere: retrain fetch CONFIG.toml, and HF_HUB_OFFLINE=1 here"
        return warn(f"{shown} cannot be reached: {reason(error)}", fix)
    seconds = time.time() - began
    if (theirs := http_date(date)) is not None:
        machine.hub_time = theirs, time.time()
    return ok(f"{shown} answers in {seconds:.1f} s")


def needs_hub(config: RunConfig) -> bool:
    """Tell whether a run of this config reads what could only come from the hub."""
    sources = {config.data.source, *([config.eval.source] if config.eval.source else [])}
    here = shapes.local_folder(config.model.model, config.model.revision) is not None
    return not here or not sources <= set(NOT_OF_THE_HUB)


def cache(_: Machine) -> Found:
    """Tell where models are kept, how many are there, and what is free for more."""
    place = hub_place("HF_HUB_CACHE", "hub")
    kept = {kind: len(list(place.glob(f"{kind}s--*"))) for kind in ("model", "dataset")}
    counted = " and ".join(f"{number} {kind}{'' if number == 1 else 's'}" for kind, number in kept.items())
    there = place.parent
    while not there.exists():
        there = there.parent
    said = f"{place}: {counted}, {gigabytes(free_bytes(place))} free"
    if not os.access(place if place.exists() else there, os.W_OK | os.X_OK):
        return warn(f"{said}, not writable: nothing can be downloaded", "export HF_HOME=/a/folder/of/yours")
    return ok(said)


def token(_: Machine) -> Found:
    """Tell whether there is a token of the hub; it is never shown."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if os.environ.get(name):
            return ok(f"{name} is set")
    file = hub_place("HF_TOKEN_PATH", "token")
    if file.is_file():
        return ok(f"logged in: {file}")
    return ok("none: models and data for everyone can be downloaded, gated ones not")
