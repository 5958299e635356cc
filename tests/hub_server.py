"""A small Hugging Face hub on this machine: a folder of repositories behind the part of the API that downloads use."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import re
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for ``root/models/owner/name`` and ``root/datasets/owner/name``; anything else does not exist."""

    root: Path
    gated: frozenset[str]
    downloads: list[str]

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        self.answer(body)

    def answer(self, body: bytes = b"") -> None:
        path = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(
            r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path
        ):
            kind, name, what, _, below = found.groups()
            self.api(kind, name, what or "revision", below or "", body)
        elif found := re.fullmatch(r"/(?:(datasets)/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            kind, name, revision, file = found.groups()
            self.file(kind or "models", name, revision, file)
        else:
            self.send(200 if path == "/" else 404, b"")

    def repository(self, kind: str, name: str) -> Path | None:
        folder = self.root / kind / name
        if name in self.gated:
            self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif not folder.is_dir():
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            return folder
        return None

    def api(self, kind: str, name: str, what: str, below: str, body: bytes) -> None:
        if (folder := self.repository(kind, name)) is None:
            return
        files = [f for f in sorted(folder.rglob("*")) if f.is_file()]
        if what == "revision":
            siblings = [{"rfilename": str(f.relative_to(folder)), "size": f.stat().st_size} for f in files]
            made: Any = {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "gated": False, "tags": []}
        else:
            wanted = set(json.loads(body).get("paths", [])) if body.startswith(b"{") else None
            made = [
                {"type": "file", "path": path, "size": f.stat().st_size, "oid": digest(f)}
                for f in files
                if (path := str(f.relative_to(folder))).startswith(below) and (wanted is None or path in wanted)
            ]
            if what == "tree" and below and not made:
                self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
                return
        self.send(200, json.dumps(made).encode(), {"Content-Type": "application/json"})

    def file(self, kind: str, name: str, revision: str, file: str) -> None:
        if (folder := self.repository(kind, name)) is None:
            return
        if revision not in ("main", COMMIT):
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif not (folder / file).is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            if self.command == "GET":
                self.downloads.append(f"{name}/{file}")
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest(folder / file)}"'}
            self.send(200, (folder / file).read_bytes(), headers)

    def send(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Keep quiet."""


def digest(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextlib.contextmanager
def serving(root: Path, *, gated: frozenset[str] = frozenset()) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder; give the address, and the list in which every file that is downloaded appears."""
    downloads: list[str] = []
    handler = type("Served", (Handler,), {"root": root, "gated": gated, "downloads": downloads})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", downloads
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
