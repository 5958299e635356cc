"""Models of the hub: refused, out of reach, in the cache. No test needs or uses the network."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

from retrain import hub, model, tiny
from tests.models import config_of, make_qwen2, refusal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CPU = torch.device("cpu")
HUB_ID = "nobody/no-such-model-for-tests"


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the library try: scripts/test sets HF_HUB_OFFLINE, which it has read by now."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Fail every connection, and remember it."""
    attempts: list[Any] = []

    def refuse(*args: Any, **_: Any) -> None:
        attempts.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return attempts


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path / "cache"), raising=False)
    return tmp_path / "cache"


@contextlib.contextmanager
def fake_hub(monkeypatch: pytest.MonkeyPatch, code: str) -> Iterator[None]:
    """Answer every request as the real hub does for a kind of error."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403 if code == "GatedRepo" else 404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
            """Keep quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}/{HUB_ID}/resolve/main/config.json"
    monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *args, **kwargs: address)
    yield
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("RepoNotFound", "does not exist on the hub, or is private"),
        ("GatedRepo", "gated model"),
        ("RevisionNotFound", 'model.revision = "nope"'),
        ("EntryNotFound", "has no config.json"),
    ],
)
def test_what_the_hub_refuses_is_passed_on(monkeypatch: pytest.MonkeyPatch, code: str, expected: str):
    config = config_of(HUB_ID, model={"revision": "nope"})
    with fake_hub(monkeypatch, code):
        message = refusal(lambda: model.load_tokenizer(config))
    assert expected in message
    assert HUB_ID in message


def test_no_network_is_said_at_once(empty_cache: Path, no_network: list[Any]):
    start = time.monotonic()
    message = refusal(lambda: model.load_policy(config_of(HUB_ID), CPU))
    assert time.monotonic() - start < 5
    assert no_network
    assert f'"{HUB_ID}" cannot be downloaded' in message
    for way_out in ("model.local_files_only = true", "hf download", "--model builtin:tiny", "a local folder"):
        assert way_out in message


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, empty_cache: Path):
    """A socket that accepts and is silent, as behind some firewalls."""
    monkeypatch.setattr(hub, "HUB_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/config.json"
        monkeypatch.setattr("huggingface_hub.hf_hub_url", lambda *args, **kwargs: address)
        start = time.monotonic()
        assert "out of reach" in refusal(lambda: model.load_tokenizer(config_of(HUB_ID)))
        assert time.monotonic() - start < 5


def test_local_files_only_never_connects(empty_cache: Path, no_network: list[Any]):
    config = config_of(HUB_ID, model={"local_files_only": True})
    message = refusal(lambda: model.load_tokenizer(config))
    assert "not in the local cache, and model.local_files_only forbids" in message
    assert not no_network


def test_a_model_in_the_cache_loads_without_network(empty_cache: Path, no_network: list[Any]):
    """Both when told to stay local, and when the hub turns out to be out of reach: no library waits and tries again."""
    start = time.monotonic()
    snapshot = empty_cache / f"models--{HUB_ID.replace('/', '--')}" / "snapshots" / ("a" * 40)
    make_qwen2(snapshot)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("a" * 40)
    for local in (True, False):
        config = config_of(HUB_ID, model={"local_files_only": local})
        model.load_tokenizer(config)
        policy = model.load_policy(config, CPU)
        assert model.unwrap(policy).name_or_path == HUB_ID
    assert time.monotonic() - start < 5


def test_an_adapter_of_a_local_model_is_saved_without_asking_anyone(tmp_path: Path, no_network: list[Any]):
    """And names its base by a path that PEFT can load from anywhere."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    policy = model.load_policy(config_of(tiny.NAME), CPU)
    model.load_tokenizer(config_of(tiny.NAME))
    policy.save_pretrained(str(tmp_path / "adapter"))
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["base_model_name_or_path"] == str(tiny.path())
    base = AutoModelForCausalLM.from_pretrained(saved["base_model_name_or_path"])
    PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert not no_network
