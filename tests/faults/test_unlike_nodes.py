"""Real clusters of nodes that differ: who is left out, by which line and exit code, and what the others make of it."""

import time
from collections import Counter
from contextlib import ExitStack

import pytest
from oracle import wait_for
from run_artefacts import artefacts
from unlike_nodes import OPEN, Unlike, copied_code, join_later, no_code, unlike_nodes

from orchestrator.run.ledger import AttemptEnd, read_ledger

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
GIVE_UP_S = 900.0
# The driver's import path must not reach the nodes.
APART = {**OPEN, "PYTHONSAFEPATH": "1"}
SEVEN = "members:\n" + "".join(f"  m{n}: {{stages: {{train: {{dataset: target}}}}}}\n" for n in range(7))
LONG = (
    *("ensemble.stages.train.epochs=200", "ensemble.stages.finetune.epochs=200", "checkpoint_updates=50"),
    "model.width=0.1",
)


@pytest.fixture
def place(new_place):
    place = new_place("unlike")
    place.environment = APART
    return place


def _lines(place):
    return {line.split()[3]: line for line in read_ledger(place.paths.ledger).left_out.values()}


def test_nodes_that_do_not_fit_are_left_out_and_the_rest_ends_in_the_same_bytes(undisturbed, place, tmp_path):
    hidden = place.store.parent
    nodes = {
        "good": Unlike(),
        "other": Unlike(copied_code(tmp_path / "changed", changed=True)),
        "plain": Unlike(copied_code(tmp_path / "plain", kernels=False)),
        "unshared": Unlike(hidden=(place.root,)),
        "unstored": Unlike(hidden=(hidden,)),
        "empty": Unlike(no_code(tmp_path / "empty")),
    }
    with unlike_nodes(place.temporary, nodes) as address:
        ended = place.ended(place.start(f"cluster.address={address}"), GIVE_UP_S)
    assert ended.code == 0, ended.err
    said = {
        "other": "its code of workers/",
        "plain": "it lacks compiled kernels",
        "unshared": "run_dir=",
        "unstored": "no prepared images are at",
        "empty": "no worker of Septet starts there (ModuleNotFoundError: No module named 'orchestrator')",
    }
    lines = _lines(place)
    assert lines.keys() == said.keys()
    assert all(said[name] in line and line in ended.err for name, line in lines.items()), lines
    entries = read_ledger(place.paths.ledger).stages.values()
    assert {one.where.node for entry in entries for one in entry.attempts} == {"good"}
    assert artefacts(place.paths) == artefacts(undisturbed.paths)


@pytest.mark.parametrize(("kind", "code"), [("other", 2), ("unshared", 7)])
def test_where_no_node_fits_the_launch_ends_within_a_minute_and_changes_nothing(place, tmp_path, kind, code):
    node = Unlike(copied_code(tmp_path / "c", changed=True)) if kind == "other" else Unlike(hidden=(place.root,))
    with unlike_nodes(place.temporary, {"first": node, "second": node}) as address:
        began = time.monotonic()
        ended = place.ended(place.start(f"cluster.address={address}"), GIVE_UP_S)
        took_s = time.monotonic() - began
    assert ended.code == code, ended.err
    assert "no node of the cluster can be used: first (" in ended.line and "second (" in ended.line
    assert took_s < 60
    assert not place.paths.root.exists()


def test_seven_members_spread_over_three_nodes_of_sixteen_cpus(place):
    (place.root / "groups" / "ensemble" / "spread.yaml").write_text(SEVEN)
    kept = [word for word in place.overrides if "finetune" not in word and "pretrain" not in word]
    place.overrides = (*kept, "ensemble=spread", "ensemble.stages.train.epochs=40")
    with unlike_nodes(place.temporary, {f"w{number}": Unlike(cpus=16) for number in range(3)}) as address:
        ended = place.ended(place.start(f"cluster.address={address}"), GIVE_UP_S)
    assert ended.code == 0, ended.err
    nodes = Counter(entry.attempts[0].where.node for entry in read_ledger(place.paths.ledger).stages.values())
    assert sorted(nodes.values()) == [2, 2, 3]


def test_nodes_that_join_late_are_looked_at_and_used_only_if_they_fit(place, tmp_path):
    with ExitStack() as stack:
        folder = place.temporary
        address = stack.enter_context(unlike_nodes(folder, {"first": Unlike()}))
        process = place.start(f"cluster.address={address}", *LONG)
        wait_for(lambda: place.paths.ledger.exists() and read_ledger(place.paths.ledger).stages)
        other = Unlike(copied_code(tmp_path / "changed", changed=True))
        join_later(stack, folder, address, "other", other)
        join_later(stack, folder, address, "late", Unlike())
        ended = place.ended(process, GIVE_UP_S)
    assert ended.code == 0, ended.err
    attempts = [one for entry in read_ledger(place.paths.ledger).stages.values() for one in entry.attempts]
    assert _lines(place).keys() == {"other"}
    assert {one.where.node for one in attempts if one.outcome is not AttemptEnd.refused} == {"first", "late"}


def test_code_that_is_shipped_makes_a_node_without_it_fit(undisturbed, place, tmp_path):
    nodes = {"first": Unlike(no_code(tmp_path / "empty")), "second": Unlike(no_code(tmp_path / "bare"))}
    with unlike_nodes(place.temporary, nodes) as address:
        ended = place.ended(place.start(f"cluster.address={address}", "cluster.ship_code=true"), GIVE_UP_S)
    assert ended.code == 0, ended.err
    assert _lines(place) == {}
    entries = read_ledger(place.paths.ledger).stages.values()
    assert {one.where.node for entry in entries for one in entry.attempts} <= {"first", "second"}
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
