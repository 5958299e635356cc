"""The front door: `retrain CONFIG.toml` trains, `retrain COMMAND` does something else.

Data go to stdout, everything else to stderr. Exit codes: 0 done, 1 the run failed, 2 the input is wrong, 130
interrupted. Only the standard library is imported here; a command imports what it needs when it runs.
"""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from retrain import __version__
from retrain.cli import output
from retrain.cli.commands import COMMANDS
from retrain.cli.help import command_help, general_help
from retrain.errors import ConfigError, Interrupted, Problem, RetrainError, nearest

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. What is not a `RetrainError` is a defect and propagates."""
    output.prepare_streams()
    return output.finish(run(list(sys.argv[1:] if argv is None else argv)))


def run(arguments: list[str]) -> int:
    """Run one command line; return its exit code, with whatever went wrong said on stderr."""
    try:
        level, rest = output.take_level(arguments)
        with output.at_level(level), output.timed("in all"):
            return dispatch(rest)
    except Interrupted as stopped:
        complain(f"interrupted: {stopped}")
        return stopped.exit_code
    except RetrainError as error:
        show_error(error, as_json="--json" in arguments)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except OSError as error:
        if error not in output.lost:
            raise
        return 0  # the reader of a pipe has seen enough; what else it can be, `output.finish` says


def dispatch(arguments: list[str]) -> int:
    """Find the command that the first argument names, and run it."""
    if arguments[:1] == ["--json"]:  # as well in front of the command as after it
        arguments = [*arguments[1:], "--json"]
    if not arguments:
        return importlib.import_module("retrain.cli.welcome").main()
    first = arguments[0]
    if first in ("--help", "-h"):
        print(general_help())
        return 0
    if first == "--version":
        print(f"retrain {__version__}")
        return 0
    name, rest = (first, arguments[1:]) if first in COMMANDS else ("train", arguments)
    if name in ("train", "resume"):
        heed_signals()
    if "--help" in rest or "-h" in rest:
        print(command_help(name))
        return 0
    if name == "train" and rest:
        check_config(rest[0], rest)
    return importlib.import_module(f"retrain.cli.{COMMANDS[name].module}").main(rest)


def heed_signals() -> None:
    """Let a batch system stop a run that has not begun yet, with the exit code that says so."""

    def stop(number: int, _: object) -> None:
        raise Interrupted(f"stopped by {signal.Signals(number).name}")

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, stop)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # there is nothing to save


def check_config(first: str, arguments: Sequence[str]) -> None:
    """Refuse a first argument that is no TOML file, saying what was probably meant.

    Raises:
        ConfigError: it is an option, a folder, or neither a command nor a file.
    """
    path = Path(first)
    if path.is_file():
        return
    if not first:
        raise ConfigError("the first argument is empty; write a command or a CONFIG.toml", "retrain --help")
    if first.startswith("-") or "=" in first:
        name = first.partition("=")[0]  # what follows may be a secret
        config = next((argument for argument in arguments if argument.endswith(".toml")), "CONFIG.toml")
        raise ConfigError(f'"{name}" comes before the config; write it after: retrain {config} {name} …')
    if path.is_dir():
        raise ConfigError(
            f"{first} is a folder, a TOML file is needed",
            f"to run a run again: retrain {path / 'config.toml'}\nto go on with it: retrain resume {first}",
        )
    files = sorted(str(file.relative_to(path.parent)) for file in path.parent.glob("*.toml"))
    wanted = path.name if files else first
    if path.suffix == ".toml":
        near = nearest(wanted, files)
        question = f'; did you mean "{path.parent / near}"?' if near else ""
        raise ConfigError(
            Problem(message=f"there is no file {first}{question}", hint="retrain init writes one to start from")
        )
    near = f"{first}.toml" if f"{first}.toml" in files else nearest(first, [*COMMANDS, "--help", "--version", *files])
    question = f'; did you mean "{near}"?' if near else ""
    listed = ", ".join(name for name in COMMANDS if name != "train")
    raise ConfigError(f'"{first}" is neither a command nor a file{question}', f"commands: {listed}\nretrain --help")


def show_error(error: RetrainError, *, as_json: bool) -> None:
    """Write every problem to stderr: as lines, or as one JSON document whose `error` is the first of them."""
    if as_json:
        problems = [problem.document(error.code) for problem in error.problems]
        complain(output.json_text({"error": problems[0], "problems": problems}, sys.stderr))
        return
    for problem in error.problems:
        complain(f"error: {problem}")


def complain(text: str) -> None:
    """Write what went wrong to stderr; when nobody reads it any more, the exit code still says it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
