"""`retrain compare`: what it shows, what it writes, and what it refuses."""

import json
import subprocess
import sys

import pytest

from retrain import compare
from retrain.cli.main import main
from tests.made_runs import many, write_campaign, write_run
from tests.test_crossed import campaign, luck


@pytest.fixture
def abl(tmp_path, monkeypatch):
    """Return a finished campaign of three conditions and five seeds, and work beside it."""
    monkeypatch.chdir(tmp_path)
    return write_campaign(tmp_path / "abl", many(3, 5))


def ended(campaign, state="done"):
    manifest = json.loads((campaign / "manifest.json").read_text())
    (campaign / "manifest.json").write_text(json.dumps(manifest | {"state": state}))


def test_the_verdict_is_the_first_line_and_the_report_the_last(abl, capsys):
    ended(abl)
    assert main(["compare", "abl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == compare.headline(abl)
    assert lines[2].split()[:3] == ["condition", "runs", "eval/score"]
    assert [line.split()[0] for line in lines[3:6]] == ["grpo+none", "maxrl+none", "maxrl+gtpo"]
    assert lines[4].split()[-1] == "better"
    assert lines[-1] == "report: abl/report.html"
    assert (abl / "report.html").is_file()


def test_json_is_one_document_with_the_verdicts(abl, capsys):
    assert main(["compare", "abl", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["comparisons"][1]["verdict"] == "better"


def test_without_answers_to_single_problems_it_says_so_in_a_line(abl, capsys):
    assert main(["compare", "abl"]) == 0
    said = "these intervals are about other seeds, not about other problems: 15 of 15 runs kept no answers to single"
    assert said in capsys.readouterr().out


def test_with_answers_there_is_a_second_interval_for_each_condition(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    campaign(tmp_path / "abl", dict.fromkeys("abc", range(1, 6)), luck)
    assert main(["compare", "abl"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("on other problems like these 40, with other seeds; above: with other seeds on these 40")
    assert [line.split()[0] for line in lines[start + 1 : start + 4]] == ["condition", "b", "c"]
    found = compare.judge(compare.load([tmp_path / "abl"])).comparisons[0]
    assert lines[start + 2].split()[1:] == [f"{found.problems_low:+.4g}", "to", f"{found.problems_high:+.4g}"]


def test_a_campaign_that_goes_on_is_looked_at_and_its_report_left_to_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scores = many(2, 4)
    abl = write_campaign(tmp_path / "abl", scores | {"c": {1: 0.5, 2: "planned"}})
    for looks in ("once", "2 times"):
        assert main(["compare", "abl"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("No verdict: 1 of 10 planned runs are not finished.")
        assert f"looked at {looks} before the end" in out
    assert [json.loads(line)["done"] for line in (abl / "looks.jsonl").read_text().splitlines()] == [9, 9]
    assert not (abl / "report.html").exists()


def test_a_finished_campaign_records_no_look(abl, capsys):
    assert main(["compare", "abl"]) == 0
    assert not (abl / "looks.jsonl").exists()


def test_another_metric_does_not_replace_the_report(abl, capsys):
    ended(abl)
    assert main(["compare", "abl"]) == 0
    before = (abl / "report.html").read_bytes()
    assert main(["compare", "abl", "--metric", "reward/mean", "--html", "other.html"]) == 0
    assert capsys.readouterr().out.endswith("report: other.html\n")
    assert (abl / "report.html").read_bytes() == before
    assert "reward/mean at the last step" in (abl.parent / "other.html").read_text(encoding="utf-8")


def test_single_runs_are_compared_by_what_differs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for seed, (low, high) in enumerate([(0.5, 0.6), (0.52, 0.6), (0.49, 0.61), (0.5, 0.62)]):
        write_run(tmp_path / f"a{seed}", low, seed=seed)
        write_run(tmp_path / f"b{seed}", high, seed=seed, config={"training": {"lr": 1.0}})
    assert main(["compare", *(f"{name}{seed}" for name in "ab" for seed in range(4))]) == 0
    assert capsys.readouterr().out.startswith("lr=1.0 is better than lr=1e-05: +0.105 ")


def test_failed_runs_are_named_with_their_reason(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scores = many(2, 5)
    write_campaign(tmp_path / "abl", {"a": scores["grpo+none"], "b": {**scores["maxrl+none"], 5: "failed"}})
    assert main(["compare", "abl"]) == 0
    out = capsys.readouterr().out
    assert "failed: b_s5: boom <b>" in out
    assert "lost runs unequally" in out
    assert main(["compare", "abl", "--failures", "floor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparisons"][0]["reason"] == ""


def test_runs_that_are_done_without_a_value_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scores = many(2, 5)
    write_campaign(tmp_path / "abl", {"a": scores["grpo+none"], "b": {**scores["maxrl+none"], 5: None}})
    assert main(["compare", "abl"]) == 0
    assert "lost: b_s5 is done, and has no eval/score at its last step" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "takes a campaign, or several runs"),
        (["abl", "--failures", "ignore"], '--failures is "floor" or left out, got "ignore"'),
        (["abl", "--by", "algorithm.advantage_mod"], 'did you mean "algorithm.advantage_mode"?'),
        (["abl/runs/grpo+none_s1"], "there is one condition: nothing to compare it with"),
        (["abl", "--by", "training.seed"], "--by training.seed: seeds repeat a condition"),
        (["nothing"], "there is no run nothing"),
        (["abl", "--metric", "eval/scor"], '--metric = "eval/scor" is not a metric of these runs; did you mean'),
        (["abl", "--metrics", "x"], "did you mean --metric?"),
        (["abl", "--html", "no/such/folder.html"], "cannot be written"),
    ],
)
def test_what_cannot_be_compared_is_an_error(abl, arguments, said, capsys):
    assert main(["compare", *arguments]) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.out == ""


def test_neither_torch_nor_mlflow_is_imported(abl):
    program = (
        "import sys; from retrain.cli.main import main; main(['compare', 'abl']); "
        "print([m for m in ('torch', 'transformers', 'trl', 'mlflow', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=abl.parent, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
