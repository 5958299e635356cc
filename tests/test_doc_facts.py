"""Tables of the topics on data, rewards, metrics and plugins say what the code does."""

import importlib.util
import re
from pathlib import Path

import pytest

from retrain import manual, registry
from retrain.cli.init_plugin import KINDS
from retrain.config import compose, schema
from retrain.config.check import OWN_REWARD
from retrain.config.rules import DATA_KEYS
from retrain.rewards.match import Match
from retrain.rewards.math import Math
from retrain.types import Task
from tests.documents import TOPICS, spans, table


def test_the_table_of_answers_is_what_the_rewards_say():
    rows = table("rewards", "completion", "reference", "match", "math")
    texts = [row["completion"] for row in rows]
    tasks = [Task(id=str(n), prompt=(), answer=row["reference"]) for n, row in enumerate(rows)]
    maths = Math(schema.Reward(workers=1, timeout=60.0))
    try:
        for reward, column in ((Match(), "match"), (maths, "math")):
            scores = [score.value for score in reward.score(texts, tasks)]
            said = [None if row[column] == "unscorable" else float(row[column]) for row in rows]
            assert scores == said, column
    finally:
        maths.close()


def test_the_table_of_sources_gives_their_keys_and_rewards():
    rows = {row["source"]: row for row in table("data", "source", "reads")}
    assert list(rows) == list(registry.BUILTIN["data"])
    for name, row in rows.items():
        read = re.findall(r"\w+", row["reads"])
        assert tuple(read) == DATA_KEYS[name]
        assert row["reward by default"] == OWN_REWARD[name]


def test_the_table_of_plugins_gives_every_kind_that_can_be_started():
    rows = table("plugins", "kind", "chosen by")
    assert {row["kind"] for row in rows} == set(KINDS)
    for row in rows:
        keys = re.findall(r"`?([a-z]+\.[a-z_]+)`?", row["chosen by"])
        families = {schema.KEYS[key].registry for key in keys} - {"", "mode"}
        assert families <= {row["kind"]}


def test_every_metric_that_a_topic_names_is_one():
    """Names are taken from the code: a text in a module, or a part of one that is put together there."""
    code = "".join(path.read_text(encoding="utf-8") for path in (TOPICS.parents[1]).rglob("*.py"))
    families = {"reward", "groups", "completion", "policy", "ratio", "time", "tokens", "entropy", "eval", "planning"}
    for name in ("metrics", "troubleshooting", "inference-engines", "rewards", "quickstart", "backends"):
        for span in spans(TOPICS / f"{name}.md"):
            family, slash, leaf = span.partition("/")
            if slash and family in families and re.fullmatch(r"[a-z_0-9]+", leaf) and span not in OF_THE_EXAMPLE:
                assert f'"{span}"' in code or f'"{leaf}"' in code or f'"{leaf}_se"' in code, span


SOURCES_OF_TRL = "".join(
    Path(importlib.util.find_spec(package).origin).parent.joinpath(file).read_text(encoding="utf-8")
    for package, file in (
        ("trl", "trainer/grpo_config.py"),
        ("trl", "trainer/base_config.py"),
        ("transformers", "training_args.py"),
    )
)
"""Read, not imported: that takes a quarter of a minute."""

OF_THE_EXAMPLE = ("reward/right", "reward/brief")  # parts of the reward that the topic shows


@pytest.mark.parametrize("topic", sorted(manual.topics()))
def test_a_topic_begins_with_its_name_and_what_it_is_about(topic):
    first = (TOPICS / f"{topic}.md").read_text(encoding="utf-8").partition("\n")[0]
    assert re.fullmatch(rf"# {topic}: [^:].{{10,140}}[^.]", first)


def test_the_configs_that_replace_other_programs_are_what_the_page_says(tmp_path):
    page = (TOPICS.parents[2] / "docs" / "coming-from.md").read_text(encoding="utf-8")
    [text] = re.findall(r"^```toml\n(# from_trl\.toml\n.*?)^```", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "from_trl.toml").write_text(text)
    config = compose(Path("from_trl.toml"), cwd=tmp_path).config
    script = dict(re.findall(r"^    (\w+)=([^,]+),$", page, re.MULTILINE))
    rows = int(script["per_device_train_batch_size"]) * int(script["gradient_accumulation_steps"])
    assert config.training.batch_size * config.training.group_size == rows
    assert config.training.group_size == int(script["num_generations"])
    assert config.training.max_tokens == int(script["max_completion_length"])
    assert config.training.lr == float(script["learning_rate"])
    assert config.algorithm.clip_eps_high == float(script["epsilon_high"])
    assert config.training.max_steps == int(script["max_steps"])
    ours = re.findall(r"^\| ([^|]+) \| ", page.partition("## TRL: GRPOConfig")[2].partition("```")[0], re.MULTILINE)
    named = {name for cell in ours for name in re.findall(r"`(\w+)`", cell)}
    of_the_trainer = {"reward_funcs", "eval_dataset", "peft_config", "RLOOTrainer"}
    assert {
        name for name in named - of_the_trainer if not re.search(rf"^    {name}:", SOURCES_OF_TRL, re.MULTILINE)
    } == set()
