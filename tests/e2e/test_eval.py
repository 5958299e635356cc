"""A finished run scored again is what the run itself measured."""

import json
import zlib
from pathlib import Path
from statistics import fmean

import pyarrow.parquet as pq
import pytest

from retrain import evaluations, run, store, tracking
from retrain.cli.main import main
from retrain.config import compose
from retrain.config.logged import logged
from tests.e2e.conftest import TINY

ALL_OF_ONE_DIGIT = ["eval.source=arithmetic", "eval.name=+:1", "eval.split=train", "eval.examples=20"]
CHECKSUM = """
import zlib

def score(response, reference):  # another token anywhere, another score
    return zlib.crc32(response.encode()) / 2**32
"""
EVALUATED = "[reward]\ntype = 'checksum:score'\n[eval]\nevery = 2\nexamples = 24\nsamples = 2\nfinal_test = true\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with a run that evaluated itself ("good") and one that held nothing out ("greedy")."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(tracking, "start_follower", lambda directory: None)
        Path("checksum.py").write_text(CHECKSUM)
        Path("good.toml").write_text(TINY.replace("[eval]\nevery = 0\n", EVALUATED))
        Path("greedy.toml").write_text(TINY)
        run.run(compose(Path("good.toml"), ["--lr", "5e-3", "--seed", "1", "data.name=+:1"]))
        run.run(compose(Path("greedy.toml"), ["--max-steps", "1"]))
        whole = ["--lora-rank", "0", "--lr", "1e-3", "--max-steps", "2", "data.name=+:1", "eval.final_test=false"]
        run.run(compose(Path("good.toml"), [*whole, "--log-dir", "whole"]))
    return folder


@pytest.fixture
def score(project, monkeypatch, capsys):
    monkeypatch.chdir(project)

    def document(*arguments):
        capsys.readouterr()
        code = main(["eval", *arguments, "--json"])
        out, err = capsys.readouterr()
        return json.loads(out) if code == 0 else (code, err)

    return document


def lines(project):
    (directory,) = (project / "outputs/good").glob("20*")
    return directory, {line["step"]: line for line in store.read_metrics(directory)}


def test_the_final_adapter_scores_what_the_last_line_says_to_the_last_bit(score, project):
    _, metrics = lines(project)
    assert len({metrics[step]["eval/score"] for step in (0, 2, 4)}) == 3
    found = score("good")
    assert found["score"] == metrics[4]["eval/score"]
    assert found["score_se"] == metrics[4]["eval/score_se"]
    assert found["pass_at"]["2"]["value"] == metrics[4]["eval/pass_at_2"]
    assert found["length_mean"] == metrics[4]["eval/length_mean"]
    assert (found["kind"], found["problems"], found["samples"], found["trained_on"]) == ("run", 8, 2, 0)


def test_the_answers_on_disk_are_those_that_the_scores_are_means_of(project):
    directory, metrics = lines(project)
    assert sorted(file.name for file in (directory / "evaluations").iterdir()) == [
        "step-0.parquet", "step-2.parquet", "step-4.parquet", "test-4.parquet",
    ]  # fmt: skip
    for part, step in (("eval", 0), ("eval", 4), ("test", 4)):
        answers = evaluations.read(directory, part, step)
        assert answers is not None
        for name in ("score", "pass_at_2"):
            assert fmean(evaluations.of_tasks(name, list(answers.values()))) == metrics[step][f"{part}/{name}"]
    rows = pq.read_table(directory / "evaluations" / "step-4.parquet").to_pylist()
    assert [zlib.crc32(row["completion"].encode()) / 2**32 for row in rows] == [row["reward"] for row in rows]


def test_the_metrics_that_a_config_promises_are_those_of_its_last_line(project):
    directory, metrics = lines(project)
    promised = {
        key for some in logged(compose(directory / "config.toml").config) if some.why_not is None for key in some.keys
    }
    there = metrics[4].keys() - {"step", "time"}
    assert there - promised == set()
    assert promised - there <= {"reward/length_correlation"}  # where either is constant there is none


def test_checkpoints_the_best_and_the_adapter_s_folder_are_scored_too(score, project):
    directory, metrics = lines(project)
    assert score("good", "--checkpoint", "2")["score"] == metrics[2]["eval/score"]
    best = store.RunRecord.read(directory).best
    assert score("good", "--best")["score"] == best["score"] == metrics[best["step"]]["eval/score"]
    assert score(str(directory / "adapter"))["score"] == metrics[4]["eval/score"]


def test_a_run_that_trained_every_weight_is_scored_alike(score, project):
    metrics = {line["step"]: line for line in store.read_metrics(project / "whole")}
    assert metrics[0]["eval/score"] != metrics[2]["eval/score"]
    assert score("whole")["score"] == score("whole", "--checkpoint", "2")["score"] == metrics[2]["eval/score"]


def test_the_base_model_scores_what_the_run_began_with(score, project):
    _, metrics = lines(project)
    found = score("builtin:tiny", str(lines(project)[0] / "config.toml"))
    assert found["score"] == metrics[0]["eval/score"]
    assert found["trained_on"] is None


def test_the_test_split_scores_what_the_run_said_at_its_end(score, project):
    _, metrics = lines(project)
    found = score("good", "--test")
    assert found["score"] == metrics[4]["test/score"]
    assert (found["part"], found["trained_on"]) == ("test split", 0)


def test_problems_that_a_run_was_trained_on_are_counted_and_refused_when_they_are_all(score):
    code, said = score("greedy")
    assert code == 2
    assert "was trained on all 256 of these problems" in said
    assert "--test scores the source's test split, if any" in said
    some = score("good", *ALL_OF_ONE_DIGIT)
    assert 0 < some["trained_on"] < some["problems"] == 20
