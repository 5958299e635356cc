"""The reward math, with real worker processes."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest

from retrain.config.schema import Reward
from retrain.errors import ConfigError
from retrain.rewards.math import Math
from retrain.types import Task


def task(answer):
    return Task(id="t", prompt=({"role": "user", "content": "?"},), answer=answer)


@pytest.fixture(scope="module")
def math():
    reward = Math(Reward(workers=2, timeout=20.0))
    yield reward
    reward.close()


@pytest.mark.parametrize(
    ("text", "reference", "value"),
    [
        (r"\boxed{0.5}", r"\frac{1}{2}", 1.0),
        (r"\boxed{1/2}", "0.5", 1.0),
        (r"\boxed{\dfrac12}", r"\boxed{\frac{1}{2}}", 1.0),
        (r"\boxed{1,234}", "1234", 1.0),
        (r"\boxed{(x+1)^2}", "x^2+2x+1", 1.0),
        (r"\boxed{\{2, 1\}}", r"\{1, 2\}", 1.0),
        (r"\boxed{(2, 1)}", "(1, 2)", 0.0),
        (r"\boxed{x = 5}", "5", 1.0),
        (r"\boxed{\$12.50}", "12.5", 1.0),
        (r"\boxed{12 \text{ apples}}", "12", 1.0),
        (r"\boxed{\text{Monday}}", "Monday", 1.0),
        (r"\boxed{Monday}", "Tuesday", 0.0),
        (r"\boxed{100000}", "1e5", 1.0),
        (r"\boxed{2.5e-3}", "0.0025", 1.0),
        (r"\boxed{3:45}", "3:45", 1.0),
        (r"\boxed{42} is wrong, \boxed{7} is right", "7", 1.0),
        (r"\boxed{7} is wrong, \boxed{42} is right", "7", 0.0),
        ("The final answer is $42$.", "42", 1.0),
        ("I do not know.", "42", 0.0),
        (r"\boxed{}", "42", 0.0),
        ("", "42", 0.0),
        ("((((" * 200, "42", 0.0),
    ],
)
def test_equal_is_what_a_mathematician_calls_equal(math, text, reference, value):
    (score,) = math.score([text], [task(reference)])
    assert (score.value, score.error) == (value, "")


@pytest.mark.parametrize(("reference", "said"), [("", "the reference is empty"), (r"\text{}", "cannot be read")])
def test_a_reference_that_says_nothing_makes_the_row_unscorable_not_wrong(math, reference, said):
    (score,) = math.score([r"\boxed{1}"], [task(reference)])
    assert score.value is None
    assert said in score.error


def test_many_rows_keep_their_order(math):
    rows = [(f"\\boxed{{{i}/6}}", f"{i * 2 % 36}/12" if i % 3 else "-1") for i in range(300)]
    scores = math.score([text for text, _ in rows], [task(reference) for _, reference in rows])
    assert [s.value for s in scores] == [float(i % 3 != 0 and i < 18) for i in range(300)]


def test_any_text_can_be_scored(math):
    """A byte-level model ends in the middle of a character."""
    scores = math.score(["\ud800 \\boxed{3}", "\0 \\boxed{3}", "\u2028 the answer is 3 \udfff"], [task("3")] * 3)
    assert [score.value for score in scores] == [1.0, 1.0, 1.0]


def test_a_hanging_parse_is_killed_and_the_rest_is_scored():
    """A tower of powers is computed in C, where no Python signal handler gets a turn."""
    reward = Math(Reward(workers=2, timeout=1.0))
    hostile = [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{10^{10^{10}}}"]
    began = time.monotonic()
    texts = [r"\boxed{1}", *hostile, r"\boxed{1}", r"\boxed{2}"]
    scores = reward.score(texts, [task("1")] * 5)
    assert [score.value for score in scores] == [1.0, None, None, 1.0, 0.0]
    assert [score.error for score in scores[1:3]] == ["timed out after 1 s"] * 2
    assert time.monotonic() - began < 15
    reward.close()


def test_a_killed_worker_costs_nothing_or_its_row_and_the_pool_heals(math):
    math.score([r"\boxed{1}", r"\boxed{2}"], [task("3")] * 2)
    for worker in math._pool._workers:
        os.kill(worker.process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)
    assert [s.value for s in math.score([r"\boxed{1}", r"\boxed{2}"], [task("2")] * 2)] == [0.0, 1.0]


def test_a_worker_imports_no_tensor_library():
    code = (
        "import sys; from retrain.rewards import math_worker; math_worker.verdict('\\\\boxed{1}', '2'); "
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'numpy', 'datasets')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_module_beside_the_toml_does_not_take_the_place_of_one_the_worker_imports(tmp_path, monkeypatch):
    (tmp_path / "sympy.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.chdir(tmp_path)
    reward = Math(Reward(workers=1))
    assert reward.score([r"\boxed{1/2}"], [task("0.5")])[0].value == 1.0
    reward.close()


def test_without_math_verify_the_error_is_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None)
    with pytest.raises(ConfigError) as caught:
        Math(Reward())
    assert caught.value.problems[0].hint == 'pip install "retrain[local]"'
