"""Following a metrics.jsonl that grows, is torn, and is cut back under the reader."""

import itertools
import json

from hypothesis import given, settings, strategies as st

from orchestrator.run.metrics import Follower
from workers.training.metrics import MetricsLog, cut_back


def _line(step, time=0.0):
    return json.dumps({"step": step, "epoch": 0.0, "time": time or float(step), "metrics": {"x": 1.0}}) + "\n"


def _steps(follower):
    return [point.step for point in follower.read()]


def test_follower_of_an_absent_file_gives_nothing_until_it_is_there(tmp_path):
    follower = Follower(tmp_path / "metrics.jsonl")
    assert _steps(follower) == []
    (tmp_path / "metrics.jsonl").write_text(_line(1))
    assert _steps(follower) == [1]


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=12))
def test_follower_gives_each_point_once_however_the_bytes_arrive(tmp_path_factory, cuts):
    text = "".join(_line(step) for step in range(1, 6))
    path = tmp_path_factory.mktemp("follow") / "metrics.jsonl"
    follower = Follower(path)
    edges = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    found = []
    for start, end in itertools.pairwise(edges):
        with path.open("a") as file:
            file.write(text[start:end])
        found += _steps(follower)
    assert found == [1, 2, 3, 4, 5]


def test_follower_after_a_cut_back_gives_only_what_is_new(tmp_path):
    path = tmp_path / "metrics.jsonl"
    follower = Follower(path)
    path.write_text("".join(_line(step) for step in range(1, 9)))
    assert _steps(follower) == list(range(1, 9))
    cut_back(path, 5)
    log = MetricsLog(path)
    log.append(6, 0.0, {"x": 2.0})
    assert _steps(follower) == [6]
    log.append(7, 0.0, {"x": 2.0})
    assert _steps(follower) == [7]
    log.close()


def test_follower_skips_a_line_torn_by_a_death_and_goes_on(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(_line(1) + '{"step": 2, "ep\n' + _line(3))
    assert _steps(Follower(path)) == [1, 3]
