"""Worker processes with a deadline that kills.

A worker is a program that reads one job a line and answers each with one line, both JSON; its first line is "ready".
It gets the deadline in seconds and our process id as its last two arguments, so that it can end when we do.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from retrain.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

START_SECONDS = 120.0  # to import what a worker needs, on a machine that is busy
END_SECONDS = 2.0


@dataclass
class Worker:
    """A process, and the job that it is busy with: None while it starts or waits."""

    process: subprocess.Popen[bytes]
    deadline: float  # monotonic seconds
    ready: bool = False
    job: int | None = None
    received: bytearray = field(default_factory=bytearray)

    @property
    def idle(self) -> bool:
        return self.ready and self.job is None

    def send(self, number: int, job: Any, timeout: float) -> None:
        """Begin a job. A worker that has died meanwhile says so when its answer is read."""
        assert self.process.stdin is not None
        self.job, self.deadline = number, time.monotonic() + timeout
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
            self.process.stdin.flush()

    def read(self) -> tuple[bool, list[Any]]:
        """Return whether the process still talks to us, and the answers that are complete."""
        assert self.process.stdout is not None
        chunk = os.read(self.process.stdout.fileno(), 1 << 16)
        self.received += chunk
        *lines, rest = self.received.split(b"\n")
        self.received = bytearray(rest)
        return bool(chunk), [json.loads(line) for line in lines]

    def finish(self) -> None:
        """Say that there are no more jobs: a worker that waits for one ends."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self, *, seconds: float = 0.0) -> int:
        """Let the process end by itself for so long, then kill it; return its exit code."""
        assert self.process.stdout is not None
        self.finish()
        try:
            code = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdout.close()
        return code


class Pool:
    """Runs jobs on worker processes; a job that takes too long or kills its worker costs that job only.

    command: what starts a worker, without the last two arguments
    timeout: seconds for one job, then its worker is killed and replaced
    """

    def __init__(self, command: Sequence[str], *, workers: int, timeout: float) -> None:
        self._command = [*command, str(timeout), str(os.getpid())]
        self._limit = workers
        self._timeout = timeout
        self._workers: list[Worker] = []

    def run(self, jobs: Sequence[Any]) -> list[Any]:
        """Return the answer to each job, in order; a text that says what went wrong for a job that was lost.

        Raises:
            RunError: the workers cannot start.
        """
        answers: dict[int, Any] = {}
        waiting = deque(range(len(jobs)))
        try:
            while len(answers) < len(jobs):
                self._assign(waiting, jobs)
                answers.update(self._receive())
                answers.update(self._expire())
        except BaseException:
            self._kill()  # a job that is under way would answer into the next call
            raise
        return [answers[number] for number in range(len(jobs))]

    def close(self) -> None:
        """End all processes; safe to call twice, and a later `run` starts new ones."""
        for worker in self._workers:
            worker.finish()  # all at once, so that they end together
        self._kill(seconds=END_SECONDS)

    def _kill(self, *, seconds: float = 0.0) -> None:
        for worker in self._workers:
            worker.end(seconds=seconds if worker.idle else 0.0)
        self._workers.clear()

    def _assign(self, waiting: deque[int], jobs: Sequence[Any]) -> None:
        """Give each idle worker a job, and start as many workers as there are jobs for."""
        for worker in [w for w in self._workers if w.idle and w.process.poll() is not None]:
            worker.end()
            self._workers.remove(worker)  # it died between two calls: no job was lost
        for worker in self._workers:
            if worker.idle and waiting:
                number = waiting.popleft()
                worker.send(number, jobs[number], self._timeout)
        starting = sum(not worker.ready for worker in self._workers)
        for _ in range(min(self._limit - len(self._workers), len(waiting) - starting)):
            self._workers.append(self._started())

    def _started(self) -> Worker:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONHASHSEED": "0"},  # one order of sets in every worker and every run
        )
        return Worker(process=process, deadline=time.monotonic() + START_SECONDS)

    def _receive(self) -> dict[int, Any]:
        """Wait for the next answers, or for the next deadline."""
        answers: dict[int, Any] = {}
        busy = [worker for worker in self._workers if not worker.idle]
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                assert worker.process.stdout is not None
                selector.register(worker.process.stdout, selectors.EVENT_READ, worker)
            until = min((worker.deadline for worker in busy), default=0.0)
            events = selector.select(max(0.0, until - time.monotonic()))
        for chosen, _ in events:
            worker: Worker = chosen.data
            alive, lines = worker.read()
            for line in lines:
                if not worker.ready:
                    self._check_start(line)
                    worker.ready = True
                elif worker.job is not None:
                    answers[worker.job] = line
                    worker.job = None
            if not alive:
                answers.update(self._lost(worker))
        return answers

    def _check_start(self, line: Any) -> None:
        if line != "ready":
            raise RunError(f"a scoring process cannot start: {line}")

    def _lost(self, worker: Worker) -> dict[int, Any]:
        """Bury a worker that ended by itself; another one is started when there is work for it."""
        self._workers.remove(worker)
        code = worker.end(seconds=END_SECONDS)
        if not worker.ready:
            raise RunError(f"a scoring process cannot start: {' '.join(self._command)} ended with exit code {code}")
        reason = self._late if code == -signal.SIGALRM else f"the scoring process ended with exit code {code}"
        return {} if worker.job is None else {worker.job: reason}

    def _expire(self) -> dict[int, Any]:
        """Kill workers that are past their deadline."""
        now = time.monotonic()
        answers: dict[int, Any] = {}
        for worker in [w for w in self._workers if not w.idle and w.deadline <= now]:
            self._workers.remove(worker)
            worker.end()
            if worker.job is None:
                raise RunError(f"a scoring process did not start within {START_SECONDS:g} s")
            answers[worker.job] = self._late
        return answers

    @property
    def _late(self) -> str:
        return f"timed out after {self._timeout:g} s"
