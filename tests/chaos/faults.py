"""Make the k-th call to the operating system fail, tear, or be the process's last.

The operation runs in a forked child, in which Python's files are those of `_pyio`: each byte written passes
`os.write`. What C++ or Rust writes by itself is not seen here: `scripts/chaos` reaches that with strace, with size
limits, and with kills at random moments.
"""

from __future__ import annotations

import _pyio
import builtins
import errno
import io
import json
import os
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CALLS = ("open", "write", "fsync", "rename", "replace", "mkdir", "unlink", "remove", "rmdir", "ftruncate")
KINDS = ("error", "die", "half")  # an error is ENOSPC or EIO in turn
MAX_CALLS = 1000  # an operation with more than this never ends


@dataclass(frozen=True)
class Outcome:
    """What became of an operation with one fault."""

    kind: str
    number: int  # the call that was hit, from 1
    call: str  # its name and first argument; empty: the operation has fewer calls
    ended: str  # "done", "died", or the exception

    def __str__(self) -> str:
        return f"{self.kind} at call {self.number} {self.call}: {self.ended}"


class _Faulty:
    """Counts calls, and does `kind` at call `number`."""

    def __init__(self, kind: str, number: int, report: Callable[[dict[str, str]], None]) -> None:
        self.kind, self.number, self.report, self.count = kind, number, report, 0

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            if self.count != self.number:
                return real(*arguments, **options)
            self.report({"call": f"{name}({arguments[0] if name not in {'write', 'fsync'} else ''})"})
            if self.kind == "half" and name == "write":
                real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
            if self.kind in {"die", "half"}:
                os._exit(9)
            code = (errno.EIO, errno.ENOSPC)[self.number % 2]
            raise OSError(code, os.strerror(code))

        return call

    def install(self) -> None:
        io.open = builtins.open = _pyio.open
        for name in CALLS:
            setattr(os, name, self.wrap(name, getattr(os, name)))


def with_fault(operation: Callable[[], object], kind: str, number: int) -> Outcome:
    """Run an operation in a child whose call `number` is hit."""
    readable, writable = os.pipe()
    write, end = os.write, os._exit
    child = os.fork()
    if child == 0:
        said: dict[str, str] = {}

        def report(words: dict[str, str]) -> None:
            said.update(words)
            write(writable, json.dumps(words).encode() + b"\n")

        try:
            _Faulty(kind, number, report).install()
            operation()
            report({"ended": "done"})
        except OSError as error:
            report({"ended": f"OSError {error.errno}"})
        except Exception as error:  # noqa: BLE001  the parent decides which are right
            report({"ended": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()[-1500:]})
        finally:
            end(0)
    os.close(writable)
    with os.fdopen(readable, "rb") as pipe:
        parts = [json.loads(line) for line in pipe.read().splitlines()]
    os.waitpid(child, 0)
    words = {key: value for part in parts for key, value in part.items()}
    return Outcome(kind, number, words.get("call", ""), words.get("ended", "died"))


def every_fault(prepare: Callable[[], Path], operation: Callable[[Path], object]) -> Iterator[tuple[Path, Outcome]]:
    """Yield a fresh place, and how the operation ended in it, for each kind of fault at each of its calls."""
    for kind in KINDS:
        for number in range(1, MAX_CALLS):
            place = prepare()
            outcome = with_fault(lambda place=place: operation(place), kind, number)
            if not outcome.call:
                assert outcome.ended == "done", outcome
                break
            if kind != "half" or outcome.call.startswith("write"):
                yield place, outcome
        else:
            raise AssertionError("the operation never ends")


DAMAGES = ("truncated", "flipped", "missing", "empty")


def hurt(file: Path, damage: str, position: int = -1) -> None:
    """Damage a file; `position`: which byte is flipped."""
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "flipped":
        place = position % len(data)
        file.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "truncated" else b"")
