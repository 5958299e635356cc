"""Where a command's words go: results to stdout, everything else to stderr, as much of it as was asked for.

    --quiet      results and errors only
    --verbose    also what libraries log, and where the time goes

A reader that is gone, a closed stream or a terminal without UTF-8 is no defect, and never ends in a traceback.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import shutil
import sys
import textwrap
import time
from enum import Enum
from typing import TYPE_CHECKING, Any, TextIO

from retrain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Level(Enum):
    """How much is said beside results and errors."""

    QUIET = "quiet"
    NORMAL = "normal"
    VERBOSE = "verbose"


SWITCHES = {"--quiet": Level.QUIET, "-q": Level.QUIET, "--verbose": Level.VERBOSE, "-v": Level.VERBOSE}
"""What every command takes, anywhere among its arguments."""

WIDEST, NARROWEST = 100, 20  # columns that text is laid out to

_asked = [Level.NORMAL]  # of the command that runs now


def take_level(arguments: Sequence[str]) -> tuple[Level, list[str]]:
    """Take --quiet and --verbose off a command line: ``(what was asked for, the other arguments)``.

    Raises:
        ConfigError: both are there, or one with a value.
    """
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if equals and name in SWITCHES:
            raise ConfigError(f"{argument}: {name} takes no value; write {name} alone")
    asked = {SWITCHES[argument] for argument in arguments if argument in SWITCHES}
    if len(asked) > 1:
        raise ConfigError("--quiet and --verbose ask for opposites; take one of them")
    return asked.pop() if asked else Level.NORMAL, [a for a in arguments if a not in SWITCHES]


@contextlib.contextmanager
def at_level(level: Level) -> Iterator[None]:
    """Say as much as was asked for while one command runs."""
    _asked.append(level)
    try:
        with _logging_shown() if level is Level.VERBOSE else contextlib.nullcontext():
            yield
    finally:
        _asked.pop()


def quiet() -> bool:
    return _asked[-1] is Level.QUIET


def verbose() -> bool:
    return _asked[-1] is Level.VERBOSE


# --- what is said ---------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Write something to stderr that is neither result nor error. Nobody may be reading: that ends no command."""
    if not quiet():
        with contextlib.suppress(BrokenPipeError):
            print(text, file=sys.stderr, flush=True)


def detail(text: str) -> None:
    """Write something to stderr that only --verbose shows."""
    if verbose():
        say(text)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Tell how long something took, with --verbose."""
    began = time.perf_counter()
    yield
    detail(f"time: {time.perf_counter() - began:.2f} s {what}")


def document(content: Any, *, indent: int | None = 2) -> None:
    """Write the one JSON document of a command to stdout: whole in every locale, escaped where it must be."""
    print(json_text(content, sys.stdout, indent=indent))


def json_text(content: Any, stream: TextIO, *, indent: int | None = 2) -> str:
    """Return JSON that a stream can hold: in its own letters where its encoding has them all, else in ASCII."""
    text = json.dumps(content, indent=indent, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(stream.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return json.dumps(content, indent=indent, allow_nan=False)
    return text


@contextlib.contextmanager
def _logging_shown() -> Iterator[None]:
    """Show what libraries log and warn of, as it comes."""
    import logging

    def untold(record: logging.LogRecord) -> bool:
        watched = bool(logging.getLogger("retrain").handlers)  # then events and warnings of ours are told already
        return not (watched and record.name.partition(".")[0] == "retrain")

    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%H:%M:%S"))
    handler.addFilter(untold)
    before = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


# --- the place it is shown at ---------------------------------------------------------------------------------------


def columns(stream: TextIO) -> int | None:
    """Return how wide lines may be: a terminal's width or COLUMNS; None in a pipe, where they may be of any length."""
    if not stream.isatty() and not os.environ.get("COLUMNS", "").isdigit():
        return None
    return max(NARROWEST, shutil.get_terminal_size().columns)


def prose_columns() -> int:
    """Return how wide running text on stdout is laid out; longer lines are hard to follow."""
    return min(WIDEST, columns(sys.stdout) or WIDEST)


def fold(text: str, width: int | None, first: str = "", later: str = "") -> list[str]:
    """Break a line that is wider than this; None: it may be of any length."""
    if width is None or len(first + text) <= width:
        return [first + text]
    return textwrap.wrap(
        text,
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_on_hyphens=False,
        break_long_words=False,  # what is copied from here, paths above all, stays whole
    )


def coloured(stream: TextIO) -> bool:
    """Tell whether to colour: on a terminal that can, and with FORCE_COLOR in a pipe; never with NO_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


# --- the streams themselves -----------------------------------------------------------------------------------------

lost: list[OSError] = []
"""What kept stdout or stderr from being written: a reader that is gone, a full disk."""


class Guarded(io.TextIOWrapper):
    """A standard stream that remembers why it could not be written, so that this is never taken for a defect."""

    def write(self, text: str, /) -> int:
        with _remembered():
            return super().write(text)

    def flush(self) -> None:
        with _remembered():
            super().flush()


@contextlib.contextmanager
def _remembered() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        lost.append(error)
        raise


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable however the program was started.

    A stream that is closed gets the null device, so that no file opened later takes its number and receives what is
    printed. What an encoding lacks becomes a question mark, and a file name that is no text keeps its bytes.
    """
    codecs.register_error("retrain", _unencodable)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, _null(number))
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and number and not isinstance(stream, Guarded):
            own = {"encoding": stream.encoding, "line_buffering": stream.line_buffering}
            stream = Guarded(stream.detach(), write_through=stream.write_through, **own)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # `shutil.get_terminal_size` asks this one
        if isinstance(stream, io.TextIOWrapper):  # an answer that is no text is refused where it is used
            stream.reconfigure(errors="retrain" if number else "surrogateescape")


def _null(number: int) -> TextIO:
    """Open the null device under the number of a closed stream."""
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    return open(number, "w" if number else "r", encoding="utf-8", closefd=False)


def _unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write ? for what an encoding lacks, and the bytes of a file name that is no text as they are."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    raw = b"".join(bytes([ord(c) - 0xDC00]) if "\udc80" <= c <= "\udcff" else b"?" for c in lacking)
    return raw, error.end


def finish(code: int) -> int:
    """Write out what is still held back; return the exit code, which is that of the command if that was no 0.

    A reader that is gone has seen enough. Anything else that keeps a result from being written is a failure.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _drop(stream)
    failed = [error for error in lost if not isinstance(error, BrokenPipeError)]
    lost.clear()
    if failed:
        with contextlib.suppress(OSError):
            print(f"error: the output cannot be written: {failed[0].strerror}", file=sys.stderr, flush=True)
        return code or 1
    return code


def _drop(stream: TextIO) -> None:
    """Send what a stream holds back, and all that follows, nowhere: otherwise Python reports it once more at exit."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a number of its own has nothing to hold back
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
