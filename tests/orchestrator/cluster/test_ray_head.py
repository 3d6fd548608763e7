"""A head that is gone: how soon it is known, and that what waits for Ray then ends by one line."""

import atexit
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest

from orchestrator.cluster import ray_head
from orchestrator.cluster.ray_head import Head, HeadWatch, await_head
from workers.errors import ClusterLost


def test_head_that_answers_again_in_time_is_not_lost_and_one_that_stays_away_is():
    now, there = [0.0], [True]
    assert not Head("127.0.0.1:1").look(), "nothing listens there"
    head = Head("127.0.0.1:1", lambda address: there[0], lambda: now[0], patience_s=25.0)
    assert head.look()
    there[0] = False
    for now[0] in (1.0, 10.0, 24.0):
        assert not head.look()
    there[0], now[0] = True, 25.0
    assert head.look()
    there[0], now[0] = False, 49.0
    assert not head.look()
    now[0] = 51.0
    with pytest.raises(ClusterLost, match=r"127\.0\.0\.1:1 is gone; run the same command again"):
        head.look()


@pytest.mark.parametrize(
    ("forgetful", "answers", "is_lost"),
    [
        (True, [True, None, None], True),
        (True, [True, None, True, None], False),
        (True, [True, False, False, False], False),
        (False, [True, None, None, None], False),
    ],
    ids=["its process has ended", "one look failed", "the network is down", "its state is elsewhere"],
)
def test_head_that_keeps_its_state_in_memory_is_lost_as_soon_as_nothing_listens(forgetful, answers, is_lost):
    now, given = [0.0], iter(answers)
    head = Head("127.0.0.1:1", lambda address: next(given), lambda: now[0])
    head.forgetful = forgetful
    for now[0] in range(len(answers) - 1):
        head.look()
    now[0] = len(answers)
    if is_lost:
        with pytest.raises(ClusterLost):
            head.look()
    else:
        head.look()


@pytest.mark.parametrize("forgetful", [True, False])
def test_head_whose_process_seems_to_have_ended_is_looked_at_again_before_another_can_be_there(forgetful):
    now = [0.0]
    head = Head("127.0.0.1:1", lambda address: None, lambda: now[0])
    head.forgetful = forgetful
    assert head.pause_s == ray_head.LOOK_EVERY_S
    now[0] = 5.0
    head.look()
    assert head.pause_s == (ray_head._CONFIRM_S if forgetful else ray_head.LOOK_EVERY_S)
    now[0] += ray_head._CONFIRM_S
    if forgetful:
        with pytest.raises(ClusterLost):
            head.look()
    else:
        assert not head.look()


@pytest.mark.slow
def test_head_that_is_not_there_or_says_nothing_is_told_within_seconds():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (silent.getsockname()[1], 1):
            with pytest.raises(ConnectionError, match=f"nothing at 127.0.0.1:{port} answered as Ray does"):
                await_head(f"127.0.0.1:{port}", 0.5)


@pytest.fixture
def quick(monkeypatch):
    """Looks follow each other at once; an exit handler of the watch would end the tests."""
    monkeypatch.setattr(ray_head, "LOOK_EVERY_S", 0.02)
    left = []
    monkeypatch.setattr(atexit, "register", left.append)
    return left


def test_block_that_waits_when_the_head_ends_is_left_at_once(quick):
    server = socket.create_server(("127.0.0.1", 0))
    began = time.monotonic()
    with pytest.raises(ClusterLost, match="is gone"), HeadWatch(f"127.0.0.1:{server.getsockname()[1]}") as watch:
        watch.head.forgetful = True
        server.close()
        time.sleep(60)
    assert time.monotonic() - began < 30
    assert quick == [ray_head._leave], "Ray's exit handler would wait for the head"


def test_block_that_ends_in_time_leaves_nothing_behind(quick):
    server = socket.create_server(("127.0.0.1", 0))
    with closing(server), HeadWatch(f"127.0.0.1:{server.getsockname()[1]}"):
        time.sleep(0.1)
    assert quick == []


@pytest.fixture
def alarms():
    """The alarms that this program's own handler has heard."""
    heard = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    yield heard
    signal.signal(signal.SIGALRM, before)


def test_alarm_of_the_program_that_launches_reaches_its_own_handler(alarms):
    with socket.create_server(("127.0.0.1", 0)) as server, HeadWatch(f"127.0.0.1:{server.getsockname()[1]}"):
        signal.raise_signal(signal.SIGALRM)
        assert alarms == [1]


def test_head_that_is_found_lost_after_the_block_interrupts_nothing(quick, alarms):
    looks, ends = threading.Event(), threading.Event()

    def look():
        looks.set()
        ends.wait()
        raise ClusterLost("is gone")

    with HeadWatch("127.0.0.1:1") as watch:
        watch.head.look = look
        looks.wait()
        (thread,) = [one for one in threading.enumerate() if one.name == "septet-head" and one.is_alive()][-1:]
    ends.set()
    thread.join(10)
    assert (alarms, watch.lost) == ([], None)


_DEAF = """
import socket, time
from orchestrator.cluster import ray_head
ray_head.LOOK_EVERY_S, ray_head._LEAVE_S = 0.02, {leave_s}
server = socket.create_server(("127.0.0.1", 0))
server_address = server.getsockname()
with ray_head.HeadWatch(f"127.0.0.1:{server_address[1]}") as watch:
    watch.head.forgetful = True
    server.close()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            {interrupted}
"""
_ANOTHER_HEAD = "another = socket.create_server(server_address)"


@pytest.mark.parametrize(
    ("leave_s", "interrupted"), [(0.2, "pass"), (1000, _ANOTHER_HEAD)], ids=["in time", "as another head answers"]
)
def test_block_that_does_not_hear_the_interrupt_is_ended_with_the_line_and_the_exit_code(leave_s, interrupted):
    code = _DEAF.replace("{leave_s}", str(leave_s)).replace("{interrupted}", interrupted)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.returncode == 1
    assert ended.stderr.startswith("septet: the head of the Ray cluster at 127.0.0.1:")
    assert ended.stderr.endswith("is gone; run the same command again\n")
