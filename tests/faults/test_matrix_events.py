"""What befalls launches on real clusters of three nodes in network name spaces: the line, the code, the bytes."""

import time
from contextlib import contextmanager, suppress

import psutil
import pytest
from cluster_cases import EVENTS, REFUSALS
from long_run import entry_of, expect_same_end, make_long, step_of, trained, undisturbed_long, wait_until_trains
from machines import PORT, Kind, laboratory, pid_there
from odd_nodes import copied_code
from oracle import fill_disk, say, small_disk, wait_for
from redone import redone_updates

from orchestrator.run.ledger import AttemptEnd, read_ledger

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
GIVE_UP_S = 900.0
# Times of the table are for a machine that has nothing else to do.
SLOW = 3.0
HEAL_AFTER_S = 10.0
EPOCHS = 60
NODES = ("a", "b", "c")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, store):
    with undisturbed_long(tmp_path_factory.mktemp("long"), store, GIVE_UP_S, EPOCHS) as place:
        yield place


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A file system of its own, which all machines share: it is there before them."""
    with small_disk(tmp_path_factory.mktemp("disk"), "48m") as folder:
        yield folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory, small):
    with laboratory(tmp_path_factory.mktemp("lab") / "lab", [tmp_path_factory.getbasetemp()]) as lab:
        lab.join(a=Kind())
        yield lab


@pytest.fixture
def place(new_place, undisturbed):
    return make_long(new_place("run"), EPOCHS)


@pytest.fixture
def three(lab):
    """All three nodes; one that a test has lost joins again."""
    return rejoined(lab)


def rejoined(lab):
    """Starts Ray again on the nodes that the head does not know."""
    for name in set(NODES) - lab.alive():
        if name in lab.machines:
            lab.machines[name].kill_ray()
        lab.join(**{name: Kind()})
    return lab


@contextmanager
def struck(lab, place):
    """A launch well under way, and the name of the node on which its member `one` trains, which is lost afterwards."""
    process = lab.start(place)
    wait_until_trains(place, process)
    name = where(place, "one").node
    try:
        yield process, name
    finally:
        lab.partition(name, apart=False)
        lab.kill(name)


def outcomes(place):
    return sorted(one.outcome for entry in trained(place) for one in entry.attempts)


def where(place, member):
    """The place of the member's last attempt, once it is known."""
    wait_for(lambda: entry_of(place, member).attempts[-1].where)
    return entry_of(place, member).attempts[-1].where


def asleep(lab, place, *members):
    """The processes that train these members, stopped, by member."""
    places = {member: where(place, member) for member in members}
    found = {}
    for member, at in places.items():
        (found[member],) = (one for one in lab.machines[at.node].family() if pid_there(one) == at.pid)
        found[member].suspend()
    return found


def wake_when_succeeded(members, place, process):
    """Wakes them while a successor trains, which they would overtake; returns the log of that member."""

    def succeeded(member):
        attempts = entry_of(place, member).attempts
        return len(attempts) > 1 and step_of(place, member) > attempts[-1].resumed_from

    wait_for(lambda: any(map(succeeded, members)) or process.poll() is not None, give_up_s=GIVE_UP_S)
    assert process.poll() is None, place.said(process)
    member = next(filter(succeeded, members))
    for one in members.values():
        with suppress(psutil.Error):
            one.resume()
    log = place.paths.members / member / "train" / "log.txt"
    wait_for(lambda: "has taken over from" in log.read_text() or not members[member].is_running(), log.read_text)
    return log.read_text()


def told(case, place, process):
    """The table's line comes, in the table's time from now."""
    event, began = EVENTS[case], time.monotonic()
    wait_for(lambda: event.said in place.said(process) or process.poll() is not None, give_up_s=GIVE_UP_S)
    took_s = time.monotonic() - began
    say(f"{case}: {event.said!r} after {took_s:.1f} s")
    assert event.said in place.said(process), place.said(process)
    assert took_s < SLOW * event.within_s


def check(case, place, process):
    """The launch's line, its time and the exit code are the table's."""
    began = time.monotonic()
    told(case, place, process)
    ended = place.ended(process, GIVE_UP_S)
    say(f"{case}: exit code {ended.code} after {time.monotonic() - began:.1f} s")
    assert ended.code == EVENTS[case].code, ended.err


def test_nodes_that_join_late_are_looked_at_and_used_only_if_they_fit(lab, place, undisturbed, tmp_path):
    process = lab.start(place)
    wait_for(lambda: place.paths.ledger.exists() and trained(place))
    lab.join_soon("other", copied_code(tmp_path / "changed", changed=True))
    lab.join_soon("b", Kind())
    check("joined-late", place, process)
    lines = {line.split()[3] for line in read_ledger(place.paths.ledger).left_out.values()}
    attempts = [one for entry in trained(place) for one in entry.attempts]
    assert lines == {"other"}
    assert {one.where.node for one in attempts if one.outcome is not AttemptEnd.refused} == {"a", "b"}
    expect_same_end(place, undisturbed)
    lab.kill("other")


def test_member_of_a_killed_node_resumes_on_another(three, place, undisturbed):
    with struck(three, place) as (process, name):
        three.machines[name].kill_ray()
        check("killed", place, process)
    assert outcomes(place) == [AttemptEnd.done, AttemptEnd.done, AttemptEnd.lost]
    expect_same_end(place, undisturbed)


def test_member_of_a_draining_node_moves_without_a_loss(three, place, undisturbed):
    with struck(three, place) as (process, name):
        three.order(f"drain {name}")
        check("drained", place, process)
    assert outcomes(place) == [AttemptEnd.done, AttemptEnd.done, AttemptEnd.preempted]
    assert sum(map(redone_updates, trained(place))) == 0, "it checkpointed too late"
    expect_same_end(place, undisturbed)


def test_node_that_is_cut_off_for_ten_seconds_costs_nothing(three, place, undisturbed):
    with struck(three, place) as (process, name):
        three.partition(name)
        time.sleep(HEAL_AFTER_S)
        three.partition(name, apart=False)
        check("partitioned-10-s", place, process)
    assert outcomes(place) == [AttemptEnd.done, AttemptEnd.done]
    expect_same_end(place, undisturbed)


def test_node_that_stands_still_for_ten_seconds_costs_nothing(three, place, undisturbed):
    with struck(three, place) as (process, name):
        family = three.machines[name].family()
        for one in family:
            one.suspend()
        time.sleep(HEAL_AFTER_S)
        for one in family:
            one.resume()
        check("suspended-10-s", place, process)
    assert outcomes(place) == [AttemptEnd.done, AttemptEnd.done]
    expect_same_end(place, undisturbed)


def test_member_that_is_cut_off_for_good_writes_nothing_once_its_successor_works(three, place, undisturbed):
    with struck(three, place) as (process, name):
        three.partition(name)
        # It trains a while, cut off; then it sleeps until its successor is at work, which it would overtake.
        time.sleep(HEAL_AFTER_S / 2)
        members = asleep(three, place, "one")
        told("partitioned", place, process)
        assert "has taken over from" in wake_when_succeeded(members, place, process)
        assert place.ended(process, GIVE_UP_S).code == 0, place.said(process)
    assert outcomes(place) == [AttemptEnd.done, AttemptEnd.done, AttemptEnd.lost]
    expect_same_end(place, undisturbed)


def test_launch_that_has_lost_all_its_nodes_waits_for_another(three, place, undisturbed):
    # Until Ray knows that they are gone it may put a member on one of them, which is a loss too.
    process = three.start(place, "cluster.max_losses=20")
    wait_until_trains(place, process)
    three.kill(*NODES)
    three.join(a=Kind())
    check("all-nodes-lost", place, process)
    expect_same_end(place, undisturbed)


def test_full_shared_disk_ends_the_launch_and_it_resumes_when_there_is_room(three, place, small, undisturbed):
    place.run_dir = small / "run"
    process = three.start(place)
    wait_until_trains(place, process)
    fill_disk(small / "ballast")
    check("disk-full", place, process)
    (small / "ballast").unlink()
    ended = place.ended(three.start(place), GIVE_UP_S)
    assert ended.code == 0, ended.err
    assert all(entry.attempts[-1].resumed_from > 0 for entry in trained(place))
    expect_same_end(place, undisturbed)


def test_busy_cluster_is_waited_for(three, place, undisturbed):
    three.order("occupy 3")
    process = three.start(place)
    told("busy", place, process)
    three.order("free")
    check("busy", place, process)
    assert outcomes(place) == [AttemptEnd.done, AttemptEnd.done]
    expect_same_end(place, undisturbed)


def test_busy_cluster_is_waited_for_only_as_long_as_is_asked(three, place, undisturbed):
    three.order("occupy 3")
    check("busy-too-long", place, three.start(place, "cluster.wait_s=5"))
    three.order("free")
    assert place.ended(three.start(place), GIVE_UP_S).code == 0
    expect_same_end(place, undisturbed)


@pytest.mark.parametrize("case", ["head-killed", "head-restarted"])
def test_lost_head_ends_the_launch_and_it_resumes(three, place, undisturbed, case):
    process = three.start(place)
    wait_until_trains(place, process)
    three.stop_head()
    if case == "head-restarted":
        three.start_head()
    check(case, place, process)
    if case == "head-killed":
        three.start_head()
    ended = place.ended(rejoined(three).start(place), GIVE_UP_S)
    assert ended.code == 0, ended.err
    assert all(entry.attempts[-1].resumed_from > 0 for entry in trained(place))
    expect_same_end(place, undisturbed)


def test_launch_that_waits_for_a_node_ends_when_the_head_restarts(three, place):
    process = three.start(place, "cluster.cpus_per_member=2", "cluster.wait_s=600")
    wait_for(lambda: "waiting for one to join" in place.said(process) or process.poll() is not None)
    three.stop_head()
    three.start_head()
    check("head-restarted-too-early", place, process)


def test_driver_that_is_cut_off_ends_and_another_one_continues_beside_its_members(three, place, undisturbed):
    three.join(d=Kind(cpus=0))
    process = three.start(place, on="d")
    wait_until_trains(place, process)
    members = asleep(three, place, "one", "two")
    three.partition("d")
    check("driver-cut-off", place, process)
    # They do not know, and hold two of three machines until Ray gives the driver's up, and ends them.
    again = three.start(place)
    wake_when_succeeded(members, place, again)
    ended = place.ended(again, GIVE_UP_S)
    assert ended.code == 0, ended.err
    expect_same_end(place, undisturbed)
    three.partition("d", apart=False)
    three.kill("d")


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_launch_says_why_and_changes_nothing(three, place, tmp_path, case):
    refusal = REFUSALS[case]
    other = tmp_path / "token"
    other.write_text("0" * 64)
    if case == "no-node" and "bare" not in three.machines:
        three.machine("bare")
    on, words, environment = {
        "wrong-token": ("head", (), {"RAY_AUTH_TOKEN_PATH": str(other)}),
        "no-token": ("head", (), {"RAY_AUTH_MODE": "disabled"}),
        "nothing-there": ("head", (f"cluster.address={three.address.replace(str(PORT), '6380')}",), {}),
        "client-address": ("head", (f"cluster.address=ray://{three.address}",), {}),
        "no-node": ("bare", (), {}),
        "object-store": ("head", ("run_dir=s3://bucket/run",), {}),
        "too-small": ("head", ("cluster.cpus_per_member=2",), {}),
        "too-small-for-long": ("head", ("cluster.cpus_per_member=2", "cluster.wait_s=5"), {}),
    }[case]
    began = time.monotonic()
    ended = place.ended(three.start(place, *words, on=on, **environment), GIVE_UP_S)
    took_s = time.monotonic() - began
    say(f"{case}: {took_s:.1f} s, {ended.code}: {ended.line}")
    assert ended.code == refusal.code and refusal.said in ended.line, ended.err
    assert took_s < SLOW * refusal.within_s
    assert not place.paths.root.exists() and not (place.root / "s3:").exists()


def test_node_with_another_token_does_not_join_and_nothing_waits_for_it(three, place, undisturbed, tmp_path):
    other = tmp_path / "token"
    other.write_text("0" * 64)
    three.join_soon("stranger", Kind(environment={"RAY_AUTH_TOKEN_PATH": str(other)}))
    wait_for(lambda: three.machines["stranger"].ray.poll() is not None, three.logs)
    ended = place.ended(three.start(place), GIVE_UP_S)
    assert ended.code == 0 and "stranger" not in ended.err, ended.err
    expect_same_end(place, undisturbed)
