"""What the documents say is true: numbers are recomputed, names exist, code compiles, links lead somewhere."""

import math
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from retrain import health, manual, power, registry, resuming
from retrain.advantages import baselines, pipeline, signals
from retrain.advantages.entropy_mask import EntropyMask
from retrain.advantages.grams import GRAMS
from retrain.advantages.pipeline import TransformPipeline
from retrain.advantages.planning import RegexDetector
from retrain.advantages.sepa_schedule import SepaSchedule
from retrain.cli import campaign_table
from retrain.config import compose, schema
from retrain.types import Batch
from tests.documents import DOCUMENTS, REPOSITORY, TOPICS, WRITTEN, blocks, cells, in_a_folder, table, the_name
from tests.tokenizers import tokenizer

STEP, LAMBDA, BETA, ALPHA, RHO = 35, 0.5, 0.5, 0.2, 0.2  # of the worked example


def printed(value: float, as_in: str) -> str:
    """Return a number with as many decimals as the document gives it."""
    text = f"{value:.{len(as_in.partition('.')[2])}f}"
    return text.removeprefix("-") if float(text) == 0 else text


# --- baselines --------------------------------------------------------------------------------------------------------

REWARDS = [1.0, 0.0, 0.0, 0.0]
CENTRED = [0.75, -0.25, -0.25, -0.25]
BY_HAND = {
    "grpo": CENTRED,
    "grpo group": [a / (math.sqrt(sum(c * c for c in CENTRED) / 3) + 1e-4) for a in CENTRED],
    "grpo batch": [a / (math.sqrt(sum(c * c for c in CENTRED) / 3) + 1e-4) for a in CENTRED],
    "maxrl": [a / (0.25 + 1e-6) for a in CENTRED],
    "rloo": [1.0, -1 / 3, -1 / 3, -1 / 3],
    "reinforce_pp": [a / (math.sqrt(sum(c * c for c in CENTRED) / 4) + 1e-8) for a in CENTRED],
}


def test_the_baselines_table_gives_every_baseline_and_its_advantages():
    rows = {
        " ".join(re.sub(r'[`",=]|scale_rewards', "", row["baseline"]).split()): row
        for row in table("advantages", "baseline")
    }
    assert set(rows) == set(BY_HAND)
    assert {name.split()[0] for name in rows} == set(registry.BUILTIN["baseline"])
    for name, row in rows.items():
        mode, _, scale = name.partition(" ")
        algorithm = schema.Algorithm(advantage_mode=mode, scale_rewards=scale or "none")
        made = baselines.build(algorithm, [])(torch.tensor(REWARDS, dtype=torch.float64), torch.zeros(4).long())
        for place, column in enumerate(("right", "wrong")):
            assert row[column] == printed(BY_HAND[name][place], row[column])
            assert row[column] == printed(float(made[place]), row[column])


# --- the worked example -----------------------------------------------------------------------------------------------


def example() -> list[list[dict[str, str]]]:
    """Return the rows of both tables of the example, joined, by completion."""
    inputs = table("advantages", "token", "log p")
    outputs = table("advantages", "token", "A after gtpo")
    assert [(a["completion"], a["token"]) for a in inputs] == [(b["completion"], b["token"]) for b in outputs]
    joined = [a | b for a, b in zip(inputs, outputs, strict=True)]
    return [[row for row in joined if row["completion"] == str(n)] for n in (1, 2, 3, 4)]


def as_batch(groups: list[list[dict[str, str]]]) -> tuple[Batch, torch.Tensor]:
    """Return the example as a batch, with the mask of its planning tokens."""
    width = max(map(len, groups))
    padding = {"log p": "0", "planning": ""}
    rows = [[*tokens, *[padding] * (width - len(tokens))] for tokens in groups]
    mask = torch.tensor([["token" in token for token in row] for row in rows])
    batch = Batch(
        prompt_ids=torch.zeros(len(rows), 1).long(),
        prompt_mask=torch.ones(len(rows), 1).bool(),
        completion_ids=torch.zeros(len(rows), width).long(),
        loss_mask=mask,
        sampling_logprobs=torch.tensor([[float(token["log p"]) for token in row] for row in rows]).double(),
        entropies=None,
        rewards=torch.tensor(REWARDS).double(),
        group_ids=torch.zeros(len(rows)).long(),
    )
    return batch, torch.tensor([[token["planning"] == "yes" for token in row] for row in rows])


def after(transforms, batch, planning):
    """Return the credit of the example's step; an earlier step opens sepa's gate, as in a run."""
    advantages = baselines.MaxRl()(batch.rewards, batch.group_ids)
    made = TransformPipeline(transforms, max_steps=100)
    made(advantages, batch, planning_mask=planning, step=STEP - 1, log=lambda *_: None)
    return made(advantages, batch, planning_mask=planning, step=STEP, log=lambda *_: None)


def from_the_document(tmp_path):
    """Return the transforms of the document's own TOML."""
    [text] = [block for block in blocks(TOPICS / "advantages.md", "toml") if block.startswith("# example.toml")]
    (tmp_path / "example.toml").write_text(text)
    config = compose(Path("example.toml"), cwd=tmp_path).config
    assert config.algorithm.advantage_mode == "maxrl"
    return pipeline.build(config, tokenizer("bytes"), []).transforms


def test_the_example_s_numbers_are_those_of_the_code(tmp_path):
    groups = example()
    batch, planning = as_batch(groups)
    steps = [after(from_the_document(tmp_path)[:n], batch, planning) for n in range(4)]
    masked = after([EntropyMask(schema.EntropyMask(rho=RHO))], batch, planning)
    columns = {
        "H (surprisal)": steps[0].uncertainty,
        "H after sepa": steps[1].uncertainty,
        "A (maxrl)": steps[0].advantages,
        "A after gtpo": steps[2].advantages,
        "A after hicra": steps[3].advantages,
        "A, entropy_mask alone": masked.advantages,
    }
    for column, values in columns.items():
        said = [row[column] for tokens in groups for row in tokens]
        computed = values[batch.loss_mask].tolist()
        assert said == [printed(value, text) for value, text in zip(computed, said, strict=True)], column


def test_the_example_s_numbers_are_those_of_its_formulas():
    groups = example()
    largest = sorted((-float(row["log p"]) for tokens in groups for row in tokens), reverse=True)
    threshold = largest[int(len(largest) * RHO) - 1]
    for tokens, advantage in zip(groups, BY_HAND["maxrl"], strict=True):
        uncertainty = [-float(row["log p"]) for row in tokens]
        execution = [h for h, row in zip(uncertainty, tokens, strict=True) if not row["planning"]]
        evened = [
            h if row["planning"] else LAMBDA * fmean(execution) + (1 - LAMBDA) * h
            for h, row in zip(uncertainty, tokens, strict=True)
        ]
        mean = fmean(evened)
        for h, read, row in zip(uncertainty, evened, tokens, strict=True):
            weight = 1 + BETA * (read / mean - 1) if mean else 1.0
            spent = advantage * weight
            planned = spent + ALPHA * abs(spent) if row["planning"] else spent
            kept = advantage if h >= threshold else 0.0
            said = [row[c] for c in ("gtpo's w", "A after gtpo", "A after hicra", "A, entropy_mask alone")]
            assert said == [printed(value, said[0]) for value in (weight, spent, planned, kept)]


def test_the_example_s_planning_tokens_are_what_the_detector_finds():
    for tokens in example():
        [found] = RegexDetector()(["".join(row["token"] for row in tokens)])
        written = 0
        for row in tokens:
            start, written = written, written + len(row["token"])
            overlaps = any(first < written and start < last for first, last in found)
            assert overlaps == (row["planning"] == "yes"), row["token"]


def test_the_table_of_signals_is_computed():
    rows = table("advantages", "log p_t", "surprisal")
    logprobs = torch.tensor([[float(row["log p_t"]) for row in rows]])
    batch, _ = as_batch([[{"token": "", "log p": row["log p_t"], "planning": ""} for row in rows]] * 4)
    for name, by_hand in {"surprisal": -logprobs, "predictive_variance": logprobs.exp() * (1 - logprobs.exp())}.items():
        said = [row[name] for row in rows]
        computed = getattr(signals, name)(batch)[0].tolist()
        assert said == [printed(value, text) for value, text in zip(computed, said, strict=True)]
        assert said == [printed(value, text) for value, text in zip(by_hand[0].tolist(), said, strict=True)]
    kinds = [row["uncertainty_kind"] for row in table("advantages", "uncertainty_kind")]
    assert kinds == list(registry.BUILTIN["signal"])


# --- the schedule -----------------------------------------------------------------------------------------------------


def schedule(*, ratio: float = 1.0, **options) -> SepaSchedule:
    """Return a schedule whose gate is open and which has seen ema / v0 = ratio."""
    made = SepaSchedule(schema.Sepa(**options))
    made.load_state_dict({"count": 100, "ema": ratio, "v0": 1.0, "gate_open": True})
    return made


def test_the_table_of_lambda_by_step_is_computed():
    columns = {
        "λ, defaults": ({}, 10, 50),
        "λ, `delay_steps = 0`": ({"delay_steps": 0}, 0, 50),
        "λ, `delay_steps = 0`, `steps = 20`": ({"delay_steps": 0, "steps": 20}, 0, 20),
    }
    for row in table("sepa", "t", *columns):
        step = int(row["t"])
        for column, (options, delay, steps) in columns.items():
            assert row[column] == printed(schedule(**options).strength(step, 100), row[column])
            assert row[column] == printed(min(max((step - delay) / steps, 0), 1), row[column])


def test_the_table_of_the_auto_schedule_is_computed():
    for row in table("sepa", "ema / v0"):
        ratio = float(row["ema / v0"])
        for step, linear in ((5, 0.0), (STEP, LAMBDA)):
            said = row[f"λ at t = {step}"]
            assert said == printed(schedule(schedule="auto", ratio=ratio).strength(step, 100), said)
            assert said == printed(max(1 - min(ratio / 0.2, 1), linear), said)


def test_a_gate_that_opens_late_lets_lambda_jump_to_what_the_text_says():
    made = SepaSchedule(schema.Sepa())
    assert made.strength(40, 100) == 0
    made.observe(torch.tensor([]), torch.tensor([1.0]))
    assert made.strength(40, 100) == pytest.approx(0.6)
    assert "a gate that opens at t = 40 lets λ jump to 0.6" in manual.read("sepa").replace("\n", " ")


# --- names ------------------------------------------------------------------------------------------------------------


def test_tables_of_modes_are_the_registry_s():
    rows = {row["transform_mode"]: row["transforms, in order"] for row in table("advantages", "transform_mode")}
    assert list(rows) == list(registry.MODES)
    assert {name: tuple(said.split(", ")) for name, said in rows.items() if name != "none"} == {
        name: transforms for name, transforms in registry.MODES.items() if transforms
    }
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for kind, header in {"mode": "`transform_mode`", "baseline": "`advantage_mode`"}.items():
        [part] = re.findall(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", readme, re.MULTILINE)
        names = [cells(line)[0] for line in part.splitlines()]
        assert names[: len(registry.BUILTIN[kind])] == list(registry.BUILTIN[kind])


def test_every_transform_has_its_section_and_every_planning_phrase_is_listed():
    text = manual.read("advantages")
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == list(registry.BUILTIN["transform"])
    listed = re.search(r"knows eighteen phrases: (.*?)\. Case", text, re.DOTALL)
    assert listed is not None
    assert tuple(" ".join(listed[1].split()).split(" · ")) == GRAMS


# --- code and links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [path for path in WRITTEN if blocks(path, "python")], ids=the_name)
def test_every_python_block_compiles(document):
    for block in blocks(document, "python"):
        compile(block, str(document), "exec")


def test_every_rule_of_health_is_in_the_troubleshooting_table_and_has_its_advice():
    names = [rule.name for rule in health.rules(schema.RunConfig())]
    assert [row["rule"] for row in table("troubleshooting", "rule")] == [*names, "out_of_memory"]
    assert re.findall(r"^### (\w+)$", manual.read("troubleshooting"), re.MULTILINE) == names
    for key in schema.keys_of("health", schema.Health):
        if key.name.startswith(("max_", "min_")):
            [said] = [row["limit"] for row in table("troubleshooting", "rule") if key.name in row["limit"]]
            percent = f"{100 * key.default:g} %"
            assert f"= {key.default}" in said or f"= {percent}" in said


def test_the_manual_names_every_key_of_a_campaign_with_its_default():
    rows = table("campaigns", "key of `[campaign]`", "default")
    said = {name: row["default"].strip("`") for row in rows for name in re.findall(r"\w+", row["key of `[campaign]`"])}
    known = {"seeds": "42 101 202 303 404 505 606 707", "conditions": "the ablation", "baseline": "the first"}
    known |= {"sweeper": "basic", "sweeper_options": "none", "space": "none"}
    known |= {"launcher_options": "none", "launcher": "local", "metric": "eval/score"}
    assert said == {name: known.get(name) or f"{key.default:g}" for name, key in schema.CAMPAIGN_KEYS.items()}


def test_the_detectable_differences_of_the_manual_are_computed():
    for row in table("campaigns", "seeds", "1 comparison"):
        for number in (1, 2, 4):
            said = row[f"{number} comparison" + "s" * (number > 1)]
            assert printed(power.detectable_difference(int(row["seeds"]), number), said) == said


def test_the_marks_of_the_manual_are_those_of_the_table():
    said = {row["mark"]: row["in ASCII"] for row in table("campaigns", "mark", "in ASCII")}
    assert said == {campaign_table.MARKS[name]: campaign_table.PLAIN_MARKS[name] for name in campaign_table.MARKS}


def test_the_keys_that_may_change_on_resume_are_those_that_are_said_to():
    text = " ".join(manual.read("resume").split())
    [said] = re.findall(r"\*\*What may change\*\*: (.*?)\. Any other", text)
    sections = re.findall(r"\[(\w+)\]", said)
    names = set(re.findall(r"`([\w.]+)`", said))
    one_by_one = {key for key in resuming.MAY_CHANGE if key.partition(".")[0] not in sections}
    assert {name if "." in name else f"training.{name}" for name in names} == one_by_one
    assert {key.partition(".")[0] for key in resuming.MAY_CHANGE - one_by_one} == set(sections)


def test_the_plugin_of_the_manual_does_what_it_says(tmp_path, monkeypatch):
    tomls = in_a_folder(TOPICS / "advantages.md", tmp_path, monkeypatch)
    chosen = [path for path, text in tomls.items() if "first_tokens:FirstTokens" in text]
    assert len(chosen) == 2
    batch, planning = as_batch(example())
    for path in chosen:
        config = compose(path, ["--batch-size", "1"], cwd=tmp_path).config
        made: Any = pipeline.build(config, tokenizer("bytes"), [tmp_path]).transforms[0]
        assert made.n == 32
        made.n = 2
        kept = after([made], batch, planning).advantages != 0
        assert kept.sum(dim=1).tolist() == [2, 2, 2, 1]


@pytest.mark.parametrize("document", DOCUMENTS, ids=the_name)
def test_every_relative_link_leads_somewhere(document):
    """A topic is read in two places: in the package, and through its link in docs/."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`(?!\])", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text):
        assert target.startswith("https://") or (document.parent / target).exists(), target
