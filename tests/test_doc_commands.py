"""What the documents tell a reader to type is right: each command, flag, key, value, name and config.

Every ```toml block composes. A ```bash line is held to the front door: a known command, its own flags and their values,
and what is left composes with the TOML that it names. A code span in the prose is held to the names that it uses.
"""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from retrain import manual, registry
from retrain.cli import campaign, flags
from retrain.cli.commands import COMMANDS
from retrain.cli.init import TEMPLATES
from retrain.cli.init_plugin import KINDS
from retrain.cli.main import main
from retrain.config import compose, schema
from retrain.config.names import FLAGS
from retrain.errors import ConfigError
from tests.documents import REPOSITORY, TOPICS, WRITTEN, blocks, in_a_folder, spans, the_name

SAID = [path for path in WRITTEN if path.name != "CHANGELOG.md"]  # that one tells of what was, too
FOREIGN = REPOSITORY / "docs" / "coming-from.md"  # full of other programs' keys
FIELDS = TOPICS / "json.md"  # of fields: tests/test_doc_json.py

ANY_TOML = """[defaults]
experiment = "demo"
"""
"""What a TOML holds that a document only speaks of."""
PLACEHOLDER = re.compile(r"(?:CONFIG|FILE|CAMPAIGN|run|RUN|RUN/config|.*/config|config)\.toml|CONFIG|FILE")

VALUES = {
    "template": TEMPLATES,
    "topic": manual.topics(),
    "kind": KINDS,
    "family": registry.BUILTIN,
    "floor": ("floor",),
    "key": schema.KEYS,
}
"""What the values of a command's flags and arguments may be, by their kind; other kinds take anything."""


def shown_commands(document: Path) -> list[list[str]]:
    """Return the arguments of each `retrain` in a document's ```bash blocks, and in those of no language.

    In the latter what stands behind two spaces is said about the command.
    """
    found = []
    plain = [re.sub(r"  .*", "", line) for block in blocks(document, "") for line in block.splitlines()]
    for line in ["".join(blocks(document, "bash")).replace("\\\n", " "), *plain]:
        found += [words for words in map(words_of, line.splitlines()) if words]
    return found


def words_of(line: str) -> list[str]:
    """Return the arguments of a line's `retrain`; none: it is another command."""
    if not re.match(r"(?:[A-Z_]+=\S+ )*retrain ", line):
        return []
    words = shlex.split(re.split(r" [|>&]", line)[0], comments=True)
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    return words[1:] if words and words[0] == "retrain" else []


def split(words: list[str]) -> tuple[str, dict[str, str], list[str]]:
    """Return (command, its own flags, the other arguments), as the front door takes them."""
    verb, rest = (words[0], words[1:]) if words and words[0] in COMMANDS else ("train", words)
    if COMMANDS[verb].composes:
        return verb, *flags.take_own(verb, rest)
    return verb, *flags.parse(verb, rest)


def positional(verb: str, rest: list[str]) -> tuple[list[str], list[str]]:
    """Return (arguments without a name, overrides and flags of a config)."""
    count = next((n for n, word in enumerate(rest) if word.startswith(("-", "~")) or "=" in word), len(rest))
    return (rest[:count], rest[count:]) if COMMANDS[verb].composes else (rest, [])


def check_values(verb: str, own: dict[str, str], named: list[str]) -> None:
    """Hold what a command is given to what there is."""
    takes = COMMANDS[verb].takes
    assert takes or not named, f"retrain {verb} takes no {named[0]}"
    given = [(COMMANDS[verb].flags[flag], value) for flag, value in own.items()]
    given += [(takes[min(n, len(takes) - 1)], word) for n, word in enumerate(named)]
    for kind, value in given:
        assert kind != "number" or value.isdigit(), value
        for word in value.split(",") if kind in VALUES else ():
            assert word in VALUES[kind], f"{word} is no {kind}"


def the_toml(named: list[str], folder: Path) -> Path:
    """Return the TOML that a command names, or one that stands for it.

    A name is one of the document's own files, of the repository's, what `retrain init` of this document wrote, or a
    placeholder.
    """
    name = next((word for word in named if word.endswith(".toml") or PLACEHOLDER.fullmatch(word)), "retrain.toml")
    path = folder / name
    if not path.exists() and (REPOSITORY / name).exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, path)
    if path.exists():
        return path.relative_to(folder)
    assert PLACEHOLDER.fullmatch(name) or name == "retrain.toml", f"there is no {name}"
    stand_in = folder / "stands-for-any.toml"
    stand_in.write_text(ANY_TOML, encoding="utf-8")
    return stand_in.relative_to(folder)


def check_command(words: list[str], folder: Path) -> None:
    """Fail unless a user who types this is understood."""
    if words[0] in ("--help", "--version"):
        return
    verb, own, rest = split([word for word in words if word != "--help"])
    named, overrides = positional(verb, rest)
    check_values(verb, own, named)
    if verb == "init" and "--interactive" not in own and not Path(own.get("--output", "retrain.toml")).exists():
        assert main(words) == 0
    if not COMMANDS[verb].composes or "--help" in words:
        return
    if verb == "train":
        assert len(named) == 1, f"retrain {' '.join(words)} is no command and names no TOML, or more than one"
        assert named[0].endswith(".toml"), f"{named[0]} is no command and no TOML"
    path = the_toml(named, folder)
    _, overrides = flags.take({"--resume": "run"}, overrides, verb)  # there is no such run here
    if campaign.is_one(path, overrides):
        campaign.planned(path, campaign._take(overrides)[1])
    else:
        compose(path, overrides, cwd=folder)


@pytest.mark.parametrize("document", [path for path in WRITTEN if blocks(path, "toml")], ids=the_name)
def test_every_toml_composes(document, tmp_path, monkeypatch):
    for path in in_a_folder(document, tmp_path, monkeypatch):
        inside = path.relative_to(tmp_path)
        if inside.parts[0] == "conf":
            compose(None, [f"{inside.parent.name}={inside.stem}"], cwd=tmp_path)
        elif campaign.is_one(inside, []):
            campaign.planned(inside, [])
        else:
            compose(inside, cwd=tmp_path)


@pytest.mark.parametrize("document", [path for path in SAID if shown_commands(path)], ids=the_name)
def test_every_command_is_understood_as_it_is_typed(document, tmp_path, monkeypatch):
    in_a_folder(document, tmp_path, monkeypatch)
    for words in shown_commands(document):
        try:
            check_command(words, tmp_path)
        except ConfigError as error:
            pytest.fail(f"retrain {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    "line",
    [
        "retrain explan mini.toml",
        "retrain explain mini.toml --al",
        "retrain mini.toml --step 3",
        "retrain mini.toml training.max_step=3",
        "retrain mini.toml --lr fast",
        "retrain mini.toml algorithm=grop",
        "retrain other.toml",
        "retrain man --topic trainng",
        "retrain man trainng",
        "retrain init --template demmo",
        "retrain init-plugin --kind rewrad --name x",
        "retrain plugins --kind rewards",
        "retrain rollouts mini --step last",
        "retrain status --wach",
    ],
)
def test_what_no_user_could_type_is_found(line, tmp_path, monkeypatch):
    """The tests of this file can fail."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mini.toml").write_text(ANY_TOML)
    document = tmp_path / "document.md"
    document.write_text(f"```bash\n{line}\n```\n")
    [words] = shown_commands(document)
    with pytest.raises((ConfigError, AssertionError)):
        check_command(words, tmp_path)


# --- words in the prose -----------------------------------------------------------------------------------------------

OWN_FLAGS = {flag for command in COMMANDS.values() for flag in command.flags}
CONFIG_FLAGS = {*FLAGS, "--config-dir", "--backend-opt", "--multirun", "--resume"}
FORMS = ("--help", "--version", "--key", "--section-key")
KEYS = {section: [k.name for k in schema.KEYS.values() if k.section == section] for section in schema.SECTIONS}
KEYS["campaign"] = [*schema.CAMPAIGN_KEYS, "toml"]  # a file of that name
SETTINGS = {name for names in KEYS.values() for name in names} | {*schema.GROUPS, "experiment"}
SETTINGS |= {"extends", "threads", "rho", "max", "enable_thinking", "key"}  # options, and a placeholder
"""What may stand before an equals sign."""


def wrong_in(span: str) -> str:
    """Say what a code span names that does not exist; "": nothing."""
    if span.startswith("retrain "):
        return wrong_in_command(span.split()[1:])
    if re.fullmatch(r"--[a-z-]+", span):
        return "" if span in {*OWN_FLAGS, *CONFIG_FLAGS, *FORMS} else f"no flag {span}"
    dotted = re.fullmatch(rf"({'|'.join(KEYS)})\.([a-z_]+)(?: = .*)?", span) or re.fullmatch(r"\[(\w+)\] (\w+)", span)
    if dotted and dotted[1] in KEYS:
        return "" if dotted[2] in KEYS[dotted[1]] else f"no key {dotted[1]}.{dotted[2]}"
    setting = re.fullmatch(r"([a-z_]+) = .+", span)
    return "" if setting is None or setting[1] in SETTINGS else f"no key {setting[1]}"


def wrong_in_command(words: list[str]) -> str:
    """Say what is wrong with the words behind `retrain`, some of which may stand for others."""
    if re.fullmatch(r"[a-z-]+", words[0]) and words[0] not in {*COMMANDS, "--help", "--version"}:
        return f"no command {words[0]}"
    verb = words[0] if words[0] in COMMANDS else "train"
    known = {*COMMANDS[verb].flags, "--help", "--version"} | (CONFIG_FLAGS if COMMANDS[verb].composes else set())
    for word in words:
        if word.startswith("--") and word.partition("=")[0] not in known:
            return f"no flag {word}"
    if verb == "man" and len(words) > 1 and words[1].islower() and words[1].strip("-") == words[1]:
        return "" if words[1] in manual.topics() else f"no topic {words[1]}"
    return ""


@pytest.mark.parametrize("document", [path for path in SAID if path not in (FOREIGN, FIELDS)], ids=the_name)
def test_what_is_named_in_the_prose_exists(document):
    assert [(span, found) for span in spans(document) if (found := wrong_in(span))] == []


@pytest.mark.parametrize(
    "span",
    [
        "retrain explan",
        "retrain status --wach",
        "retrain man trainng",
        "--stepps",
        "training.max_step",
        "[sepa] step",
        "max_step = 3",
    ],
)
def test_a_wrong_word_in_the_prose_is_found(span):
    assert wrong_in(span)


def test_the_keys_beside_those_of_other_programs_exist():
    text = FOREIGN.read_text(encoding="utf-8")
    for part in re.findall(r"^\| \w[\w-]* \| retrain \| note \|\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE):
        for line in part.splitlines():
            ours = line.split(" | ")[1]
            named = re.findall(r"`([^`]+)`", ours)
            assert ours == "none" or named, line
            assert [span for span in named if span not in schema.KEYS and not span.startswith("retrain ")] == [], line


def test_every_topic_has_its_page_and_its_place_on_the_site():
    docs = REPOSITORY / "docs"
    for topic in manual.topics():
        assert (docs / f"{topic}.md").resolve() == TOPICS / f"{topic}.md"
    menu = re.findall(r"^ +- [^\n]+: ([\w-]+)\.md$", (REPOSITORY / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(page.stem for page in docs.glob("*.md"))
