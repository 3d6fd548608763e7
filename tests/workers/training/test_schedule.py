"""The learning rate: cuts on a plateau, none before the net has learnt anything, three at most."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from workers.settings import Decay, ScheduleSettings
from workers.training.schedule import ScheduleState, after_epoch, chance_threshold, learning_rate

SETTINGS = ScheduleSettings(epochs=100, patience=3, latest=(0.6, 0.8, 0.95))
LEARNT = chance_threshold(10, 225)


def run(errors: list[float], settings: ScheduleSettings = SETTINGS) -> list[int]:
    """Cuts made after each epoch."""
    state, cuts = ScheduleState(), []
    for error in errors:
        state = after_epoch(state, error, settings, LEARNT)
        cuts.append(state.cuts)
    return cuts


def test_plateau_cuts_after_patience_epochs_without_improvement() -> None:
    assert run([0.5, 0.4, 0.4, 0.45, 0.4, 0.4]) == [0, 0, 0, 0, 1, 1]


def test_improvement_starts_patience_anew() -> None:
    assert run([0.5, 0.5, 0.5, 0.4, 0.4, 0.4])[-1] == 0


def test_net_still_at_chance_is_not_cut() -> None:
    assert run([0.9] * 59)[-1] == 0


def test_cut_is_made_at_its_latest_share_even_while_improving() -> None:
    falling = [0.5 - 0.001 * epoch for epoch in range(100)]
    cuts = run(falling)
    assert [cuts.index(number) + 1 for number in (1, 2, 3)] == [60, 80, 95]


def test_fixed_decay_ignores_plateaus() -> None:
    assert run([0.4] * 59, replace(SETTINGS, decay=Decay.fixed))[-1] == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=100))
def test_cuts_only_grow_and_stay_within_three(errors: list[float]) -> None:
    cuts = run(errors)
    assert cuts == sorted(cuts)
    assert cuts[-1] <= 3


def test_rate_falls_tenfold_a_cut_and_warms_up_linearly() -> None:
    warm = replace(SETTINGS, warmup_updates=10)
    assert learning_rate(0.01, ScheduleState(cuts=3), 50, SETTINGS) == 0.01 * 0.1**3
    assert learning_rate(0.01, ScheduleState(), 4, warm) == 0.01 * 0.5
    assert learning_rate(0.01, ScheduleState(), 10, warm) == 0.01
