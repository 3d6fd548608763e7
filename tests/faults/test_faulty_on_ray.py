"""One launch on a real Ray whose members fail, diverge, meet a passing NaN: who can resume does, the rest is told."""

import json
from collections.abc import Callable

import pytest
from oracle import SMALL, Family, Place, expect_clean_end, expect_line
from septet_held import FAULTY, POISONED_UPDATE

from orchestrator.run.ledger import AttemptEnd, State, read_ledger

# Each of these faults has a quick test on threads.
pytestmark = [pytest.mark.soak, pytest.mark.timeout(600)]
MEMBERS = ("failing", "diverging", "passing", "sound")


def test_failing_diverging_and_passing_members_are_told_apart(new_place: Callable[..., Place], family: Family) -> None:
    place = new_place("faulty")
    members = "".join(f"  {name}: {{stages: {{train: {{dataset: target}}}}}}\n" for name in MEMBERS)
    (place.root / "groups" / "ensemble" / "faulty.yaml").write_text(f"members:\n{members}")
    small = [word for word in SMALL if not word.startswith("ensemble")]
    place.overrides = (*small, "ensemble=faulty", "ensemble.stages.train.epochs=2", "submission=probabilities")
    words = ("submission.min_members=2", "cluster.max_failures=1", "checkpoint_updates=2")
    ended = place.ended(place.start(*words, moment=FAULTY))
    expect_line(ended, 4, "failing", "diverging", "2 of 4 members")
    injected = {name: (place.root / name).read_text() for name in MEMBERS if (place.root / name).exists()}
    assert injected == {"failing": "xx", "diverging": "xx", "passing": "x"}
    stages = read_ledger(place.paths.ledger).stages
    outcomes = {name: [one.outcome for one in stages[f"{name}/train"].attempts] for name in MEMBERS}
    assert outcomes == {
        "failing": [AttemptEnd.failed] * 2,
        "diverging": [AttemptEnd.diverged] * 2,
        "passing": [AttemptEnd.diverged, AttemptEnd.done],
        "sound": [AttemptEnd.done],
    }
    assert [one.diverged_at for one in stages["diverging/train"].attempts] == [POISONED_UPDATE] * 2
    assert stages["passing/train"].passed_nans == (POISONED_UPDATE,)
    assert stages["failing/train"].state is State.failed
    manifest = json.loads((place.paths.submission / "manifest.json").read_text())
    assert {one["name"] for one in manifest["members"]} == {"passing", "sound"}
    assert {one["member"] for one in manifest["missing"]} == {"failing", "diverging"}
    expect_clean_end(place, family)
