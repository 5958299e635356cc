"""A request to stop interrupts where nothing can be half done, and waits everywhere else."""

import contextlib
import os
import signal

import pytest

from retrain.errors import Interrupted, RunError
from retrain.signals import Signals


@pytest.fixture
def signals():
    heard = Signals()
    with heard.listening():
        yield heard


def send(number=signal.SIGTERM):
    os.kill(os.getpid(), number)


def test_it_interrupts_where_it_is_allowed(signals):
    went_on = []
    with pytest.raises(Interrupted, match="stopped by SIGTERM"), signals.allowed():
        went_on.append(send())
    assert went_on == []


def test_it_waits_where_it_is_not_and_acts_at_the_next_place(signals):
    send()
    with pytest.raises(Interrupted), signals.allowed():
        raise AssertionError("went in")


def test_code_that_catches_everything_does_not_hide_it(signals):
    with pytest.raises(Interrupted), signals.allowed(), contextlib.suppress(Exception):
        send()


def test_what_code_makes_of_it_is_no_failure_of_the_run(signals):
    def load():
        try:
            send()
        except Exception as error:
            raise RunError(f"the model cannot be loaded: {error}") from error

    with pytest.raises(Interrupted, match="stopped by SIGTERM"), signals.allowed():
        load()
    with pytest.raises(RunError), Signals().allowed():
        raise RunError("its own")


def test_a_second_sigterm_disturbs_nothing_but_a_second_ctrl_c_ends_at_once(signals):
    with pytest.raises(Interrupted), signals.allowed():
        send(signal.SIGINT)
    send(signal.SIGTERM)  # a scheduler repeats itself
    with pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)


def test_sigusr1_asks_for_one_checkpoint(signals):
    with signals.allowed():
        send(signal.SIGUSR1)
    assert signals.wants_save()
    assert not signals.wants_save()


def test_handlers_are_put_back(signals):
    before = signal.getsignal(signal.SIGTERM)
    with Signals().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
