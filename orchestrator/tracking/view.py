"""Makes the view that `septet ui` opens: ensemble and members beside each other, one chart a metric. Pure.

MLflow keeps saved views as tags of the experiment, in an internal form (that of 3.17.2) on which nothing else depends.
"""

import base64
import json
import zlib
from collections.abc import Iterable

# MLflow opens the view in the experiment's tag `VIEW_TAG` + key by `?viewStateShareKey=<key>`.
VIEW_TAG = "mlflow.sharedViewState."
# Asks MLflow for its pages of training, not for those of chat bots.
TRAINING_PAGES = "workflowType=machine_learning"
# MLflow makes a chart of each other metric, in the section of its name. These come first; the others are hidden: they
# have the same values as under the new names.
_FIRST = (("test/top1_error", "BAR"), ("val/top1_error", "BAR"), ("val/top1_error", "LINE"))
_OLD = [f"{group}/{name}" for group in ("ensemble", "final") for name in ("top1_error", "top5_error", "nll", "ece")]
_SECTIONS = ("test", "val", "dev", "by_members", "train", "Model metrics", "System metrics")


def make_view(name: str, run: str, params: Iterable[str], time_ms: int) -> str:
    """Returns the value of the tag: the view `name`, made at `time_ms`, of the runs whose `septet.run` is `run`.

    The first eight `params` become columns.
    """
    columns = ["attributes.`Dataset`", "metrics.`val/top1_error`", "metrics.`test/top1_error`"]
    charts = [{**_chart(metric, kind), "deleted": False} for metric, kind in _FIRST]
    state = {
        "searchFilter": f"tags.`septet.run` = '{run}' and tags.`septet.role` != 'stage'",
        # By time, MLflow would hide members below the ensemble.
        "orderByKey": "metrics.`test/top1_error`",
        "orderByAsc": True,
        "selectedColumns": columns + [f"params.`{param}`" for param in list(params)[:8]],
        "runsHiddenMode": "FIRST_20_RUNS",
        "compareRunCharts": charts + [{**_chart(metric, "BAR"), "deleted": True} for metric in _OLD],
        "compareRunSections": [{"uuid": one, "name": one, "display": True, "isReordered": True} for one in _SECTIONS],
        **dict.fromkeys(("isAccordionReordered", "hideEmptyCharts", "autoRefreshEnabled"), True),
        **{key: [] for key in ("columnOrder", "runsPinned", "runsHidden")},
        **{key: {} for key in ("columnWidths", "runsExpanded", "runsVisibilityMap", "groupsExpanded")},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
    return json.dumps({"name": name, "createdAt": time_ms, "state": f"deflate;{packed}"})


def _chart(metric: str, kind: str) -> dict[str, object]:
    group = metric.partition("/")[0]
    section = group if group in _SECTIONS else "Model metrics"
    own = {"uuid": f"{kind} {metric}", "type": kind, "metricKey": metric, "lineSmoothness": 0}
    return {**own, "metricSectionId": section, "useGlobalLineSmoothing": True}
