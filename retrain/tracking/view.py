"""The saved views of the runs page: our charts in reading order, each stored as one tag of the experiment.

One view shows every run as a line of its own; each campaign has its own, grouped by condition: the mean over seeds as
a line, smallest to largest as a band.

MLflow 3.15 and later list tags named ``mlflow.sharedViewState.<id>`` under *Views*; ``?viewStateShareKey=<id>`` opens
one. The tag holds {name, createdAt, updatedAt, state}; `state` is JSON, deflated and base64-encoded behind "deflate;".
The format is MLflow's own and not documented: it lives here only, and a test looks for it in the installed MLflow.
"""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from typing import Any

TAG = "mlflow.sharedViewState."
VIEW = "retrain"  # the view of an experiment's single runs
TAG_LIMIT = 5000  # characters that every server takes; 3.17 takes 20 000
RUNS = "tags.`retrain.kind` = 'run'"

# section → metric keys, in the order in which a researcher reads them
SECTIONS = {
    "eval": ["eval/score", "eval/gap", "eval/pass_at_1", "eval/length_mean", "eval/truncated_rate"],
    "reward": ["reward/correct_rate", "reward/mean", "reward/std", "reward/unscorable", "reward/errors"],
    "completion": ["completion/length_mean", "completion/truncated_rate"],
    "entropy": ["entropy/mean"],
    "groups": ["groups/informative", "groups/all_correct", "groups/all_wrong"],
    "policy": ["policy/grad_norm", "policy/loss", "policy/clip_share", "policy/kl"],
    "ratio": ["ratio/p99", "ratio/outside"],
    "time": ["time/total", "time/generate", "time/train", "time/score"],
    "tokens": ["tokens/generated", "tokens/trained"],
}
HIDDEN = [
    "policy/lr",
    "completion/length_max",
    "ratio/p50",
    "ratio/p95",
    "advantage/max_abs",
    "final/correct_rate",
    "final/reward",
    "final/held_out",
    "final/test",
    "eval/score_se",
    "eval/pass_at_1_se",
]
OPEN_SECTIONS = {"eval", "reward", "completion", "entropy", "groups"}
COLUMNS = [
    "tags.`condition`",
    "tags.`seed`",
    "metrics.`final/held_out`",
    "metrics.`final/correct_rate`",
    "metrics.`reward/correct_rate`",
    "metrics.`completion/length_mean`",
    "metrics.`entropy/mean`",
    "attributes.`Duration`",
]


BY_CONDITION = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": "condition"}]}


def view_state(search_filter: str = RUNS, *, grouped: bool = False) -> dict[str, Any]:
    """The page's state: which runs, which columns, which charts, and whether a line is a run or a condition."""
    charts = [_chart(key) for keys in SECTIONS.values() for key in keys] + [_chart(key, deleted=True) for key in HIDDEN]
    return {
        "searchFilter": search_filter,
        "orderByKey": "attributes.start_time",
        "orderByAsc": grouped,  # conditions as they were started, but the newest of single runs first
        "groupBy": BY_CONDITION if grouped else None,
        "useGroupedValuesInCharts": grouped,
        "selectedColumns": COLUMNS,
        "runsHiddenMode": "SHOW_ALL",
        "compareRunCharts": charts,
        "compareRunSections": [_section(name) for name in SECTIONS],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _section(name: str) -> dict[str, Any]:
    shown = name in OPEN_SECTIONS
    fixed = {"isReordered": True, "deleted": False, "isGenerated": True}
    return {"uuid": f"retrain-{name}", "name": name, "display": shown, **fixed}


def _chart(key: str, *, deleted: bool = False) -> dict[str, Any]:
    section, _, name = key.rpartition("/")
    return {
        "type": "LINE",
        "uuid": f"retrain-{key}",
        "metricSectionId": f"retrain-{section}",
        "isGenerated": True,
        "deleted": deleted,
        "metricKey": key,
        "displayName": name,
        "lineSmoothness": 0,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "range": {},
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def packed(state: dict[str, Any]) -> str:
    """A state as the tag holds it."""
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()


def save_view(client: Any, experiment: Any) -> None:
    """Store the view of an experiment's runs, unless it is there as it is now."""
    _save(client, experiment, VIEW, VIEW, view_state())


def save_campaign_view(client: Any, experiment: Any, campaign: str, parent_id: str) -> None:
    """Store the view of a campaign's runs, and of no other campaign's by the same name."""
    children = f"tags.`mlflow.parentRunId` = '{parent_id}' AND {RUNS}"
    _save(client, experiment, campaign_view(campaign, parent_id), campaign, view_state(children, grouped=True))


def campaign_view(campaign: str, parent_id: str) -> str:
    """Id of a campaign's view; two campaigns may have one name.

    >>> campaign_view("my study", "0123456789abcdef")
    'my-study-01234567'
    """
    return f"{re.sub(r'[^A-Za-z0-9_-]', '-', campaign)[:100]}-{parent_id[:8]}"


def _save(client: Any, experiment: Any, view: str, name: str, state: dict[str, Any]) -> None:
    there = json.loads(experiment.tags.get(TAG + view, "{}"))
    if there.get("state") == packed(state):
        return
    now = int(time.time() * 1000)
    saved = {"name": name, "createdAt": there.get("createdAt", now), "updatedAt": now, "state": packed(state)}
    value = json.dumps(saved)
    assert len(value) <= TAG_LIMIT, f"the view takes {len(value)} characters, an experiment tag holds {TAG_LIMIT}"
    client.set_experiment_tag(experiment.experiment_id, TAG + view, value)


def experiment_page(server: str, experiment_id: str, view: str = VIEW) -> str:
    """Address of a view's charts. With a filter or an order in it, MLflow would ignore the view."""
    query = f"viewStateShareKey={view}&compareRunsMode=CHART&workflowType=machine_learning"
    return f"{server}/#/experiments/{experiment_id}/runs?{query}"


def run_page(server: str, experiment_id: str, run_id: str) -> str:
    """Address of the curves of one run."""
    return f"{server}/#/experiments/{experiment_id}/runs/{run_id}/model-metrics"
