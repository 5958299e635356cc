"""Whether a config would run here: each check on real parts of a run, without a model that is loaded."""

import json
from dataclasses import replace

import pytest

from retrain.config import compose
from retrain.doctor import config, data, table
from retrain.doctor.finding import Check, run_check
from retrain.doctor.machine import Gpu, Machine, Torch
from retrain.doctor.subject import Shared, Subject
from retrain.types import Score, Task

TOML = """
[model]
model = "builtin:tiny"
[data]
source = "jsonl"
path = "rows.jsonl"
[training]
max_tokens = 32
batch_size = 4
group_size = 4
[logging]
tracking_uri = "none"
"""
REWARDS = """
def contains(response, reference):
    return float(reference in response)

def kind(response, reference):
    return 1.0

def blind(response, reference):
    return 0.0

def broken(response, reference):
    raise KeyError("answer")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(TOML)
    (tmp_path / "my_rewards.py").write_text(REWARDS)
    write_rows([{"question": f"{i}+{i}=", "answer": str(2 * i)} for i in range(40)])
    return tmp_path


def write_rows(rows):
    with open("rows.jsonl", "w", encoding="utf-8") as file:  # noqa: PTH123  in the working directory
        file.write("\n".join(map(json.dumps, rows)))


@pytest.fixture
def look(folder):
    """Run one check on c.toml with overrides."""
    opened = []

    def go(check, *overrides, torch=None):
        machine = Machine()
        machine.torch = torch or Torch(version="2.9", threads=1)
        shared = Shared()
        opened.append(shared.opened)
        subject = Subject(compose(folder / "c.toml", overrides), machine, shared)
        return list(run_check(Check("it", check), subject, family="config"))

    yield go
    for stack in opened:
        stack.close()


def one(found):
    (finding,) = found
    return finding.verdict, finding.found, finding.fix


# --- the reward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "verdict", "said"),
    [
        ("match", "ok", "100% of 36 reference answers are correct, and 0% of other problems' answers"),
        ("math", "ok", "100% of 36 reference answers are correct, and 0% of other problems' answers"),
        ("random", "ok", "the control that must not learn"),
        ("my_rewards:kind", "warn", "and 100% of other problems' answers"),
        ("my_rewards:blind", "warn", "0% of 36 reference answers are correct"),
    ],
)
def test_a_reward_pays_for_right_answers_and_not_for_wrong_ones(look, reward, verdict, said):
    found = one(look(data.reward, f"reward.type={reward}"))
    assert found[0] == verdict
    assert said in found[1]
    assert bool(found[2]) == (verdict == "warn")


def test_a_reward_that_fails_on_every_answer_fails(look):
    found, logged = look(data.reward, "reward.type=my_rewards:broken")
    assert (found.verdict, "36 cannot be scored: KeyError: 'answer'" in found.found) == ("fail", True)
    assert logged.verdict == "warn"


def test_references_that_cannot_be_read_are_counted(look, folder):
    write_rows([{"question": f"{i}+{i}=", "answer": str(2 * i) if i % 2 else ""} for i in range(40)])
    (found,) = look(data.reward, "reward.type=math")
    assert found.verdict == "warn"


def test_every_problem_gets_an_answer_that_is_not_its_own():
    tasks = [Task(id=str(i), prompt=(), answer=answer) for i, answer in enumerate("aabca")]
    pairs = data.shuffled(tasks)
    assert [task.id for task, _ in pairs] == list("01234")
    assert all(task.answer != other for task, other in pairs)
    assert data.shuffled(tasks[:2]) == []


def test_the_stricter_reward_of_an_evaluation_is_looked_at_too(look):
    assert one(look(data.eval_reward))[1] == "that of training"
    found = one(look(data.eval_reward, "eval.reward=my_rewards:kind"))
    assert (found[0], "pays for wrong answers" in found[2]) == ("warn", True)


def test_the_answers_of_a_partly_wrong_reward_decide_by_their_share():
    class Half:
        def score(self, texts, tasks):
            return [Score(value=float(int(task.id) % 2)) for task in tasks]

    tasks = [Task(id=str(i), prompt=(), answer=str(i)) for i in range(20)]
    found = data.known_answers("half", Half(), tasks)
    assert (found.verdict, "50% of 20 reference answers" in found.found) == ("warn", True)


# --- problems -------------------------------------------------------------------------------------------------------


def test_every_row_that_is_wrong_is_named_with_its_line_and_what_needs_the_problems_is_skipped(look, folder):
    (folder / "rows.jsonl").write_text(
        '{"question": "1+1=", "answer": 2}\n{"question": \n{"question": "", "answer": 3}'
    )
    found = look(data.problems)
    assert [f.verdict for f in found] == ["fail", "fail"]
    assert [f.found.partition(": ")[0].rpartition("/")[2] for f in found] == ["rows.jsonl:2", "rows.jsonl:3"]
    for check in (data.repetitions, data.reward, data.lengths):
        assert one(look(check))[:2] == ("skipped", "the problems could not be loaded")


def test_the_first_problem_is_shown_and_few_are_warned_of(look):
    verdict, said, _ = one(look(data.problems))
    assert (verdict, "36 to train on, 4 held out; the first: " in said) == ("ok", True)
    write_rows([{"question": "1+1=", "answer": 2}] * 3)
    found = look(data.problems)
    assert [f.verdict for f in found] == ["warn", "warn"]  # few, and too few to hold any out
    assert "no held-out score" in found[1].found


def test_repeated_problems_and_contradicting_answers_are_counted(look):
    assert one(look(data.repetitions))[0] == "ok"
    rows = [{"question": f"{i}+{i}=", "answer": str(2 * i)} for i in range(17)]
    write_rows([*rows, {"question": "1+1=", "answer": "2"}, {"question": "2+2=", "answer": "5"}])
    verdict, said, _ = one(look(data.repetitions, "eval.every=0"))
    assert (verdict, said) == ("warn", "2 repeat another problem, 1 have several answers, 0 have none")


def test_completions_that_leave_the_model_s_positions_fail_with_the_longest_that_fits(look):
    verdict, said, fix = one(look(data.lengths, "training.max_tokens=5000"))
    assert (verdict, "the model was made for 1024 in all" in said) == ("fail", True)
    longest = int(fix.removeprefix("--max-tokens "))
    assert one(look(data.lengths, f"training.max_tokens={longest}"))[0] == "ok"
    assert one(look(data.lengths, f"training.max_tokens={longest + 1}"))[0] == "fail"
    assert "held-out prompts" in one(look(data.lengths, "eval.max_tokens=5000"))[1]


# --- the machine under the config -----------------------------------------------------------------------------------


def test_memory_is_compared_with_what_the_device_has_and_with_what_is_free(look):
    def gpu(free, total):
        return Torch(version="2.9", gpus=(Gpu(name="T4", capability="7.5", free=free, total=total),))

    gigabyte = 2**30
    assert one(look(config.memory))[0] == "ok"
    assert one(look(config.memory, torch=gpu(8 * gigabyte, 8 * gigabyte)))[0] == "ok"
    verdict, said, fix = one(look(config.memory, torch=gpu(2**20, 8 * gigabyte)))
    assert (verdict, "enough only when nothing else" in said, fix) == ("warn", True, "end what else runs there")
    assert one(look(config.memory, torch=gpu(2**20, 2**20)))[0] == "fail"
    assert one(look(config.device, torch=gpu(1, 1)))[1] == "GPU T4"


def test_a_device_that_is_not_here_fails_once(look):
    verdict, said, fix = one(look(config.device, "backend.devices=gpu:1"))
    assert (verdict, '"gpu:1" is not on this machine' in said, "--devices auto" in fix) == ("fail", True, True)
    assert one(look(config.memory, "backend.devices=gpu:1"))[0] == "skipped"


def test_a_broken_torch_is_not_reported_by_every_check(look):
    broken = Torch(broken="importing torch fails: ImportError")
    for check in (config.device, config.tokenizer, config.memory, data.problems, data.reward):
        assert one(look(check, torch=broken))[:2] == ("skipped", "torch cannot be imported")


def test_what_a_run_writes_is_compared_with_the_disk(look, folder, monkeypatch):
    assert one(look(config.directory))[0] == "ok"
    monkeypatch.setattr(Machine, "free_at", lambda *_: 100)
    assert one(look(config.directory))[0] == "fail"
    (folder / "file").write_text("")
    verdict, said, fix = one(look(config.directory, "logging.log_dir=file/run"))
    assert (verdict, said.endswith("file is a file"), fix) == ("fail", True, "choose another logging.log_dir")


def test_an_adapter_path_that_would_destroy_something_fails(look, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").write_text("years of work")
    assert one(look(config.adapter_path, "backend.adapter_path=mine"))[0] == "fail"
    assert one(look(config.adapter_path, "backend.adapter_path=new"))[0] == "ok"


def test_a_run_to_go_on_with_that_is_not_there_fails(look):
    verdict, said, _ = one(look(config.resume, "resume.path=nothing"))
    assert (verdict, "there is no run nothing" in said) == ("fail", True)
    assert one(look(config.resume, "resume.path=auto"))[0] == "ok"


def test_a_plugin_is_imported_and_takes_its_options(look, folder):
    (folder / "mine.py").write_text("class Mine:\n    def __init__(self, *, eta: float = 1.0):\n        1 / 0\n")
    verdict, said, _ = one(look(config.algorithm, "algorithm.transform_mode=mine:Mine"))
    assert (verdict, "ZeroDivisionError" in said) == ("fail", True)
    assert one(look(config.algorithm, "algorithm=maxrl_gtpo_sepa"))[1] == "maxrl → sepa → gtpo"


def test_of_a_campaign_what_is_the_same_is_said_once_and_made_once(folder, torch_asked):
    base = compose(folder / "c.toml", ["logging.log_dir=runs"])
    hot = base.replace("training.temperature", 1.5, "a condition")
    coin = base.replace("reward.type", "random", "a condition")
    machine = Machine()
    found = list(table.examine(machine, {"a": base, "hot": hot, "coin": coin}, with_config=True))
    assert {f.name for f in found if f.condition == "a"} >= {"problems", "reward", "model", "memory"}
    assert [f.name for f in found if f.condition == "hot"] == []
    assert [(f.name, f.verdict) for f in found if f.condition == "coin"] == [("reward", "ok")]


def test_every_name_in_the_table_is_one_of_its_family():
    for families in (table.MACHINE | table.WITHOUT_CONFIG, table.CONFIG | table.PROBE):
        for checks in families.values():
            assert len({check.name for check in checks}) == len(checks)
            assert all(check.look.__doc__ for check in checks)


def test_a_dataset_for_every_condition_is_loaded_once(folder, torch_asked, monkeypatch):
    from retrain import data as loading

    calls, load = [], loading.load
    monkeypatch.setattr(loading, "load", lambda *arguments: calls.append(1) or load(*arguments))
    base = compose(folder / "c.toml")
    other = replace(base, config=replace(base.config, algorithm=replace(base.config.algorithm, kl_coef=0.1)))
    list(table.examine(Machine(), {"a": base, "b": other}, with_config=True))
    assert len(calls) == 1
