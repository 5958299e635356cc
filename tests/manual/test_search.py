"""The search of the manual: what a user would ask leads to what answers it."""

import json

import pytest

from retrain import manual
from retrain.cli import man_index
from retrain.manual import search as module
from retrain.manual.search import Entry, excerpt, search, stem

ASKED = [  # what a user types, what should come first, and the topic that it is explained in ("": none; None: any)
    ("oom", "Out of memory on the device", "troubleshooting"),
    ("out of memory", "Out of memory on the device", "troubleshooting"),
    ("out of mem", "Out of memory on the device", "troubleshooting"),
    ("lora rank", "model.lora_rank", None),
    ("lora_r", "model.lora_rank", None),
    ("lora rnak", "model.lora_rank", None),
    ("nan", "Not finite", "troubleshooting"),
    ("resume", "resume", "resume"),
    ("clip", "algorithm.clip_eps", None),
    ("gradient clipping", "training.max_grad_norm", None),
    ("slurm", "On a cluster", "resume"),
    ("which gpu", "backend.devices", None),
    ("kl", "algorithm.kl_coef", None),
    ("KL penalty", "algorithm.kl_coef", None),
    ("truncated", "truncation", "troubleshooting"),
    ("--lr", "training.lr", None),
    ("--learning-rate", "training.lr", None),
    ("learning rate", "training.lr", None),
    ("training.batch_size", "training.batch_size", None),
    ("num_generations", "training.group_size", None),
    ("--watch", "status --watch", ""),
    ("killed", "Killed", "troubleshooting"),
    ("hangs", "Stalled", "troubleshooting"),
    ("disk full", "The disk", "troubleshooting"),
    ("mlflow is down", "The tracker is away", "troubleshooting"),
    ("entropy collapse", "entropy_collapse", "troubleshooting"),
    ("precedence", "Which value wins", "configuration"),
    ("extends", "extends", "configuration"),
    ("api key", "Secrets", "configuration"),
    ("wandb project", "logging.wandb_project", None),
    ("is A better than B", "compare", "compare"),
    ("pass@k", "eval/pass_at_<k>", None),
    ("policy/kl", "policy/kl", None),
    ("write a plugin", "retrain init-plugin", ""),
    ("maxrl", "maxrl", None),
    ("planning tokens", "Planning tokens", "advantages"),
    ("holds a run already", "… holds a run already", ""),
]


@pytest.mark.parametrize(("query", "name", "topic"), ASKED, ids=[query for query, _, _ in ASKED])
def test_a_question_leads_to_its_answer_first(query, name, topic):
    first = search(query).hits[0].entry
    assert first.name == name
    assert topic is None or first.topic == topic


@pytest.mark.parametrize("query", ["oom", "lora rank", "--lr", "kl", "resume a run on slurm", "training"])
def test_there_are_at_most_ten_hits_the_best_first_and_none_twice(query):
    hits = search(query).hits
    assert 1 <= len(hits) <= 10
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len({(hit.entry.name, hit.entry.command) for hit in hits}) == len(hits)


def test_all_words_come_before_some(monkeypatch):
    both, one = Entry(kind="section", name="a", text="red green"), Entry(kind="topic", name="b", text="red red red")
    monkeypatch.setattr(module, "entries", lambda: [one, both])
    assert [hit.entry for hit in search("green red").hits] == [both]


def test_where_nothing_has_all_words_the_rarest_decides(monkeypatch):
    common = [Entry(kind="section", name=f"c{n}", text="learn") for n in range(5)]
    rare = Entry(kind="section", name="r", text="marmot")
    monkeypatch.setattr(module, "entries", lambda: [*common, rare])
    assert search("learn marmot").hits[0].entry == rare


def test_a_word_that_is_nowhere_is_named_with_what_was_looked_for_instead():
    found = search("temprature")
    assert found.replaced["temprature"].startswith("temperatur")
    assert found.hits[0].entry.name == "training.temperature"
    nothing = search("zzyzzx")
    assert (nothing.hits, nothing.replaced) == ([], {"zzyzzx": ""})


@pytest.mark.parametrize("query", ["", " ", "?!", "the", "of the"])
def test_a_query_without_a_word_that_tells_something_is_no_error(query):
    assert len(search(query).hits) <= 10


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("truncated", "truncation"),
        ("clipped", "clip"),
        ("planning", "plan"),
        ("compare", "comparison"),
        ("evaluate", "evaluation"),
        ("rewards", "reward"),
        ("resuming", "resume"),
    ],
)
def test_forms_of_a_word_are_one_word(one, other):
    assert stem(one) == stem(other)


@pytest.mark.parametrize(("one", "other"), [("loss", "lo"), ("device", "devil"), ("general", "generate"), ("lr", "l")])
def test_other_words_are_not(one, other):
    assert stem(one) != stem(other)


def test_the_excerpt_is_the_line_that_answers_without_markdown():
    entry = Entry(kind="section", name="n", text="first line\n- **Gate.** `lambda` stays 0\nlast")
    assert excerpt(entry, ["lambda"]) == "Gate. lambda stays 0"
    assert len(excerpt(Entry(kind="section", name="n", text="word " * 100), ["word"])) <= 110


def test_every_synonym_leads_somewhere():
    for word in module.SYNONYMS:
        assert search(word).hits, word
        assert not search(word).replaced


def test_whatever_says_what_to_read_names_a_topic_that_is_there():
    for entry in module.entries():
        assert entry.kind in module.KINDS
        assert not entry.topic or entry.topic in manual.topics(), entry
        assert not entry.topic or entry.command == f"retrain man {entry.topic}"


# --- the index --------------------------------------------------------------------------------------------------------


def test_a_line_of_the_index_is_an_entry():
    entry = next(man_index.keys(man_index.Homes()))
    line = json.dumps({name: value for name, value in vars(entry).items() if value})
    assert module.from_line(line) == entry


def test_messages_are_indexed_with_a_mark_for_each_value():
    [found] = [entry for entry in man_index.messages() if entry.name == "… holds a run already"]
    assert found.text == "to go on with it: retrain resume …"


def test_what_is_generated_in_a_topic_is_found_once_by_the_index():
    text = "# t: about\n\n## Keys\n\n<!-- generated: keys -->\n\nlora_rank\n\n<!-- end generated -->\n\nafter\n"
    sections = [entry for entry in module.of_topic("t", text) if entry.kind == "section"]
    assert [(entry.name, entry.text) for entry in sections] == [("Keys", "after")]
