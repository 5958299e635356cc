"""What a person sees who opens a campaign: a real server and a real browser."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from retrain.tracking.address import serve
from retrain.tracking.campaigns import sync_campaign
from tests.tracking.campaign import Campaign
from tests.tracking.chromium import CURVES, Chromium, installed
from tests.tracking.training import line_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(installed() is None, reason="no Chromium here to open the page with"),
]


def test_the_campaigns_page_shows_the_grouped_curves_of_all_its_runs_and_of_no_others(tmp_path: Path):
    """A line is the mean over seeds. Twelve runs: MLflow's own page would draw ten."""
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    other = Campaign(tmp_path / "before" / "abl", store, ["z"], [1])
    other.begin("z_s1").steps(1, 5).end()
    campaign = Campaign(tmp_path / "abl", store, ["a", "b+c", "d"], [1, 2, 3, 4])
    for offset, entry in enumerate(campaign.values["runs"]):
        training = campaign.begin(entry["name"])
        training.attempt = offset  # each run measures something else
        training.steps(1, 20).end()
        campaign.mark(entry["name"], state="done", ended=training.record.ended)
    campaign.end()
    for one in (other.end(), campaign):
        sync_campaign(one.dir, print)
    with serve(campaign.dir) as address, Chromium(height=2600) as page:
        page.open(address)
        page.wait_for("document.querySelectorAll('.js-plotly-plot').length", lambda count: count >= 4)
        page.settle()
        charts, text = {chart["title"]: chart for chart in page.evaluate(CURVES)}, page.text()
    assert {"reward/correct_rate", "reward/mean", "completion/length_mean", "entropy/mean"} <= charts.keys()
    assert "completion/length_max" not in charts, "it is hidden in the view"
    for key, chart in charts.items():
        means = {
            tuple(round(fmean(line_of(step, 4 * label + seed)[key] for seed in range(4)), 9) for step in range(1, 21))
            for label in range(3)
        }
        assert {tuple(round(y, 9) for y in line["y"]) for line in chart["lines"]} == means, key
        assert all(line["x"] == list(range(1, 21)) for line in chart["lines"])
        assert chart["bands"] == 3
    for entry in campaign.values["runs"]:
        assert entry["name"] in text
    assert "z_s1" not in text
    assert "Group by: condition" in text
    order = [text.index(f"\n{section}\n") for section in ("reward", "completion", "entropy")]
    assert order == sorted(order)
