"""The load of the machine that trains, among the metrics of a stage."""

import json
from dataclasses import replace

import pytest
from tiny_stage import make_spec, make_store, never

from workers.training import loop
from workers.training.stage import run_stage


@pytest.mark.parametrize(("every_s", "num_points"), [(1e9, 1), (0.0, 12)])
def test_load_is_a_metric_now_and_then_under_the_names_of_mlflow_s_page(tmp_path, monkeypatch, every_s, num_points):
    monkeypatch.setattr(loop, "_LOAD_EVERY_S", every_s)
    spec = make_spec(make_store(tmp_path / "stores"), tmp_path / "stage")
    run_stage(replace(spec, stage_dir=tmp_path / "stage"), never)
    lines = (tmp_path / "stage" / "metrics.jsonl").read_text().splitlines()
    points = [json.loads(line)["metrics"] for line in lines]
    loads = [point for point in points if any(name.startswith("system/") for name in point)]
    assert len(loads) == num_points and loads[0] is points[0]
    assert 0 < loads[0]["system/system_memory_usage_percentage"] <= 100
    assert 0 <= loads[-1]["system/cpu_utilization_percentage"] <= 100
