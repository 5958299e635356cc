"""TAB in bash, zsh and fish, each a real shell in a pty. What it offers is in test_completion.py, case by case."""

import pytest

from tests.campaign_folder import make_campaign, make_run
from tests.cli.shells import SHELLS, TAB, Shell, installed

CAMPAIGN = """
[model]
model = "builtin:tiny"
[campaign]
[[campaign.conditions]]
name = "cold"
[[campaign.conditions]]
advantage_mode = "rloo"
"""


@pytest.fixture(scope="module", params=SHELLS)
def shell(request, tmp_path_factory):
    if not installed(request.param):
        pytest.skip(f"{request.param} is not installed")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "mini.toml").write_text('[model]\nmodel = "builtin:tiny"\n')
    (folder / "abl.toml").write_text(CAMPAIGN)
    (folder / "my run.toml").write_text("")
    (folder / "it's $5.toml").write_text("")
    (folder / "sub").mkdir()
    (folder / "sub" / "deep.toml").write_text("")
    mine = folder / "conf" / "algorithm" / "zz_mine.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text('advantage_mode = "rloo"\ntransform_mode = "none"\n')
    make_run(folder / "outputs" / "first" / "2025-06-01_12-00-00")
    make_run(folder / "outputs" / "first" / "2025-06-02_12-00-00")
    make_campaign(folder / "outputs" / "big" / "2025-06-03_12-00-00", {"cold": ["done"]}, seeds=[1], state="done")
    started = Shell(request.param, folder)
    yield started
    started.close()


COMPLETED = {
    "a command": ("expl\t", ["explain"]),
    "a TOML": ("mi\t", ["mini.toml"]),
    "a folder, and the TOML in it": ("explain su\td\t", ["explain", "sub/deep.toml"]),
    "a blank in a name": ("my\tx=1", ["my run.toml", "x=1"]),
    "a quote and a dollar in a name": ("it\tx=1", ["it's $5.toml", "x=1"]),
    "a name in double quotes": ('"my\t', ["my run.toml"]),
    "a name after a backslash": ("my\\ r\tx=1", ["my run.toml", "x=1"]),
    "a group": ("mini.toml experi\tdem\t", ["mini.toml", "experiment=demo"]),
    "a group file": ("mini.toml algorithm=maxrl_gtpo_h\tx=1", ["mini.toml", "algorithm=maxrl_gtpo_hicra", "x=1"]),
    "a group file of one's own": ("mini.toml algorithm=zz\t", ["mini.toml", "algorithm=zz_mine"]),
    "a quoted value": ('mini.toml algorithm="zz\t', ["mini.toml", "algorithm=zz_mine"]),
    "a quoted word": ("mini.toml 'algorithm=zz\t", ["mini.toml", "algorithm=zz_mine"]),
    "a key, and its value without a blank": ("mini.toml training.shuf\tf\t", ["mini.toml", "training.shuffle=false"]),
    "a quoted key": ('mini.toml "training.shuf\tf\t', ["mini.toml", "training.shuffle=false"]),
    "a name of the registry": (
        "mini.toml algorithm.advantage_mode=ma\t",
        ["mini.toml", "algorithm.advantage_mode=maxrl"],
    ),
    "a sweep": ("mini.toml -m algorithm=grpo,zz\t", ["mini.toml", "-m", "algorithm=grpo,zz_mine"]),
    "a condition": ("abl.toml cond\trl\t", ["abl.toml", "condition=rloo+none"]),
    "a flag": ("mini.toml --sepa-st\t7", ["mini.toml", "--sepa-steps", "7"]),
    "a flag's value": ("mini.toml --model builtin:\t", ["mini.toml", "--model", "builtin:tiny"]),
    "a flag's value behind =": ("mini.toml --loss-type=ci\t", ["mini.toml", "--loss-type=cispo"]),
    "a command's own flag": ("status --wa\t", ["status", "--watch"]),
    "a topic": ("man troub\t", ["man", "troubleshooting"]),
    "a run": ("resume fi\t", ["resume", "first"]),
    "the run before the latest": ("rollouts first@-2\t", ["rollouts", "first@-2"]),
    "a run by its path": ("status outputs/fi\t2025-06-01\t", ["status", "outputs/first/2025-06-01_12-00-00"]),
    "a file": ("compare big --html sub/de\t", ["compare", "big", "--html", "sub/deep.toml"]),
    "nothing": ("mini.toml nothing_like_this\t", ["mini.toml", "nothing_like_this"]),
}


@pytest.mark.parametrize("what", COMPLETED)
def test_tab_completes(shell, what):
    typed, arguments = COMPLETED[what]
    assert shell.run(f"retrain {typed}") == arguments


@pytest.mark.parametrize("start", ["bin/retrain", "~/bin/retrain", "X=1 retrain", "cd . && retrain", "true; retrain"])
def test_tab_completes_however_the_program_is_called(shell, start):
    assert shell.run(f"{start} expl\tmi\t") == ["explain", "mini.toml"]


LISTED = {
    "commands and TOMLs": ("", ["explain", "debug-batch", "mini.toml", "sub/"]),
    "groups and sections": ("mini.toml ", ["algorithm=", "experiment=", "training.", "optimizer."]),
    "group files": ("mini.toml algorithm=", ["reinforce_pp", "rloo", "zz_mine"]),
    "flags": ("mini.toml --max-", ["--max-steps", "--max-tokens", "--max-grad-norm"]),
    "topics": ("man ", ["advantages", "campaigns", "sepa"]),
    "runs": ("status ", ["first", "big", "latest"]),
}


@pytest.mark.parametrize("what", LISTED)
def test_tab_lists(shell, what):
    typed, expected = LISTED[what]
    shell.shows(f"retrain {typed}{TAB}{TAB}", expected)


def test_zsh_and_fish_say_what_a_candidate_means(shell):
    if shell.name == "bash":
        pytest.skip("bash shows no meanings")
    shell.shows(f"retrain mini.toml training.l{TAB}{TAB}", ["learning rate of AdamW", "after the warm-up"])
    shell.shows(f"retrain sta{TAB}{TAB} --{TAB}{TAB}", ["every run, not only the newest 20"])
