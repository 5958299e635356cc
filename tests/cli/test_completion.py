"""What TAB offers, case by case, without a shell; test_completion_shells.py types into real ones."""

import json
import os
import subprocess
import sys

import pytest

from retrain.cli import candidates, completion, listings, shell_line
from retrain.cli.commands import COMMANDS
from retrain.cli.main import main
from retrain.config.names import FLAGS
from retrain.config.schema import KEYS
from retrain.errors import ConfigError
from tests.campaign_folder import make_campaign, make_run

CAMPAIGN = """
[defaults]
algorithm = "maxrl"
[campaign]
[[campaign.conditions]]
name = "cold"
[[campaign.conditions]]
transform_mode = "gtpo"
[[campaign.conditions]]
algorithm = "mine"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(os.environ)
    for name in ("mini.toml", "sub/deep.toml", "notes.txt", ".hidden.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "abl.toml").write_text(CAMPAIGN)
    for place in ("conf", "more"):
        path = tmp_path / place / "algorithm" / f"{'mine' if place == 'conf' else 'theirs'}.toml"
        path.parent.mkdir(parents=True)
        path.write_text('# Ours, after Dr. Who. And more.\nadvantage_mode = "rloo"\ntransform_mode = "none"\n')
    yield tmp_path
    os.environ.clear()
    os.environ.update(before)


def offered(line):
    *before, typed = line.split(" ")
    return [one.text for one in candidates.after(before, typed)]


EXACTLY = {
    "expl": ["explain"],
    "--": ["--help", "--version"],
    "mi": ["mini.toml"],
    "sub/": ["sub/deep.toml"],
    "explain ": ["abl.toml", "conf/", "mini.toml", "more/", "sub/"],
    "explain .h": [".hidden.toml"],
    "explain algorithm.adv": ["algorithm.advantage_mode=", "algorithm.advantage_params.", "algorithm.adv_clip_max="],
    "train mini.toml experiment=": ["experiment=demo"],
    "mini.toml algorithm=mi": ["algorithm=mine"],
    "mini.toml +algorithm=mi": ["+algorithm=mine"],
    "mini.toml algorithm=th": [],
    "mini.toml --config-dir more algorithm=th": ["algorithm=theirs"],
    "mini.toml --config-dir=more algorithm=th": ["algorithm=theirs"],
    "mini.toml --config-dir mo": ["more/"],
    "sub/deep.toml algorithm=mi": [],
    "mini.toml algorithm=grpo,mi": ["algorithm=grpo,mine"],
    "mini.toml algorithm=mine,mi": [],
    "eval mini algorithm=grpo,mi": [],
    "mini.toml optimizer.": ["optimizer.beta1=", "optimizer.beta2=", "optimizer.eps="],
    "mini.toml ++optimizer.e": ["++optimizer.eps="],
    "mini.toml optimizer.eps=": [],
    "mini.toml training.lr_schedule=": [f"training.lr_schedule={name}" for name in ("constant", "linear", "cosine")],
    "mini.toml training.shuffle=": ["training.shuffle=true", "training.shuffle=false"],
    "mini.toml planning.detector=": ["planning.detector=regex"],
    "mini.toml model.model=bui": ["model.model=builtin:tiny"],
    "mini.toml backend.opt": ["backend.options."],
    "mini.toml backend.options.": ["backend.options.threads="],
    "mini.toml ~algorithm.": ["~algorithm.advantage_params.", "~algorithm.transform_params."],
    "mini.toml data.path=no": ["data.path=notes.txt"],
    "mini.toml logging.log_dir=su": ["logging.log_dir=sub/"],
    "mini.toml condition=": [],
    "mini.toml cond": [],
    "abl.toml cond": ["condition="],
    "mini.toml hydra": [],
    "mini.toml -m hydra/sw": ["hydra/sweeper=", "hydra/sweeper/sampler="],
    "mini.toml -m hydra/sweeper=": ["hydra/sweeper=basic", "hydra/sweeper=optuna"],
    "mini.toml -m hydra/launcher=sub": ["hydra/launcher=submitit_local", "hydra/launcher=submitit_slurm"],
    "mini.toml -m hydra/sweeper/sampler=": [f"hydra/sweeper/sampler={name}" for name in ("tpe", "random", "grid")],
    "mini.toml -m hydra.sweeper.direction=ma": ["hydra.sweeper.direction=maximize"],
    "mini.toml -m hydra.sweeper.n": ["hydra.sweeper.n_trials=", "hydra.sweeper.n_jobs="],
    "abl.toml campaign.sweeper=o": ["campaign.sweeper=optuna"],
    "abl.toml condition=": ["condition=cold", "condition=maxrl+gtpo", "condition=rloo+none"],
    "abl.toml condition=cold,": ["condition=cold,maxrl+gtpo", "condition=cold,rloo+none"],
    "abl.toml campaign.max_w": ["campaign.max_workers="],
    "abl.toml campaign.baseline=c": ["campaign.baseline=cold"],
    "explain abl.toml condition=c": ["condition=cold"],
    "fetch abl.toml cond": [],
    "mini.toml --lora": ["--lora-rank", "--lora-alpha", "--lora-dropout", "--lora-target-modules"],
    "mini.toml --training-l": ["--training-lr", "--training-lr-schedule"],
    "mini.toml --shuffle ": ["true", "false"],
    "mini.toml --lr 1e-5 --seed": ["--seed"],
    "mini.toml --lr ": [],
    "mini.toml --scale-rewards ": ["none", "group", "batch"],
    "mini.toml --scale-rewards=g": ["--scale-rewards=group"],
    "mini.toml --scale-rewards group --multi": ["--multirun"],
    "mini.toml --multirun --multi": [],
    "fetch mini.toml --multi": [],
    "mini.toml --backend-opt ": ["threads="],
    "mini.toml --ext": ["--extend"],
    "explain mini.toml --a": ["--all", "--advantage-mode", "--advantage-params", "--adv-clip-max", "--adapter-path"],
    "status --all --al": [],
    "init --t": ["--template"],
    "init --template ": ["demo", "quickstart", "campaign", "experiment"],
    "init --output=no": ["--output=notes.txt"],
    "init --list ": [],
    "init-plugin --kind b": ["baseline"],
    "init-plugin --output s": ["sub/"],
    "plugins --kind ba": ["baseline", "backend"],
    "plugins --lr": [],
    "compare --failures ": ["floor"],
    "compare --by training.lr": ["training.lr", "training.lr_schedule"],
    "compare --by training.lr,training.lr": ["training.lr,training.lr_schedule"],
    "man camp": ["campaigns"],
    "man --topic troub": ["troubleshooting"],
    "man --topic=troub": ["--topic=troubleshooting"],
    "debug-batch no": ["notes.txt"],
    "completion ": ["bash", "zsh", "fish"],
    "--lr ": [],
}  # fmt: skip


@pytest.mark.parametrize("line", EXACTLY)
def test_what_may_follow(folder, line):
    found = offered(line)
    if "--shuffle " in line:
        found = found[:2]  # the next argument may also be another one
    assert sorted(found) == sorted(EXACTLY[line])


AMONG = {
    "": ["train", "explain", "man", "mini.toml", "sub/"],
    "explain mini.toml ": ["algorithm=", "algorithm.", "experiment=", "training."],
    "mini.toml --": ["--lr", "--max-steps", "--sepa-steps", "--resume", "--extend", "--config-dir", "--help"],
    "eval builtin:tiny ": ["mini.toml", "data=", "data."],
    "eval ": ["builtin:tiny", "Qwen/Qwen3-0.6B"],
    "man ": ["advantages", "configuration", "sepa"],
    "mini.toml algorithm.advantage_mode=": ["algorithm.advantage_mode=grpo", "algorithm.advantage_mode=maxrl"],
    "mini.toml --loss-type ": ["dapo", "cispo"],
}


@pytest.mark.parametrize("line", AMONG)
def test_what_may_follow_among_others(folder, line):
    assert set(AMONG[line]) <= set(offered(line))


@pytest.fixture
def runs(folder):
    for day in ("2025-06-01", "2025-06-02"):
        make_run(folder / "outputs" / "mini" / day, started=float(day[-2:]))
    make_run(folder / "logs" / "other")
    make_campaign(folder / "outputs" / "abl" / "2025-06-03", {"cold": ["done"]}, seeds=[1], state="done")
    return folder


REFERENCES = {
    "resume ": ["abl", "latest", "mini"],
    "status mini@": ["mini@-1", "mini@-2"],
    "status mini/": ["mini/2025-06-01", "mini/2025-06-02"],
    "status nothing": [],
    "status lo": ["logs/"],
    "status logs/": ["logs/other"],
    "status outputs/": ["outputs/abl/", "outputs/mini/"],
    "status outputs/abl/2025-06-03/": ["outputs/abl/2025-06-03/runs/"],
    "compare abl mi": ["mini"],
    "mini.toml --resume mi": ["mini"],
    "mini.toml --resume ": ["abl", "auto", "latest", "mini"],
    "mini.toml resume.path=mi": ["resume.path=mini"],
    "abl.toml --extend ": ["abl", "latest"],
    "compare abl --metric ev": ["eval/score"],
    "compare mini --metric ": ["eval/score", "reward/mean", "step", "time"],
    "compare --metric ev": ["eval/score"],
}


@pytest.mark.parametrize("line", REFERENCES)
def test_which_runs_may_follow(runs, line):
    assert sorted(offered(line)) == REFERENCES[line]


def test_every_run_that_is_offered_is_found(runs):
    from retrain.references import find_either

    for line in REFERENCES:
        for text in offered(line):
            if line.startswith(("resume ", "status ")) and not text.endswith("/"):
                assert find_either(text).is_dir()
    assert find_either("mini@-1") == find_either("mini") == find_either("mini/2025-06-02")


def test_every_kind_has_a_list_or_is_words_to_choose_from():
    """A kind that is new in `commands` needs a list in `listings.KINDS`, else its own name would be offered."""
    kinds = {kind for command in COMMANDS.values() for kind in (*command.takes, *command.flags.values())}
    parts = {part for kind in kinds | {key.takes for key in KEYS.values()} for part in kind.split("|")}
    assert parts - listings.KINDS.keys() - set(listings.FREE) == {"bash", "zsh", "fish", "floor", "auto"}


def test_every_flag_of_every_command_is_offered(folder):
    for name, command in COMMANDS.items():
        found = {one.text: one.about for one in candidates.after([name], "--")}
        assert {flag for flag in command.flags if flag.startswith("--")} <= found.keys()
        assert not command.composes or FLAGS.keys() & found.keys()
    assert found["--words"].startswith("what the script calls")


def test_candidates_say_what_they_mean(folder):
    def about(line):
        *before, typed = line.split(" ")
        return {one.text: one.about for one in candidates.after(before, typed)}

    assert about("expl")["explain"] == COMMANDS["explain"].summary
    assert about("mini.toml --l")["--lr"] == about("mini.toml training.l")["training.lr="] == KEYS["training.lr"].help
    assert about("mini.toml algorithm=m")["algorithm=mine"] == "Ours, after Dr. Who"
    assert about("status --")["--all"] == "every run, not only the newest 20"
    assert about("eval --")["--checkpoint"] == "RUN's checkpoint of step N"


@pytest.mark.parametrize("text", ["[training", "[campaign]\nseedz = 1", "extends = 'gone.toml'", "[[campaign]]"])
def test_a_toml_that_is_wrong_offers_what_does_not_depend_on_it(folder, text):
    (folder / "abl.toml").write_text(text)
    assert offered("abl.toml condition=") == []
    assert offered("abl.toml algorithm=mi") == ["algorithm=mine"]
    assert offered("abl.toml training.l") == ["training.lr=", "training.lr_schedule="]


# --- the line, and how each shell is told ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "before", "typed", "quote"),
    [
        ("retrain ", [], "", ""),
        ("retrain a  b", ["a"], "b", ""),
        ("HF_HUB_OFFLINE=1 retrain a ", ["a"], "", ""),
        ("retrain 'a b' \"c d", ["a b"], "c d", '"'),
        ("retrain a\\ b c\\", ["a b"], "c", ""),
        ("retrain x='a b", [], "x=a b", "'"),
        ('retrain "a\\"b\\c" \'a\\b\'', ['a"b\\c'], "a\\b", ""),
        ("retrain '' ", [""], "", ""),
    ],
)
def test_a_line_is_read_as_a_shell_reads_it(line, before, typed, quote):
    texts, word = shell_line.arguments(line)
    assert (texts, word.text, word.quote) == (before, typed, quote)


@pytest.mark.parametrize(
    ("typed", "text", "entry"),
    [
        ("mi", "mini.toml", "mini.toml "),
        ("algorithm=ma", "algorithm=maxrl", "maxrl "),
        ("algorithm=", "algorithm=maxrl", "maxrl "),
        ("train", "training.", "training."),
        ("training.l", "training.lr=", "training.lr="),
        ("--model=builtin:t", "--model=builtin:tiny", "tiny "),
        ("mini@", "mini@-2", "@-2 "),
        ("my", "my run.toml", "my\\ run.toml "),
        ("my\\ r", "my run.toml", "my\\ run.toml "),
        ('"my r', "my run.toml", "my run.toml"),
        ("'it", "it's.toml", "it'\\''s.toml"),
        ('x="$', "x=$a`b", "\\$a\\`b"),
        ("'algorithm=ma", "algorithm=maxrl", "algorithm=maxrl"),
        ("~/ru", "~/runs/", "~/runs/"),
        ("é", "é.toml", "é.toml "),
    ],
)
def test_bash_gets_what_stands_after_its_last_word_break(typed, text, entry):
    _, word = shell_line.arguments(f"retrain {typed}")
    assert shell_line.for_bash([shell_line.Candidate(text)], word) == [entry]


def test_bash_without_word_breaks_gets_whole_words():
    _, word = shell_line.arguments("retrain --model=builtin:t")
    found = [shell_line.Candidate("--model=builtin:tiny")]
    assert shell_line.for_bash(found, word, breaks=" \t\n") == ["--model=builtin:tiny "]


def test_zsh_is_told_how_much_of_a_word_need_not_be_listed():
    _, word = shell_line.arguments("retrain algorithm=grpo,ma")
    found = [shell_line.Candidate("algorithm=grpo,maxrl", "rare successes count more")]
    assert shell_line.for_zsh(found, word) == ["15", "maxrl\trare successes count more"]
    _, quoted = shell_line.arguments('retrain algorithm="ma')
    assert shell_line.for_zsh(found, quoted)[0] == "0"


def test_a_long_meaning_is_cut():
    [line] = shell_line.for_fish([shell_line.Candidate("x", "a word " * 40)])
    assert len(line) <= shell_line.WIDEST_ABOUT + 2
    assert line.endswith("a wor…")


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_of_a_shell_calls_the_program_back(shell, capsys):
    assert main(["completion", shell]) == 0
    out, err = capsys.readouterr()
    assert f"completion {shell} --words" in out
    assert err == ""  # it is read by eval at every start of a shell


@pytest.mark.parametrize("arguments", [[], ["tcsh"], ["bash", "zsh"], ["bash", "--wordz"]])
def test_a_shell_that_is_not_known_is_refused(arguments, capsys):
    with pytest.raises(ConfigError):
        completion.main(arguments)
    assert main(["completion", *arguments]) == 2
    assert "completion" in capsys.readouterr().err


LINES = ["", "explain mini.toml algorithm=", "mini.toml algorithm.advantage_mode=", "abl.toml condition=", "man ",
         "mini.toml -m hydra/sweeper=",
         "mini.toml --", "status ", "compare --metric ", "init --template ", "eval "]  # fmt: skip


def test_a_tab_imports_the_standard_library_only(runs):
    program = (
        "import sys, io, json; from retrain.cli import completion\n"
        "for line in json.loads(sys.argv[1]): completion.answer('zsh', 'retrain ' + line)\n"
        "own = {m.partition('.')[0] for m in sys.modules if getattr(sys.modules[m], '__spec__', None)}\n"
        "print(json.dumps(sorted(own - sys.stdlib_module_names - {'retrain'})))"
    )
    command = [sys.executable, "-c", program, json.dumps(LINES)]
    done = subprocess.run(command, cwd=runs, capture_output=True, text=True, timeout=60, check=True)
    assert set(json.loads(done.stdout)) <= {"_distutils_hack", "sitecustomize", "_virtualenv"}  # of the environment
