"""What is said of a machine: a broken torch, GPUs, limits of a cgroup, packages out of their range."""

import os
import sys
import textwrap
import time
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from retrain.doctor import limits, machine, packages
from retrain.doctor.finding import Check, NotKnownError, ok, run_check, skipped, warn, worst
from retrain.doctor.machine import Gpu, Machine, Torch, ask_torch
from retrain.errors import ConfigError, Problem

GPU_TORCH = """
__version__ = "2.9.0"

class version:
    cuda, hip = "12.8", None

class _C:
    def _cuda_getDriverVersion():
        return 12040

def get_num_threads():
    return 4

class cuda:
    is_available = lambda: True
    device_count = lambda: 2
    get_arch_list = lambda: ["sm_80", "sm_90"]
    get_device_capability = lambda index: ((9, 0), (7, 5))[index]
    mem_get_info = lambda index: (60 * 2**30, 80 * 2**30)

    class get_device_properties:
        def __init__(self, index):
            self.name = ("H100", "T4")[index]
"""


@pytest.fixture
def fake_torch(tmp_path, monkeypatch):
    """Put another torch in the way of a child process, as a broken install is."""

    def put(source):
        (tmp_path / "torch.py").write_text(textwrap.dedent(source))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return put


def looked(check, subject):
    return list(run_check(Check("it", check), subject, family="machine"))


def machine_with(**facts):
    found = Machine()
    found.torch = Torch(**facts)
    return found


# --- torch, in a process of its own ---------------------------------------------------------------------------------


def test_a_torch_that_cannot_be_imported_is_a_failed_check_with_its_reason(fake_torch):
    fake_torch('raise ImportError("libcudart.so.12: cannot open shared object file")')
    (found,) = looked(machine.torch, Machine())
    assert found.verdict == "fail"
    assert "libcudart.so.12: cannot open shared object file" in found.found
    assert "reinstall" in found.fix
    (gpus,) = looked(machine.gpus, Machine())
    assert (gpus.verdict, gpus.found) == ("skipped", "torch cannot be asked")


def test_a_torch_that_kills_its_process_kills_the_child_only(fake_torch):
    fake_torch("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert ask_torch().broken == "importing torch ends with SIGSEGV"


def test_a_torch_that_hangs_is_given_up(fake_torch, monkeypatch):
    monkeypatch.setattr(machine, "TORCH_SECONDS", 1.0)
    fake_torch("import time; time.sleep(60)")
    began = time.monotonic()
    assert ask_torch().broken == "importing torch does not end within 1 s"
    assert time.monotonic() - began < 30


def test_the_real_torch_says_its_version():
    found = ask_torch()
    assert (found.broken, found.version) == ("", metadata.version("torch"))


def test_gpus_are_listed_with_free_memory_and_one_that_torch_has_no_code_for_is_warned_of(fake_torch):
    fake_torch(GPU_TORCH)
    h100, t4 = looked(machine.gpus, Machine())
    assert (h100.verdict, t4.verdict) == ("ok", "warn")
    assert "H100, compute capability 9.0, 60.0 GB of 80.0 GB free, driver for CUDA 12.4" in h100.found
    assert "has no code for it: sm_80, sm_90" in t4.found


@pytest.mark.parametrize(
    ("capability", "built_for", "verdict"),
    [
        ("8.6", ["sm_80"], "ok"),
        ("8.0", ["sm_86"], "warn"),
        ("9.0", ["sm_80"], "warn"),
        ("12.0", ["sm_90", "compute_120"], "ok"),
        ("12.0", ["sm_120a"], "ok"),
    ],
)
def test_code_for_a_gpu_runs_on_later_minors_of_its_capability_only(capability, built_for, verdict):
    gpu = Gpu(name="any", capability=capability, free=1, total=1)
    assert machine.of_gpu(0, gpu, Torch(cuda="12.8", built_for=built_for)).verdict == verdict


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"version": "2.9"}, "built for CPUs only"),
        ({"version": "2.9", "cuda": "13.0", "driver": "12.4"}, "the driver knows CUDA 12.4"),
        ({"version": "2.9", "cuda": "13.0"}, "no driver answers"),
    ],
)
def test_a_gpu_that_torch_cannot_use_is_warned_of_with_the_reason(facts, said, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(machine.estimate, "on_gpu", lambda _: True)
    (found,) = looked(machine.gpus, machine_with(**facts))
    assert found.verdict == "warn"
    assert said in found.found


def test_hidden_gpus_are_no_problem(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (found,) = looked(machine.gpus, machine_with(version="2.9", cuda="13.0"))
    assert (found.verdict, found.found) == ("ok", 'none: CUDA_VISIBLE_DEVICES="" hides them')


def test_more_threads_than_cores_are_warned_of(monkeypatch):
    monkeypatch.setattr(limits, "usable_cores", lambda: 2)
    monkeypatch.setattr(limits, "cpu_quota", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    (found,) = looked(machine.cores, machine_with(version="2.9", threads=64))
    assert (found.verdict, found.fix) == ("warn", "export OMP_NUM_THREADS=2")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert looked(machine.cores, machine_with(version="2.9", threads=2))[0].verdict == "ok"


# --- limits of the cgroup -------------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A /proc and a /sys/fs/cgroup of our own."""

    def write(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)

    monkeypatch.setattr(limits, "PROC", tmp_path / "proc")
    monkeypatch.setattr(limits, "CGROUPS", tmp_path / "cgroup")
    write({"proc/meminfo": f"MemTotal: {64 * 2**20} kB\nMemAvailable: {2 * 2**20} kB\n"})
    return write


def test_the_tightest_limit_of_a_cgroup_and_those_above_it_counts(system):
    system(
        {
            "proc/self/cgroup": "0::/a/b\n",
            "cgroup/a/memory.max": "1000000\n",
            "cgroup/a/memory.current": "700000\n",
            "cgroup/a/memory.stat": "anon 5\ninactive_file 100000\n",
            "cgroup/a/b/memory.max": "max\n",
            "cgroup/a/b/cpu.max": "150000 100000\n",
            "cgroup/a/cpu.max": "max 100000\n",
        }
    )
    assert limits.memory() == limits.Memory(total=1_000_000, available=400_000, limit=1_000_000)
    assert limits.cpu_quota() == 1.5


def test_limits_of_the_first_version_of_cgroups_count_as_well(system):
    system(
        {
            "proc/self/cgroup": "4:memory:/job\n1:cpu,cpuacct:/\n",
            "cgroup/memory/job/memory.limit_in_bytes": "1000000\n",
            "cgroup/memory/job/memory.usage_in_bytes": "250000\n",
            "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cgroup/cpu/cpu.cfs_quota_us": "50000\n",
            "cgroup/cpu/cpu.cfs_period_us": "100000\n",
        }
    )
    assert limits.memory() == limits.Memory(total=1_000_000, available=750_000, limit=1_000_000)
    assert limits.cpu_quota() == 0.5


def test_without_a_limit_the_machine_s_memory_counts(system):
    system({"proc/self/cgroup": "0::/\n", "cgroup/cpu.max": "max 100000\n"})
    found = limits.memory()
    assert (found.limit, found.available, limits.cpu_quota()) == (None, 2 * 2**30, None)
    assert found.total == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


# --- packages -------------------------------------------------------------------------------------------------------


def test_ranges_are_those_of_the_package_s_own_metadata(monkeypatch):
    assert {r.name for r in packages.requirements("")} >= {"hydra-core", "omegaconf", "rich"}
    assert all(found.verdict in ("ok", "skipped") for found in packages.extras(Machine()))
    declared = ["rich>=999", "torch>=2; extra == 'local'"]
    monkeypatch.setattr(metadata, "requires", lambda _: declared)
    (found,) = looked(packages.core, Machine())
    assert found.verdict == "warn"
    assert f"rich {metadata.version('rich')} is not >=999" in found.found


@pytest.mark.parametrize(
    ("wanted", "verdict", "said"),
    [
        (["rich>=1"], "ok", "some: rich "),
        (["rich<1"], "warn", " is not <1"),
        (["no-such-thing"], "skipped", "some: not installed"),
        (["rich>=1", "no-such-thing"], "warn", "not installed: no-such-thing"),
    ],
)
def test_an_extra_is_there_not_there_incomplete_or_out_of_range(wanted, verdict, said):
    found = packages.judged("some", [Requirement(text) for text in wanted])
    assert found.verdict == verdict
    assert said in found.found
    assert found.fix == ("" if verdict == "ok" else 'pip install "retrain[some]"')


def test_an_interpreter_outside_the_range_fails(monkeypatch):
    monkeypatch.setattr(machine.platform, "python_version", lambda: "3.9.1")
    (found,) = looked(machine.python, Machine())
    assert found.verdict == "fail"
    assert "3.9.1" in found.found
    assert sys.executable in found.found


# --- disk, clock ----------------------------------------------------------------------------------------------------


def test_a_place_for_runs_that_cannot_be_written_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert looked(machine.outputs, Machine())[0].verdict == "ok"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "outputs").write_text("a file in the way")
    (found,) = looked(machine.outputs, Machine())
    assert (found.verdict, found.fix) == ("fail", "choose another logging.log_dir")
    (tmp_path / "outputs").unlink()
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    (found,) = looked(machine.outputs, Machine())
    assert (found.verdict, found.found) == ("fail", f"{tmp_path} cannot be written")


def test_a_full_disk_fails(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    class Full:
        f_bavail, f_frsize = 10, 4096

    monkeypatch.setattr(os, "statvfs", lambda _: Full)
    (found,) = looked(machine.outputs, Machine())
    assert found.verdict == "fail"
    assert "has only 0 MB left" in found.found


@pytest.mark.parametrize(
    ("off", "verdict", "said"), [(0, "ok", "within 0 s"), (4000, "warn", "ahead of"), (-4000, "warn", "behind")]
)
def test_the_clock_is_compared_with_the_hub_s(off, verdict, said):
    (found,) = looked(machine.clock, Machine(hub_time=(1e9, 1e9 + off)))
    assert found.verdict == verdict
    assert said in found.found


# --- how a check is run ---------------------------------------------------------------------------------------------


def raising(error):
    def check(_):
        raise error

    return check


def test_what_is_wrong_with_the_input_or_the_machine_is_a_finding_and_a_defect_of_ours_is_not():
    two = ConfigError([Problem(message="a", hint="b", file="x.toml", line=2), Problem(message="c")])
    assert [(f.verdict, f.found, f.fix) for f in looked(raising(two), None)] == [
        ("fail", "c", ""),
        ("fail", "x.toml:2: a", "b"),
    ]
    (found,) = looked(raising(PermissionError(13, "Permission denied")), None)
    assert (found.verdict, "Permission denied" in found.found) == ("fail", True)
    (found,) = looked(raising(NotKnownError("the problems could not be loaded")), None)
    assert (found.verdict, found.found) == ("skipped", "the problems could not be loaded")
    with pytest.raises(ZeroDivisionError):
        looked(raising(ZeroDivisionError()), None)


def test_a_warning_that_is_logged_meanwhile_is_a_finding():
    import logging

    def check(_):
        logging.getLogger("retrain.data").warning("no held-out score")
        return ok("fine")

    assert [(f.verdict, f.found) for f in looked(check, None)] == [("ok", "fine"), ("warn", "no held-out score")]


def test_the_worst_finding_comes_first_and_of_equals_the_first():
    answers = (skipped("a"), ok("b"), warn("c", "d"), warn("e", "f"))
    found = [finding for answer in answers for finding in looked(lambda _, answer=answer: answer, None)]
    assert worst(found).found == "c"
