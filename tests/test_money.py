"""What runs cost: said before they start, written while they go, added up afterwards, and bounded."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retrain import money, run
from retrain.campaign import budget, conduct, plan
from retrain.campaign.manifest import Manifest
from retrain.cli.main import main
from retrain.config import compose
from retrain.errors import Incomplete
from retrain.store import RunRecord, read_metrics
from tests.campaign.toy_backend import PROMPT, SAMPLED, TRAINED

TOY = Path(__file__).parent / "campaign" / "toy_backend.py"
PRICE = 2.0
TOML = f"""
[backend]
backend = "toy_backend:Toy"
options = {{ price = {PRICE} }}
[training]
max_steps = 4
save_every = 2
batch_size = 2
group_size = 4
max_tokens = 100
[eval]
every = 2
examples = 10
[logging]
tracking_uri = "none"
log_dir = "root"
"""
CAMPAIGN = (
    "[campaign]\nseeds = [1, 2]\n[[campaign.conditions]]\nname = 'a'\n[[campaign.conditions]]\nname = 'b'\nlr = 1e-5\n"
)
STEP = PRICE * (PROMPT + SAMPLED + TRAINED) / 1e6
FREE = TOML.replace(f"options = {{ price = {PRICE} }}\n", "")


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(TOY, tmp_path)


def explained(text, capsys):
    Path("abl.toml").write_text(text)
    assert main(["explain", "abl.toml", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert main(["explain", "abl.toml"]) == 0
    return document, capsys.readouterr().out


def test_explain_says_the_most_that_a_run_and_a_campaign_can_cost(capsys):
    """4 batches of 2 prompts and 3 evaluations of 10; 4·8 completions of 100 tokens, each after a prompt of 256."""
    prompts, sampled, trained = (8 + 30) * 256, 32 * 100 + 30 * 100, 32 * 356
    most = PRICE * (prompts + sampled + trained) / 1e6
    document, text = explained(TOML, capsys)
    assert document["derived"]["money_at_most"] == {"USD": pytest.approx(most)}
    assert f"Cost:       at most {money.text({'USD': most})}, if prompts have no more than 256 tokens" in text
    document, text = explained(TOML + CAMPAIGN, capsys)
    assert document["derived"]["money_at_most"] == {"USD": pytest.approx(4 * most)}
    assert f"Cost:       at most {money.text({'USD': 4 * most})}" in text


def test_nothing_is_said_of_money_where_nothing_has_a_price_or_usage_no_bound(capsys):
    for text in (FREE, FREE + CAMPAIGN, TOML.replace("examples = 10", "examples = 0")):
        document, shown = explained(text, capsys)
        assert document["derived"]["money_at_most"] == {}
        assert "Cost:" not in shown


def test_a_run_writes_what_its_steps_cost_and_what_was_redone_stays_spent(monkeypatch):
    Path("mini.toml").write_text(
        TOML.replace("price =", 'fault = "raise", price =').replace("save_every = 2", "save_every = 20")
    )
    with pytest.raises(ValueError, match="the cause"):
        run.run(compose(Path("mini.toml")), follow=False)
    assert [line["cost/money"] for line in read_metrics(Path("root"))] == [pytest.approx(STEP)] * 2
    assert money.spent([Path("root")]) == {"USD": pytest.approx(2 * STEP)}
    monkeypatch.setenv("TOY_HEALTHY", "1")
    run.resume(Path("root"), follow=False)
    record = RunRecord.read(Path("root"))
    assert (record.state, record.currency) == ("done", "USD")
    assert record.money_redone == pytest.approx(2 * STEP), "it began from the start: there was no checkpoint"
    assert money.spent([Path("root")]) == {"USD": pytest.approx(6 * STEP)}


def test_a_campaign_adds_up_its_runs_in_status_and_report(capsys):
    Path("abl.toml").write_text(TOML + CAMPAIGN)
    assert main(["abl.toml"]) == 0
    spent = 16 * STEP
    assert "4 of 4 done, took " in (said := capsys.readouterr().err)
    assert f", {money.text({'USD': spent})}\n" in said
    assert main(["status", "root", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["campaigns"]
    assert document["money"] == {"USD": pytest.approx(spent)}
    assert [one["money"] for one in document["runs"]] == [{"USD": pytest.approx(4 * STEP)}] * 4
    assert f"over all runs; {money.text({'USD': spent})}" in Path("root/report.html").read_text()


def test_without_a_price_there_is_no_zero_that_pretends(capsys):
    Path("abl.toml").write_text(FREE + CAMPAIGN)
    assert main(["abl.toml"]) == 0
    assert main(["status", "root"]) == 0
    assert "cost" not in capsys.readouterr().out
    assert main(["status", "root", "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["campaigns"]
    assert (document["money"], document["runs"][0]["money"]) == ({}, {})
    assert "cost/money" not in read_metrics(Path("root/runs/a_s1"))[0]
    assert "USD" not in Path("root/report.html").read_text()


def test_a_budget_of_money_stops_a_campaign_and_counts_runs_that_began_anew(monkeypatch):
    monkeypatch.setattr(budget, "LOOK_SECONDS", 0.0)
    Path("abl.toml").write_text(TOML + CAMPAIGN.replace("[campaign]", f"[campaign]\nbudget_money = {5 * STEP}"))
    with pytest.raises(Incomplete, match=r"budget_money = .* is spent: .* USD"):
        conduct.start(plan.make(Path("abl.toml")), lambda directory, manifest: None)
    assert Manifest.read(Path("root")).state == "interrupted"
    before = money.spent([Path("root/runs/a_s1")])
    conduct._begin_anew(Path("root/runs/a_s1"))
    assert money.spent([Path("root/runs/a_s1")]) == before


@pytest.mark.parametrize(("text", "why"), [(FREE, "its runs have no price"), (TOML, "")])
def test_a_budget_of_money_needs_a_price(capsys, text, why):
    Path("abl.toml").write_text(text + CAMPAIGN.replace("[campaign]", "[campaign]\nbudget_money = 3.0"))
    main(["explain", "abl.toml", "--json"])
    problems = [problem["message"] for problem in json.loads(capsys.readouterr().out)["problems"]]
    assert problems == ([f"campaign.budget_money = 3, and {why}"] if why else [])
    if why:
        assert main(["abl.toml"]) == 2
        assert not Path("root").exists()


def test_amounts_are_written_as_a_person_would():
    assert money.text({"USD": 1234.5, "EUR": 0.00314}) == "0.0031 EUR, 1,234.50 USD"
    assert money.text({}) == ""


def test_explain_of_a_priced_backend_imports_no_tensor_library(tmp_path):
    Path("abl.toml").write_text(TOML + CAMPAIGN)
    code = (
        "import sys; from retrain.cli.main import main; main(['explain', 'abl.toml'])\n"
        "print(sorted({'torch', 'transformers', 'mlflow', 'numpy'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr == "[]\n"
