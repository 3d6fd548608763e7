"""The saved view, as MLflow's frontend reads it; the soak tests look at it in a browser."""

import base64
import json
import zlib

from orchestrator.tracking.view import make_view


def test_view_shows_one_ensemble_with_its_members_and_the_settings_that_differ():
    envelope = json.loads(make_view("digits-1", "uuid", [f"p{n}" for n in range(20)], 5))
    assert (envelope["name"], envelope["createdAt"]) == ("digits-1", 5)
    head, packed = envelope["state"].split(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert head == "deflate"
    assert state["searchFilter"] == "tags.`septet.run` = 'uuid' and tags.`septet.role` != 'stage'"
    assert state["selectedColumns"][-8:] == [f"params.`p{n}`" for n in range(8)]
    charts, sections = state["compareRunCharts"], {one["uuid"] for one in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in charts} <= sections
    hidden = {chart["metricKey"] for chart in charts if chart["deleted"]}
    assert "final/top1_error" in hidden and "test/top1_error" not in hidden
    assert len(json.dumps(envelope)) < 5000, "an older server takes no more"
