"""Completions of a run as a researcher sees them: which are chosen, which token has which colour, and what is safe."""

import io
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.cells import cell_len
from rich.console import Console
from tokenizers import Tokenizer

from retrain import tiny
from retrain.cli import rollouts, rollouts_terminal
from retrain.cli.main import main
from retrain.cli.rollouts import Choice
from retrain.store import RunRecord

TOKENIZER = Tokenizer.from_file(str(tiny.path() / "tokenizer.json"))
GREEN, RED, BLUE, NEUTRAL = "48;2;35;134;54", "48;2;201;50;58", "48;2;31;111;235", "48;2;29;33;40"
HARM = "</script><img src=x onerror=alert(1)><!--<script> & \u2028\x1b[31m\u202e"


def row(group, rollout, text, reward, advantages=None, **changes):
    """One completion; every token of the tiny tokenizer is a byte of the text."""
    ids = TOKENIZER.encode(text).ids
    values = {
        "task_id": f"sum-{group}",
        "group": group,
        "rollout": rollout,
        "prompt": f"{group}+1=",
        "completion": text,
        "answer": str(group + 1),
        "token_ids": ids,
        "logprobs": [-0.5] * len(ids),
        "entropies": [0.25] * len(ids),
        "advantages": advantages if advantages is not None else [0.0] * len(ids),
        "reward": reward,
        "reward_parts": json.dumps({} if reward is None else {"correct": reward}),
        "error": "timed out" if reward is None else "",
        "finish_reason": "stop",
        "policy_version": 2,
        "prompt_tokens": 4,
        "uncertainty": [i / len(ids) for i in range(len(ids))],
        "planning": [False] * len(ids),
    }
    return values | changes


ROWS = [
    row(0, 0, "same", 0.0),
    row(0, 1, "same", 0.0),
    row(1, 0, "ab🙂d", 1.0, [2.0, 1.0, 0.5, 9.0, 9.0, 9.0, -4.0], planning=[True, True, *[False] * 5]),
    row(1, 1, HARM, 0.25, prompt=HARM, answer=HARM),
    row(1, 2, "", 0.5),
    row(1, 3, "é", None),
    row(2, 0, "7", 1.0, [-4.0]),
    row(2, 1, "Seven\n8", 0.5, [0.25] * 7),
]


def save(folder, step, rows):
    (folder / "rollouts").mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "rollouts" / f"step-{step}.parquet")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A finished run `mini` with the completions of steps 1, 2 and 4."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    folder = tmp_path / "outputs" / "mini" / "1"
    (folder / "checkpoints" / "step-10").mkdir(parents=True)
    shutil.copy(tiny.path() / "tokenizer.json", folder / "checkpoints" / "step-10")
    RunRecord(name="mini 1", state="done", seed=1, steps_done=4, max_steps=4, started=0.0, ended=9.0).write(folder)
    for step in (1, 2, 4):
        save(folder, step, ROWS)
    return folder


def view(run, rows=None, *, signal=False):
    every, step = rollouts.read(run, None)
    picked = [item for item in every if rows is None or (item["group"], item["rollout"]) in rows]
    return rollouts.look(run, step, every, picked, Choice(), signal=signal)


def terminal(shown, **options):
    stream = io.StringIO()
    options = {"force_terminal": True, "color_system": "truecolor", "width": 100, "no_color": False, **options}
    rollouts_terminal.show(shown, Console(file=stream, highlight=False, **options))
    return stream.getvalue()


# --- colours --------------------------------------------------------------------------------------------------------


def test_tokens_are_green_or_red_by_their_advantage_relative_to_the_largest_of_the_step(run):
    save(run, 5, [row(0, 0, "abc", 1.0, [4.0, -4.0, 0.0]), row(0, 1, "d", 0.0, [-2.0])])
    shown = terminal(view(run, {(0, 0)}))
    for char, colour in (("a", GREEN), ("b", RED), ("c", NEUTRAL)):
        assert f"38;2;230;233;239;{colour}m{char}\x1b[0m" in shown
    save(run, 6, [row(0, 0, "abc", 1.0, [4.0, -4.0, 0.0]), row(0, 1, "d", 0.0, [-400.0])])
    assert f"{GREEN}ma" not in terminal(view(run, {(0, 0)}))


def test_a_split_character_is_shown_once_in_the_colour_of_its_first_token(run):
    """The emoji's four tokens have 0.5, 9, 9, 9: 9 is the step's largest, full green; 0.5 of 9 mixes 24 % of it in."""
    shown = terminal(view(run, {(1, 0)}))
    weight = 0.2 + 0.8 * 0.5 / 9
    mixed = ";".join(str(round(a + weight * (b - a))) for a, b in ((29, 35), (33, 134), (40, 54)))
    assert f"48;2;{mixed}m🙂\x1b[0m" in shown
    assert shown.count("🙂") == 1
    assert f"{GREEN}m🙂" not in shown


def test_planning_tokens_are_underlined(run):
    shown = terminal(view(run, {(1, 0)}))
    assert "\x1b[4;38;2;230;233;239;48;2" in shown
    assert "\x1b[4;38;2" not in terminal(view(run, {(2, 1)}))


def test_the_signal_colours_by_uncertainty_in_one_hue(run):
    """The uncertainties of "ab" are 0 and 1/2, the largest of its step."""
    save(run, 5, [row(0, 0, "ab", 1.0, [4.0, -4.0])])
    shown = terminal(view(run, signal=True))
    assert f"{NEUTRAL}ma\x1b[0m" in shown
    assert f"{BLUE}mb\x1b[0m" in shown
    assert "advantage" not in shown


def test_without_colours_marks_and_numbers_say_the_same(run):
    for options in ({"no_color": True}, {"color_system": None}, {"force_terminal": False, "color_system": None}):
        shown = terminal(view(run, {(1, 0)}), **options)
        assert "«ab»🙂d" in shown
        assert 'by token:  "a" +2  "b" +1  "🙂" +0.5  "d" -4' in shown
    assert 'by token:  "a" 0  "b" 0.143  "🙂" 0.286' in terminal(view(run, {(1, 0)}, signal=True), no_color=True)


def test_lines_are_as_wide_as_the_terminal(run):
    save(run, 5, [row(0, 0, "many words " * 30, 1.0, [i / 7 for i in range(330)])])
    for options in ({}, {"color_system": None}):
        lines = re.sub(r"\x1b\[[\d;]*m", "", terminal(view(run), width=44, **options)).splitlines()
        assert 38 <= max(map(cell_len, lines)) <= 44


# --- the command ----------------------------------------------------------------------------------------------------


def test_a_pipe_gets_plain_text_whatever_a_completion_holds(run, capsys):
    assert main(["rollouts", "mini", "--limit", "8"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert "step 4 · 8 of 8 completions" in out
    assert "␛[31m\\u{202e}" in out
    assert "reward 0.25 (correct 0.25)" in out
    assert "unscorable · timed out · stop · 2 tokens" in out
    assert "rollout 2 · reward 0.5 (correct 0.5) · stop · 0 tokens\n" in out
    assert "rollout 0 · reward 1 (correct 1) · stop · 1 token · advantage -4 on every token\n7\n" in out


def test_no_color_in_the_environment_is_obeyed(run, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    assert main(["rollouts", "mini", "--task", "sum-1"]) == 0
    assert GREEN in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["rollouts", "mini", "--task", "sum-1"]) == 0
    out = capsys.readouterr().out
    assert "48;2;" not in out
    assert "«ab»" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [(1, 0), (1, 1), (2, 0), (2, 1)]),  # the groups whose rewards differ most: by 0.75, by 0.5, by 0
        (["--limit", "5"], [(1, 0), (1, 1), (2, 0), (2, 1), (0, 0)]),
        (["--limit", "7"], [(1, 0), (1, 2), (1, 1), (2, 0), (2, 1), (0, 0), (0, 1)]),
        (["--best", "2"], [(1, 0), (2, 0)]),
        (["--worst", "3"], [(0, 1), (0, 0), (1, 1)]),
        (["--best", "1", "--worst", "9"], [(1, 0), (0, 1), (0, 0), (1, 1), (2, 1), (1, 2), (2, 0)]),
        (["--best", "3", "--limit", "1"], [(1, 0)]),
        (["--task", "sum-2"], [(2, 0), (2, 1)]),
        (["--search", "sEVEN"], [(2, 1)]),
        (["--search", "2+1"], [(2, 0), (2, 1)]),
        (["--search", "e", "--best", "1"], [(2, 1)]),
    ],
)
def test_the_chosen_completions_are_those_asked_for(run, arguments, expected):
    every, _ = rollouts.read(run, 4)
    flags, _ = rollouts.parse("rollouts", arguments)
    choice, _ = rollouts.wanted(flags, ["mini"])
    chosen = rollouts.choose(every, choice, rollouts.ON_A_TERMINAL)
    assert [(item["group"], item["rollout"]) for item in chosen] == expected


def test_json_holds_every_column_of_every_completion_under_documented_names(run, capsys):
    nan = float("nan")
    save(run, 5, [*ROWS, row(3, 0, "x", nan, [nan], reward_parts='{"correct": NaN}', uncertainty=None)])
    assert main(["rollouts", "mini", "--json"]) == 0
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (document["run"], document["step"], len(document["completions"])) == ("outputs/mini/1", 5, 9)
    assert document["completions"][:8] == [r | {"reward_parts": json.loads(r["reward_parts"])} for r in ROWS]
    last = document["completions"][8]
    assert (last["reward"], last["advantages"], last["reward_parts"]) == (None, [None], {"correct": None})


def test_json_is_as_selective_as_the_terminal(run, capsys):
    assert main(["rollouts", "mini", "--json", "--step", "2", "--search", "nowhere"]) == 0
    assert json.loads(capsys.readouterr().out) == {"run": "outputs/mini/1", "step": 2, "completions": []}
    assert main(["rollouts", "mini", "--json", "--best", "1"]) == 0
    assert [item["completion"] for item in json.loads(capsys.readouterr().out)["completions"]] == ["ab🙂d"]


def test_a_search_without_a_hit_says_so_and_shows_nothing(run, capsys):
    assert main(["rollouts", "mini", "--search", "nowhere"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert 'no completion of step 4 has "nowhere"' in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--step", "3"], "no completions of step 3; it has those of steps 1-2, 4"),
        (["--step", "0"], "--step takes a whole number from 1 on"),
        (["--best", "-1"], '--best takes a whole number from 1 on, got "-1"'),
        (["--worst", "x"], "--worst takes"),
        (["--limit", "²"], "--limit takes"),
        (["--task", "sum-9"], 'did you mean "sum-'),
        (["--bset", "1"], "did you mean --best"),
        (["mini"], "takes one RUN, got 2"),
        (["--json", "--html", "x.html"], "two outputs"),
        (["--json", "--signal"], "--signal chooses a colour"),
        (["--html", "nowhere/x.html"], "nowhere/x.html cannot be written: No such file or directory"),
    ],
)
def test_wrong_input_is_named_with_exit_code_2(run, capsys, arguments, message):
    assert main(["rollouts", "mini", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_a_run_without_completions_says_why(run, capsys):
    shutil.rmtree(run / "rollouts")
    assert main(["rollouts", "mini"]) == 2
    assert "has no completions yet" in capsys.readouterr().err
    (run / "config.toml").write_text('[logging]\nkeep_rollouts = "none"\n')
    assert main(["rollouts", "mini"]) == 2
    assert 'logging.keep_rollouts = "none"' in capsys.readouterr().err


def test_a_damaged_file_is_an_error_that_names_it(run, capsys):
    (run / "rollouts" / "step-5.parquet").write_text("not parquet")
    assert main(["rollouts", "mini"]) == 2
    assert "step-5.parquet cannot be read" in capsys.readouterr().err


def test_a_file_of_an_older_version_is_shown_without_what_it_lacks(run, capsys):
    older = [{key: value for key, value in item.items() if key not in rollouts.LATER_COLUMNS} for item in ROWS]
    save(run, 5, older)
    assert main(["rollouts", "mini"]) == 0
    assert "planning tokens are not on file" in capsys.readouterr().out
    assert main(["rollouts", "mini", "--signal"]) == 2
    assert 'step-5.parquet has no column "uncertainty"' in capsys.readouterr().err


def test_without_a_tokenizer_the_text_is_shown_uncoloured_with_the_reason(run, capsys):
    shutil.rmtree(run / "checkpoints")
    assert main(["rollouts", "mini", "--best", "1"]) == 0
    out = capsys.readouterr().out
    assert "ab🙂d\n" in out
    assert "tokens have no colour: no tokenizer.json" in out
    assert "by token:" not in out
    assert NEUTRAL in terminal(view(run))
    assert main(["rollouts", "mini", "--html", "page.html"]) == 0


def test_neither_torch_nor_transformers_is_imported(run):
    program = (
        "import sys; from retrain.cli.main import main; assert main(sys.argv[1:]) == 0;"
        "assert not [m for m in ('torch', 'transformers', 'trl', 'mlflow') if m in sys.modules]"
    )
    for arguments in ([], ["--html", "page.html"], ["--json"]):
        command = [sys.executable, "-c", program, "rollouts", "mini", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


def test_without_pyarrow_the_command_says_what_to_install(run, monkeypatch, capsys):
    monkeypatch.setattr(rollouts, "find_spec", lambda name: None)
    assert main(["rollouts", "mini"]) == 2
    assert 'pip install "retrain[local]"' in capsys.readouterr().err


# --- the page -------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """What a browser makes of a page: its tags, and the text of its JSON script."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.data, self.inside = [], [], "", False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = ("type", "application/json") in attrs

    def handle_data(self, data):
        if self.inside:
            self.data += data
            self.inside = False


def test_the_page_holds_its_data_and_nothing_of_a_completion_becomes_html(run, capsys):
    assert main(["rollouts", "mini", "--html", "page.html", "--signal"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == ("", "wrote page.html: 8 of 8 completions of step 4\n")
    page = (run.parents[2] / "page.html").read_text(encoding="utf-8")
    found = Elements(page)
    assert found.tags.count("script") == 2
    assert "img" not in found.tags
    assert not {"src", "href", "onerror"} & {name for name, _ in found.attributes}
    assert "http" not in page.replace("http-equiv", "")
    document = json.loads(found.data)
    assert document["signal"] is True
    by_place = {(item["group"], item["rollout"]): item for item in document["completions"]}
    for text in (by_place[1, 1]["prompt"], by_place[1, 1]["answer"], "".join(by_place[1, 1]["pieces"])):
        assert text == "</script><img src=x onerror=alert(1)><!--<script> & \\u{2028}␛[31m\\u{202e}"
    emoji = by_place[1, 0]
    assert list(zip(emoji["pieces"], emoji["first"], strict=True)) == [("a", 0), ("b", 1), ("🙂", 2), ("d", 6)]
    assert emoji["advantages"] == [2.0, 1.0, 0.5, 9.0, 9.0, 9.0, -4.0]
    longest = len(HARM.encode())  # its last token has the largest uncertainty; of < 100 values it is the percentile
    assert document["top"] == {"advantage": 9.0, "uncertainty": pytest.approx((longest - 1) / longest, rel=1e-3)}
    assert (by_place[1, 3]["reward"], by_place[1, 2]["pieces"]) == (None, [])


def test_the_name_of_a_run_cannot_break_the_page(run):
    renamed = run.with_name("<b>&__DATA__")
    run.rename(renamed)
    assert main(["rollouts", str(renamed), "--html", "page.html"]) == 0
    found = Elements((renamed.parents[2] / "page.html").read_text(encoding="utf-8"))
    assert "b" not in found.tags
    assert json.loads(found.data)["run"] == "outputs/mini/<b>&__DATA__"
