"""The share of the wall clock that was no member's work, on schedules whose answer is known."""

import pytest

from benchmarks.orchestrator_share import Work, share_of_critical_path, share_of_slots, slots_used


def test_share_of_critical_path_without_gaps_is_start_and_end_alone() -> None:
    works = [Work(1, 5), Work(5, 9)]
    assert share_of_critical_path(works, began=0, ended=10) == pytest.approx(0.2)


def test_share_of_critical_path_counts_the_gap_between_one_members_stages() -> None:
    works = [Work(0, 4), Work(6, 10)]
    assert share_of_critical_path(works, began=0, ended=10) == pytest.approx(0.2)


def test_share_of_critical_path_ignores_what_another_slot_leaves_idle() -> None:
    long, short = Work(0, 10), Work(0, 3)
    assert share_of_critical_path([long, short], began=0, ended=10) == pytest.approx(0)
    assert share_of_slots([long, short], began=0, ended=10, slots=2) == pytest.approx(0.35)


def test_work_that_began_before_the_last_ended_is_on_no_path_with_it() -> None:
    works = [Work(0, 6), Work(4, 10)]
    assert share_of_critical_path(works, began=0, ended=10) == pytest.approx(0.4)


def test_slots_used_counts_work_at_once_and_not_one_after_another() -> None:
    assert slots_used([Work(0, 2), Work(1, 3), Work(3, 4)]) == 2
