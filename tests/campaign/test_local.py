"""Orders on one machine: how many at once, what each gets, what is said of them."""

import os
import sys
import threading

import pytest

from retrain.campaign.local import GPUS, THREADS, Shares, run_orders, visible_gpus
from tests.campaign.processes import order, python

cores = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores are counted on Linux")


def test_no_more_runs_than_asked_go_on_at_once_and_changes_come_one_at_a_time(tmp_path):
    inside, going, most, seen = threading.Semaphore(1), set(), 0, []

    def on_change(index, found):
        nonlocal most
        assert inside.acquire(blocking=False), "two changes at once"
        going.add(index) if found is None else going.remove(index)
        most = max(most, len(going))
        seen.append(index)
        inside.release()

    orders = [order(tmp_path / str(number), seconds=0.02) for number in range(5)]
    found = run_orders(orders, max_workers=2, on_change=on_change, stop=threading.Event())
    assert [exit_ and exit_.state for exit_ in found] == ["done"] * 5
    assert most == 2
    assert sorted(seen) == sorted([*range(5)] * 2)
    assert run_orders([], max_workers=3, on_change=on_change, stop=threading.Event()) == []


def test_an_error_of_whoever_listens_stops_everything_and_is_raised(tmp_path):
    def on_change(index, found):
        raise OSError("the manifest cannot be written")

    orders = [order(tmp_path / str(number)) for number in range(3)]
    with pytest.raises(OSError, match="the manifest"):
        run_orders(orders, max_workers=2, on_change=on_change, stop=threading.Event())


def test_runs_share_the_gpus_and_an_order_that_names_its_own_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setenv(GPUS, "3,5")
    shares, plain = Shares(3), order(tmp_path / "a")
    with shares.lend(plain) as one:
        with shares.lend(plain) as two, shares.lend(plain) as three:
            assert [each.environment[GPUS] for each in (one, two, three)] == ["3", "5", "3"]
        with shares.lend(plain) as two:
            assert two.environment[GPUS] == "5"
        with shares.lend(order(tmp_path / "b", environment={GPUS: "1"})) as own:
            assert own.environment[GPUS] == "1"
    for width, gpus in ((1, "3,5"), (2, "3"), (2, ""), (2, "-1")):
        monkeypatch.setenv(GPUS, gpus)
        with Shares(width).lend(plain) as alone:
            assert GPUS not in alone.environment


def test_a_gpu_that_a_config_names_wins_and_counts_as_taken(tmp_path, monkeypatch):
    monkeypatch.setenv(GPUS, "3,5,7")
    shares, plain = Shares(3), order(tmp_path / "a")
    for devices in ("gpu:0", "cuda:0", "0"):
        with shares.lend(order(tmp_path / "b", devices=devices)) as own, shares.lend(plain) as other:
            assert GPUS not in own.environment, "it sees all of them, and takes the one it names"
            assert other.environment[GPUS] == "5"
    with shares.lend(order(tmp_path / "c", devices="cpu")) as own, shares.lend(plain) as other:
        assert GPUS not in own.environment
        assert other.environment[GPUS] == "3"
    with shares.lend(order(tmp_path / "d", devices="gpu:9")) as own:
        assert GPUS not in own.environment, "it says itself that there is no such one"


def test_gpus_are_named_as_the_driver_names_them(tmp_path, monkeypatch):
    monkeypatch.delenv(GPUS, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!{sys.executable}\nprint('GPU-a\\nGPU-b')\n")
    tool.chmod(0o755)
    assert visible_gpus() == ["GPU-a", "GPU-b"]
    tool.write_text(f"#!{sys.executable}\nraise SystemExit('no driver')\n")
    assert visible_gpus() == []


@cores
def test_the_cores_are_shared_out_unless_somebody_said_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv(THREADS, raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    plain = order(tmp_path / "a")
    with Shares(3).lend(plain) as one:
        assert one.environment[THREADS] == "2"
    with Shares(20).lend(plain) as one:
        assert one.environment[THREADS] == "1"
    with Shares(1).lend(plain) as one:
        assert THREADS not in one.environment
    with Shares(3).lend(order(tmp_path / "b", environment={THREADS: "5"})) as one:
        assert one.environment[THREADS] == "5"
    monkeypatch.setenv(THREADS, "4")
    with Shares(3).lend(plain) as one:
        assert THREADS not in one.environment


def test_a_run_sees_what_it_was_given(tmp_path):
    code = f"import os, sys; print('error:', os.environ['{THREADS}'], os.getcwd(), sys.argv[1]); sys.exit(2)"
    given = order(tmp_path / "a", command=python(code), environment={THREADS: "3"})
    (found,) = run_orders([given], max_workers=4, on_change=lambda *_: None, stop=threading.Event())
    assert found is not None
    assert found.exit_reason == f"3 {tmp_path} {tmp_path / 'a'}"
