"""The report: one page that needs nothing else, and the numbers for other programs."""

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from retrain import compare, report
from retrain.report import FILES, latex, moment, number, pvalue, signed
from tests.made_runs import many, write_campaign
from tests.test_crossed import campaign, luck

VOID = {"meta", "br"}  # SVG elements without content end in />


class Page(HTMLParser):
    """A page as its tags are nested: fails where they are not, and gathers text by table and by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.words: dict[str, list[str]] = {}
        self.table = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.table = dict(attrs).get("id") or ""
        if tag == "tr":
            self.tables.setdefault(self.table, []).append([])
        if tag in ("td", "th"):
            self.tables[self.table][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.words.setdefault(self.open[-1], []).append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[self.table][-1][-1] += data


def written(root: Path, scores, **options) -> Page:
    report.write(write_campaign(root, scores, **options))
    return Page((root / "report.html").read_text(encoding="utf-8"))


def test_the_verdict_comes_first_and_every_part_is_there(tmp_path):
    page = written(tmp_path, many(3, 5), min_effect=0.01)
    assert page.words["p"][0].startswith("Is any of 2 conditions better than grpo+none in eval/score at the last step?")
    assert page.words["p"][1] == compare.headline(tmp_path)
    assert page.words["h2"] == [
        "Verdicts", "Each seed", "Differences to grpo+none", "Learning curves", "Who is ahead of whom",
        "Secondary measures", "Config differences", "Runs", "Methods", "Again",
    ]  # fmt: skip
    assert "retrain abl.toml" in "".join(page.words["pre"])


def test_the_page_asks_for_nothing_from_outside_and_runs_no_script(tmp_path):
    page = written(tmp_path, many(2, 4))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=|url\(|@import|https?://""", text)


def test_every_seed_is_a_dot_and_every_condition_a_curve_with_its_band(tmp_path):
    page = written(tmp_path, many(3, 5))
    dots = [attributes for tag, attributes in page.tags if tag == "circle" and attributes["r"] == "3.5"]
    assert len(dots) == 15
    curves = sum(tag == "polyline" for tag, _ in page.tags)
    assert curves == sum(tag == "polygon" for tag, _ in page.tags) == 3 * 4  # four metrics are on file
    drawn = [attributes["points"] for tag, attributes in page.tags if tag in ("polygon", "polyline")]
    for there_and_back, mean in zip(drawn[::2], drawn[1::2], strict=True):
        assert len(there_and_back.split()) == 2 * len(mean.split())
        assert re.fullmatch(r"(-?\d+\.\d,-?\d+\.\d ?)+", f"{there_and_back} {mean}")


def test_the_tables_hold_what_compare_found(tmp_path):
    page = written(tmp_path, many(3, 5))
    found = compare.judge(compare.load([tmp_path]))
    for row, c in zip(page.tables["verdicts"][2:], found.comparisons, strict=True):
        assert row[0] == c.label
        assert row[4:7] == [signed(c.difference), f"{signed(c.low)} to {signed(c.high)}", pvalue(c.p_holm)]
        assert row[-1] == c.verdict
    matrix = [row[1:] for row in page.tables["improvement"][1:]]
    for i in range(3):
        for j in range(3):
            assert (
                matrix[i][j] == "–"
                if i == j
                else float(matrix[i][j]) + float(matrix[j][i]) == pytest.approx(1, abs=0.011)
            )
    assert page.tables["config"][1] == ["algorithm.advantage_mode", '"mode0"', '"mode1"', '"mode2"']


def test_unfinished_and_failed_runs_are_listed_and_nothing_is_claimed(tmp_path):
    scores = {"a": {1: 0.5, 2: "running", 3: "planned"}, "b": {1: "failed", 2: "interrupted", 3: "skipped"}}
    page = written(tmp_path, scores)
    states = {(row[0], row[1]): (row[2], row[-1]) for row in page.tables["runs"][1:]}
    assert states["b", "1"] == ("failed", "boom <b>")
    assert [states["a", s][0] for s in "123"] == ["done", "running", "planned"]
    assert page.words["p"][1].startswith("No verdict: 4 of 6 planned runs are not finished")


def test_a_campaign_that_has_just_begun_has_a_report(tmp_path):
    page = written(tmp_path, {"a": dict.fromkeys(range(4), "planned"), "b": dict.fromkeys(range(4), "planned")})
    assert len(page.tables["runs"]) == 9
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == sorted([*FILES, "manifest.json"])


def test_one_condition_has_a_report_that_says_why_there_is_no_verdict(tmp_path):
    page = written(tmp_path, {"a": {1: 0.5}})
    assert "nothing to compare it with" in "".join(page.words["p"])


def test_names_from_outside_are_text_and_no_markup(tmp_path):
    page = written(tmp_path, {"a": {1: 0.5}, "<script>x</script>": {1: 0.6}})
    assert page.tables["verdicts"][2][0] == "<script>x</script>"
    assert "script" not in {tag for tag, _ in page.tags}


def test_looks_before_the_end_are_in_the_page_and_in_the_methods(tmp_path):
    root = write_campaign(tmp_path, many(2, 4))
    (root / "looks.jsonl").write_text('{"time": 5.0, "done": 3, "planned": 8}\n{"time": 9.0, "don')
    report.write(root)
    text = (root / "report.html").read_text(encoding="utf-8")
    assert "looked at once before" in text
    assert f"{moment(5.0)} (3 runs done)" in text


def test_methods_state_what_was_done(tmp_path):
    verdicts = compare.judge(compare.load([write_campaign(tmp_path, many(5, 8), min_effect=0.02)], floor=True))
    said = report.methods(verdicts)
    for part in ("40 runs were planned; 40 finished and 0 were lost", "eval/score at the planned last step",
                 "4 conditions were compared with grpo+none by paired t-tests on the 8 common seeds", "Holm",
                 "98.75% each", "0.02 was declared to matter", "Lost runs count with the lowest value",
                 "were not resampled"):  # fmt: skip
        assert part in said


def test_forty_runs_of_200_steps_take_under_300_kb(tmp_path):
    root = write_campaign(tmp_path, many(5, 8), steps=200)
    report.write(root)
    assert (root / "report.html").stat().st_size < 300_000


def test_where_runs_kept_their_answers_every_form_shows_the_interval_for_other_problems_too(tmp_path):
    campaign(tmp_path, dict.fromkeys("abc", range(1, 6)), luck)
    report.write(tmp_path)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    found = compare.judge(compare.load([tmp_path]))
    assert page.tables["verdicts"][0][6] == "other problems too"
    for row, c in zip(page.tables["verdicts"][2:], found.comparisons, strict=True):
        assert row[6] == f"{signed(c.problems_low)} to {signed(c.problems_high)}"
        assert row[-1] == c.verdict
    assert {len(row) for row in page.tables["verdicts"]} == {10}
    assert sum(attributes.get("class") == "wider" for _, attributes in page.tags) == 2
    assert "All runs answered the same 40 evaluation problems." in "".join(page.words["p"])
    rows = [line for line in (tmp_path / "results.tex").read_text(encoding="utf-8").splitlines() if "&" in line]
    assert {row.count("&") for row in rows} == {8}
    assert "other problems too" in rows[0]
    document = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert document["comparisons"][0]["problems_low"] == found.comparisons[0].problems_low


def test_the_time_at_work_is_told_apart_from_the_time_since_the_start(tmp_path):
    manifest = json.loads((write_campaign(tmp_path, many(2, 4)) / "manifest.json").read_text())
    times = {"created": 0.0, "opened": 36_000.0, "ended": 39_600.0, "active_seconds": 7200.0}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | times))
    said = report.cost(compare.load([tmp_path]))
    assert said.endswith("; the campaign was at work for 3 hours, 11 from start to end")


# --- for other programs -----------------------------------------------------------------------------------------------


def test_the_csv_has_a_line_for_each_run_with_its_value(tmp_path):
    scores = many(2, 4) | {"late": {1: "planned", 2: "failed", 3: 0.25, 4: 0.5}}
    written(tmp_path, scores)
    with (tmp_path / "results.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    values = {(row["condition"], int(row["seed"])): row["value"] for row in rows}
    assert values == {
        (label, s): "" if isinstance(v, str) else str(v) for label, by in scores.items() for s, v in by.items()
    }


def test_the_json_is_the_document_of_compare(tmp_path):
    written(tmp_path, many(2, 4))
    document = compare.document(compare.judge(compare.load([tmp_path])))
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == json.loads(json.dumps(document))


def test_the_latex_table_is_even_and_escaped(tmp_path):
    written(tmp_path, {"50%_&#": {s: 0.5 + s / 50 for s in range(5)}, "b": {s: 0.9 + s / 100 for s in range(5)}})
    text = (tmp_path / "results.tex").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {7}
    assert r"50\%\_\&\#" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert "−" not in text.partition("\n")[2]


@pytest.mark.parametrize(
    ("form", "value", "said"),
    [
        (number, 0.12345, "0.123"), (number, 0.00012, "0.00012"), (number, float("nan"), "–"), (number, 0.0, "0.000"),
        (signed, -0.5, "−0.500"), (signed, 2.2e-308, "0"), (pvalue, 1e-9, "<0.0001"), (pvalue, 0.0431, "0.043"),
        (latex, "a_b^c\\", r"a\_b\textasciicircum{}c\textbackslash{}"),
    ],
)  # fmt: skip
def test_numbers_and_names_are_written_to_be_read(form, value, said):
    assert form(value) == said
