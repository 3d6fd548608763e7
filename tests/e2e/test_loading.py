"""What a launch loads on two threads at once: never parts of one package, which either might see half loaded."""

import json
import subprocess
import sys

import pytest
from oracle import SMALL, child_environment

TRACED = """
import atexit, json, runpy, sys, threading, time

loads = []

class Tracer:
    def find_spec(self, name, path=None, target=None):
        loads.append((threading.current_thread().name, time.monotonic(), name.partition(".")[0]))

sys.meta_path.insert(0, Tracer())
atexit.register(lambda: json.dump(loads, open("loads.json", "w")))
runpy.run_module("orchestrator.cli.program", run_name="__main__")
"""


@pytest.mark.slow
def test_no_two_threads_load_parts_of_one_package_at_once(tmp_path):
    words = [word for word in SMALL if not word.startswith("ensemble")]
    epochs = [f"ensemble.stages.{stage}.epochs=1" for stage in ("train", "pretrain", "finetune")]
    given = child_environment() | {"HOME": str(tmp_path)}
    command = [sys.executable, "-c", TRACED, "launch", *words, *epochs]
    ended = subprocess.run(command, cwd=tmp_path, env=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    loads: dict[str, list[tuple[float, str]]] = {}
    for thread, at_s, package in json.loads((tmp_path / "loads.json").read_text()):
        loads.setdefault(thread, []).append((at_s, package))
    tracking = loads.pop("septet-tracking")
    packages = {package for _, package in tracking}
    assert {"mlflow", "sqlalchemy"} <= packages
    begin_s, end_s = tracking[0][0], tracking[-1][0]
    beside = {package for others in loads.values() for at_s, package in others if begin_s <= at_s <= end_s}
    assert "ray" in beside, "Ray starts meanwhile"
    assert not packages & beside
