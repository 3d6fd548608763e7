"""Real clusters of nodes that do not fit, in network name spaces: who is left out, by which line, code and time."""

import time
from collections import Counter
from contextlib import contextmanager

import pytest
from cluster_cases import NO_KERNELS, ODD
from machines import Kind, laboratory
from odd_nodes import (
    copied_code,
    full,
    hidden,
    little_memory,
    no_code,
    other_python,
    other_store,
    read_only,
)
from oracle import placed, say
from run_artefacts import artefacts

from orchestrator.run.ledger import read_ledger

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
GIVE_UP_S = 900.0
# The minute is for a machine that has nothing else to do; here dozens of Ray's processes share two cores.
WITHIN_S = 180.0
ON_STORAGE = {name for name, odd in ODD.items() if odd.code == 7}
PAUSE_S, KNOWN_S = 0.1, 10.0
NONE_FITS = "no node of the cluster can be used: "
SEVEN = "members:\n" + "".join(f"  m{n}: {{stages: {{train: {{dataset: target}}}}}}\n" for n in range(7))


def _kinds(folder, place):
    """How each odd node is made."""
    runs = [place.root / name for name in ("run", "second", "third")]
    elsewhere = Kind(steps=(*hidden(place.root).steps, f"mkdir -p {' '.join(map(str, runs))}"))
    return {
        "other-code": copied_code(folder / "changed", changed=True),
        "other-python": other_python(folder / "python"),
        "no-kernels": copied_code(folder / "plain", kernels=False),
        "no-memory": little_memory(folder / "memory"),
        "unshared": hidden(place.root),
        "own-disk": elsewhere,
        "read-only": read_only(place.root),
        "full-disk": full(place.root, *(path.name for path in runs)),
        "no-store": hidden(place.store.parent),
        "other-store": other_store(place.store, folder / "store"),
        "no-code": no_code(folder / "empty"),
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory, store, undisturbed):
    with placed(tmp_path_factory.mktemp("matrix"), store) as made:
        # By default a run may do without them, for the sake of nodes that lack them.
        made.overrides = (*made.overrides, "cluster.kernels=compiled")
        yield made


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, place):
    return _kinds(tmp_path_factory.mktemp("kinds"), place)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, place, kinds):
    """A good node beside all odd ones that can be made at the start."""
    with laboratory(tmp_path_factory.mktemp("lab") / "lab", [tmp_path_factory.getbasetemp()]) as lab:
        began = time.monotonic()
        for name, kind in {"good": Kind(), **kinds}.items():
            # One after another: they share two cores.
            lab.join(**{name: kind})
        say(f"{len(lab.machines)} machines in {time.monotonic() - began:.0f} s")
        yield lab


def watched(place, process, fragments, give_up_s):
    """How the launch ended, and after how many seconds of watching each of `fragments` stood on stderr, and `ended`."""
    began, times = time.monotonic(), {}
    while True:
        over, said = process.poll() is not None, place.said(process)
        now = time.monotonic() - began
        for fragment in fragments:
            if fragment in said:
                times.setdefault(fragment, now)
        if over:
            return place.ended(process), {**times, "ended": now}
        assert now < give_up_s, said
        time.sleep(PAUSE_S)


@pytest.fixture(scope="module")
def first(lab, place, kinds):
    """The launch on all of them: how it ended, and when each line came."""
    return watched(place, lab.start(place), [ODD[name].said for name in kinds], GIVE_UP_S)


def test_launch_trains_on_the_good_node_alone_and_ends_in_the_same_bytes(first, place, undisturbed):
    ended, _ = first
    assert ended.code == 0, ended.err
    entries = read_ledger(place.paths.ledger).stages.values()
    assert {one.where.node for entry in entries for one in entry.attempts} == {"good"}
    assert artefacts(place.paths) == artefacts(undisturbed.paths)


@pytest.mark.parametrize("name", [name for name in ODD if name != "silent"])
def test_odd_node_is_left_out_by_its_name_with_a_line_that_says_what_to_do(first, lab, place, name):
    ended, times = first
    lines = {line.split()[3]: line for line in read_ledger(place.paths.ledger).left_out.values()}
    said = ODD[name].said
    assert said in lines[name] and lines[name] in ended.err
    assert f"node {name} ({lab.machines[name].ip}): " in lines[name]
    say(f"{name}: {times[said]:.1f} s, beside a good node")
    assert times[said] < WITHIN_S


@contextmanager
def another_run(place, name):
    """The same place, whose folders the odd nodes see as they do, for another run."""
    place.run_dir = place.root / name
    try:
        yield place
    finally:
        place.run_dir = None


def test_where_no_node_has_the_kernels_that_are_asked_for_the_launch_ends_with_2(first, lab, place):
    lab.kill("good")
    with another_run(place, "second"):
        _expect_refused(place, lab, 2, (NO_KERNELS.said,))


def test_where_no_node_fits_the_launch_ends_with_2_before_anything_trains(first, lab, place):
    # Without the kernels a run trains, if nobody has asked for them.
    place.overrides = tuple(word for word in place.overrides if "kernels" not in word)
    lab.kill(*{"good", "no-kernels"} & lab.alive())
    lab.join(silent=Kind())
    # The head's Ray has to know what the node has, to give it work at all.
    time.sleep(KNOWN_S)
    for process in lab.machines["silent"].family():
        process.suspend()
    with another_run(place, "second"):
        names = ODD.keys() - {"no-kernels"}
        _expect_refused(place, lab, 2, (NONE_FITS, *names, *(ODD[name].said for name in names)))


def test_where_only_storage_is_wrong_the_launch_ends_with_7(first, lab, place):
    lab.kill(*lab.alive() - ON_STORAGE - {"head"})
    with another_run(place, "third"):
        _expect_refused(place, lab, 7, (NONE_FITS, *ON_STORAGE, *(ODD[name].said for name in ON_STORAGE)))


def _expect_refused(place, lab, code, fragments):
    ended, times = watched(place, lab.start(place), [], GIVE_UP_S)
    say(f"no node fits, exit code {code}: {times['ended']:.1f} s")
    assert ended.code == code and all(one in ended.line for one in fragments), ended.err
    assert times["ended"] < WITHIN_S
    assert not place.paths.root.exists()


def test_seven_members_spread_over_three_nodes_of_sixteen_cpus(first, lab, new_place):
    lab.kill(*lab.alive() - {"head"})
    lab.join(**{f"w{number}": Kind(cpus=16) for number in range(3)})
    place = new_place("spread")
    (place.root / "groups" / "ensemble" / "spread.yaml").write_text(SEVEN)
    kept = [word for word in place.overrides if "finetune" not in word and "pretrain" not in word]
    place.overrides = (*kept, "ensemble=spread", "ensemble.stages.train.epochs=40")
    ended = place.ended(lab.start(place), GIVE_UP_S)
    assert ended.code == 0, ended.err
    nodes = Counter(entry.attempts[0].where.node for entry in read_ledger(place.paths.ledger).stages.values())
    assert sorted(nodes.values()) == [2, 2, 3]


def test_code_that_is_shipped_makes_a_node_without_it_fit(first, lab, kinds, new_place, undisturbed):
    lab.kill(*lab.alive() - {"head"})
    lab.join(**{"no-code": kinds["no-code"]})
    place = new_place("shipped")
    ended = place.ended(lab.start(place, "cluster.ship_code=true"), GIVE_UP_S)
    assert ended.code == 0, ended.err
    assert read_ledger(place.paths.ledger).left_out == {}
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
