"""Makes the view that `septet ui` opens: ensemble and members beside each other, one chart a metric. Pure.

MLflow keeps saved views as tags of the experiment. Their form is internal (that of 3.17.2), so nothing else depends on
it: where MLflow does not understand the tag, it shows its usual page.
"""

import base64
import json
import zlib
from collections.abc import Iterable

# Asks MLflow for its pages of training, not for those of chat bots.
TRAINING_PAGES = "workflowType=machine_learning"
# What people look at, first to last; a metric that is not here gets a chart from MLflow.
_BARS = ("test/top1_error", "test/top5_error", "test/nll", "val/top1_error")
_LINES = (
    *("val/top1_error", "dev/top1_error", "by_members/test_top1_error", "by_members/val_top1_error"),
    *("train/loss", "train/top1_error", "lr", "images_per_second", "data_wait"),
)
# The same values as under the new names; shown by neither.
_OLD = tuple(
    f"{group}/{name}"
    for group in ("ensemble", "final")
    for name in ("top1_error", "top5_error", "nll", "ece", "disagreement")
)
_SECTIONS = ("test", "val", "dev", "by_members", "train", "Model metrics", "System metrics")
_MOST_COLUMNS = 8


def view_tag(key: str) -> str:
    """Returns the name of the experiment's tag that MLflow opens by `?viewStateShareKey=<key>`."""
    return f"mlflow.sharedViewState.{key}"


def make_view(name: str, run: str, params: Iterable[str], time_ms: int) -> str:
    """Returns the value of the tag: the view `name`, made at `time_ms`, of the runs whose `septet.run` is `run`.

    `params` become columns, the first ones if there are many.
    """
    columns = ["attributes.`Dataset`", *(f"metrics.`{metric}`" for metric in ("val/top1_error", "test/top1_error"))]
    columns += [f"params.`{param}`" for param in list(params)[:_MOST_COLUMNS]]
    charts = [*(_chart(metric, "BAR") for metric in _BARS), *(_chart(metric, "LINE") for metric in _LINES)]
    charts += [{**_chart(metric, "BAR"), "deleted": True} for metric in _OLD]
    state = {
        "searchFilter": f"tags.`septet.run` = '{run}' and tags.`septet.role` != 'stage'",
        # By time, MLflow would hide members below the ensemble.
        "orderByKey": "metrics.`test/top1_error`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts,
        "compareRunSections": [{"uuid": one, "name": one, "display": True, "isReordered": True} for one in _SECTIONS],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "autoRefreshEnabled": True,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": name, "createdAt": time_ms, "state": f"deflate;{packed}"})


def _chart(metric: str, kind: str) -> dict[str, object]:
    group = metric.rpartition("/")[0]
    return {
        "uuid": f"{kind} {metric}",
        "type": kind,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "metricSectionId": group if group in _SECTIONS else "Model metrics",
        "deleted": False,
        "isGenerated": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
    }
