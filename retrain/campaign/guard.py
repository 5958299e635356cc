"""Lead the process group of a run, so that nothing of it outlives whoever supervises it.

    supervisor ──Popen──▶ guard (leads the group) ──fork, exec──▶ the run ──▶ its worker processes

    python -I -S guard.py SUPERVISOR_PID COMMAND…

The guard imports the standard library only, starts in a hundredth of a second and takes 10 MB. It passes on what it is
asked for and ends as the run ends, with the same code or signal. Whoever is killed, the others go:

    the supervisor   the guard asks the run to stop, as Ctrl-C would, and kills the group when it does not
    the guard        the kernel kills the run (Linux; elsewhere the run goes on), the supervisor kills the group
    the run          the guard ends, and the group is killed by the supervisor and by a process that the guard leaves
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
PARENT_SECONDS = 0.5  # between two looks at whether the supervisor lives
STOP_SECONDS = 10.0  # for a run whose supervisor is gone to save its last step
PR_SET_PDEATHSIG = 1  # of prctl(2)


def main(supervisor: int, command: list[str]) -> None:
    """Run a command in this process group until it or the supervisor ends; never returns."""
    guard = os.getpid()
    before: set[int] = set(
        signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)
    )  # nothing may come between fork and `watch`
    run = os.fork()
    if run == 0:
        try:
            die_with(guard)
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            os.execvp(command[0], command)  # noqa: S606  the arguments are a list
        except OSError as error:
            sys.stderr.write(f"error: {command[0]} cannot be started: {error.strerror}\n")
        os._exit(127)
    status = watch(run, supervisor, before)
    end_group_after(guard)
    end_like(status)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone, also if that has happened already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def watch(run: int, supervisor: int, mask: set[int]) -> int:
    """Wait for the run, and return how it ended as `os.wait` says it."""
    awake, wake = os.pipe()
    os.set_blocking(awake, False)
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def pass_on(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(run, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes `select`
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    deadline = float("inf")
    while True:
        ended, status = os.waitpid(run, os.WNOHANG)
        is_alone = os.getppid() != supervisor
        if is_alone and (ended or time.monotonic() > deadline):
            os.killpg(0, signal.SIGKILL)  # nobody else would end what the run has started
        if ended:
            return status
        if is_alone and deadline == float("inf"):
            os.kill(run, signal.SIGTERM)
            deadline = time.monotonic() + STOP_SECONDS
        if select.select([awake], [], [], PARENT_SECONDS)[0]:
            os.read(awake, 1024)


def end_group_after(guard: int) -> None:
    """Have what the run has left behind killed when this process ends: the supervisor may be killed in that moment."""
    group = os.getpgrp()
    if os.fork() == 0:
        os.setsid()
        while os.getppid() == guard:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
        os._exit(0)


def end_like(status: int) -> None:
    """End this process as another one has ended."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        os._exit(code)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # one core file is enough
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
