"""MLflow's own server on a sqlite store, in a thread of this process, behind a gate that can be slow, full or rude."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest


class Gate:
    """What the server does to calls whose path (or, for `deaf`, body) contains a word."""

    def __init__(self, app: Any) -> None:
        self.app, self.calls = app, []
        self.delay: dict[str, float] = {}  # seconds before the answer; the call has its effect at once
        self.refuse: dict[str, str] = {}  # the status answered instead, without effect
        self.deaf: dict[str, int] = {}  # so many calls have their effect and are answered with 500

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        path = environ["PATH_INFO"]
        self.calls.append(path)
        if status := next((status for word, status in self.refuse.items() if word in path), ""):
            return answer(status, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        deaf = next((word for word, left in self.deaf.items() if word.encode() in body and left), None)
        if deaf is None:
            answered = self.app(environ, start_response)
        else:
            self.deaf[deaf] -= 1
            list(self.app(environ, lambda *_, **__: None))
            answered = answer("500 INTERNAL SERVER ERROR", start_response)
        time.sleep(next((seconds for word, seconds in self.delay.items() if word in path), 0.0))
        return answered


def answer(status: str, start_response: Any) -> list[bytes]:
    start_response(status, [("Content-Type", "application/json")])
    return [b'{"error_code": "INTERNAL_ERROR", "message": "no space left on device"}']


@contextlib.contextmanager
def faulty_server(folder: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Gate]]:
    """Yield the server's address and its gate."""
    monkeypatch.setenv("_MLFLOW_SERVER_FILE_STORE", store)
    monkeypatch.setenv("_MLFLOW_SERVER_ARTIFACT_ROOT", (folder / "artifacts").as_uri())
    monkeypatch.setenv("_MLFLOW_SERVER_SERVE_ARTIFACTS", "false")
    from mlflow.server import app, handlers
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, type: str, message: str, *_: Any) -> None:  # noqa: A002  as the base class names it
            """Say nothing."""

    monkeypatch.setattr(handlers, "_tracking_store", None)
    gate = Gate(app)
    server = make_server("127.0.0.1", 0, gate, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", gate
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
