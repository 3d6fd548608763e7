"""The learning rate: cuts on a plateau, none before the net has learnt anything, three at most."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch.optim import lr_scheduler
from torch.optim.lr_scheduler import LRScheduler

from workers.models import outline
from workers.settings import Decay, ModelSettings, RateChange, ScheduleSettings
from workers.training import first_standstill, later_phases
from workers.training.layer_rates import Phase
from workers.training.schedule import (
    ScheduleState,
    after_epoch,
    chance_threshold,
    has_stalled,
    learning_rate,
    whole_epochs,
)

SETTINGS = ScheduleSettings(epochs=100, patience=3, latest=(0.6, 0.8, 0.95))
LEARNT = chance_threshold([22] * 10)


def run(errors: list[float], settings: ScheduleSettings = SETTINGS) -> list[int]:
    """Cuts made after each epoch."""
    state, cuts = ScheduleState(), []
    for error in errors:
        state = after_epoch(state, error, settings, LEARNT)
        cuts.append(state.cuts)
    return cuts


@pytest.mark.parametrize(
    ("errors", "settings", "cuts"),
    [
        ([0.5, 0.4, 0.4, 0.45, 0.4], SETTINGS, 1),
        ([0.5, 0.4, 0.4, 0.45], SETTINGS, 0),
        ([0.5, 0.5, 0.5, 0.4, 0.4, 0.4], SETTINGS, 0),
        ([0.9] * 59, SETTINGS, 0),
        ([0.4] * 59, replace(SETTINGS, decay=Decay.fixed), 0),
    ],
    ids=["plateau", "not yet", "improved", "at chance", "fixed"],
)
def test_rate_is_cut_on_a_plateau(errors, settings, cuts):
    assert run(errors, settings)[-1] == cuts


def test_cut_is_made_at_its_latest_share_even_while_improving():
    cuts = run([0.5 - 0.001 * epoch for epoch in range(100)])
    assert [cuts.index(number) + 1 for number in (1, 2, 3)] == [60, 80, 95]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=100))
def test_cuts_only_grow_and_stay_within_three(errors):
    cuts = run(errors)
    assert cuts == sorted(cuts)
    assert cuts[-1] <= 3


def test_rate_falls_tenfold_a_cut_and_warms_up_linearly():
    warm = replace(SETTINGS, warmup_updates=10)
    assert learning_rate(0.01, ScheduleState(cuts=3), 50, SETTINGS, 900) == 0.01 * 0.1**3
    assert learning_rate(0.01, ScheduleState(), 4, warm, 900) == 0.01 * 0.5
    assert learning_rate(0.01, ScheduleState(), 10, warm, 900) == 0.01


@pytest.mark.parametrize(("cuts", "epochs"), [((25, 51, 79), 91), ((9, 22, 42), 54)])
@pytest.mark.parametrize("digits", [8, 17])
def test_fixed_cuts_of_2012_come_after_exactly_these_epochs(cuts, epochs, digits):
    shares = tuple(round(cut / epochs, digits) for cut in cuts)
    made = run([0.4] * epochs, ScheduleSettings(decay=Decay.fixed, epochs=epochs, latest=shares))
    assert [made.index(number) + 1 for number in (1, 2, 3)] == list(cuts)


@given(st.integers(1, 3000), st.data())
def test_share_that_means_a_whole_epoch_is_reached_there(epochs, data):
    wanted = data.draw(st.integers(0, epochs))
    assert whole_epochs(wanted / epochs, epochs) == wanted
    # Between two epochs, the second.
    assert [whole_epochs(share, 10) for share in (0.0, 0.04, 0.11, 0.95, 1.0)] == [0, 1, 2, 10, 10]


STOPPING = replace(SETTINGS, patience=2, latest=(1.0, 1.0, 1.0), stop_when_stalled=True)


def ended(errors: list[float], settings: ScheduleSettings = STOPPING) -> int | None:
    """The epoch after which the stage ends early."""
    state = ScheduleState()
    for error in errors:
        state = after_epoch(state, error, settings, LEARNT)
        if has_stalled(state, settings):
            return state.epochs
    return None


@pytest.mark.parametrize(
    ("errors", "changes", "end"),
    [
        ([0.5] * 20, {}, 9),
        ([0.5] * 7 + [0.4] * 9, {}, 10),
        ([0.5] * 8 + [0.4] * 9, {}, 11),
        ([0.5] * 7 + [0.4 - 0.01 * epoch for epoch in range(20)], {}, None),
        ([0.5] * 20, {"stop_when_stalled": False}, None),
        ([0.9] * 20, {}, None),
        ([0.5, 0.4, 0.4, 0.4], {"cuts": 0, "latest": ()}, 4),
        # The last of three fixed cuts is after epoch 6 of 20, whatever the error does before.
        ([0.5] * 20, {"decay": Decay.fixed, "latest": (0.1, 0.2, 0.3)}, 8),
        ([0.5] * 7 + [0.4] * 9, {"decay": Decay.fixed, "latest": (0.1, 0.2, 0.3)}, 10),
        *(
            case
            for decay in (Decay.step, Decay.cosine, Decay.one_cycle)
            for case in (
                ([0.5] * 20, {"decay": decay, "final_lr_share": 0.1}, 3),
                ([0.5, 0.4, 0.4, 0.3, 0.3, 0.3], {"decay": decay, "final_lr_share": 0.1}, 6),
                # At chance nothing counts, and nothing ends a stage that is still improving.
                ([0.9] * 20, {"decay": decay, "final_lr_share": 0.1}, None),
                ([0.5 - 0.01 * epoch for epoch in range(20)], {"decay": decay, "final_lr_share": 0.1}, None),
                ([0.5] * 20, {"decay": decay, "final_lr_share": 0.1, "stop_when_stalled": False}, None),
            )
        ),
    ],
)
def test_stage_ends_patience_epochs_after_the_best_or_the_last_cut_unless_the_error_improves(errors, changes, end):
    assert ended(errors, replace(STOPPING, epochs=20, **changes)) == end


PER_EPOCH = 7
FOUND = outline(ModelSettings(), 10)


def phases(lr_scale: dict[str, float] | None = None, **changes: RateChange) -> tuple[Phase, ...]:
    return later_phases(FOUND, lr_scale or {}, ScheduleSettings(epochs=91, rate_changes=changes), PER_EPOCH)


def test_change_begins_once_updates_and_share_are_both_reached():
    layers = {"fc8": 2.0}
    assert phases(a=RateChange(300, 0.0, layers))[0].begin == 300
    assert phases(a=RateChange(300, 72 / 91, layers))[0].begin == 72 * PER_EPOCH
    assert phases(a=RateChange(600, 72 / 91, layers))[0].begin == 600
    assert phases(a=RateChange(0, 0.0, layers))[0].begin == 0


def test_phase_keeps_the_factors_that_its_change_does_not_name():
    found = phases({"conv1": 0.5, "fc8": 10.0}, a=RateChange(3, 0.0, {"conv1": 0.0}))
    assert found == (Phase(3, {"conv1": 0.0, "fc8": 10.0}),)
    (phase,) = phases({"conv1": 0.1}, a=RateChange(2, 0.0, {"body": 0.0, "head": 5.0}))
    assert phase.factors == {**dict.fromkeys(FOUND.select("body"), 0.0), "fc8": 5.0}


def test_change_that_begins_later_counts_whatever_the_order_of_writing():
    early, late = RateChange(5, 0.0, {"fc8": 2.0}), RateChange(0, 1 / 91, {"fc8": 3.0})
    for found in (phases(a=early, b=late), phases(b=early, a=late), phases(b=late, a=early)):
        assert found == (Phase(5, {"fc8": 2.0}), Phase(7, {"fc8": 3.0}))
    # Of those that begin together, the last in the alphabet.
    found = phases(b=early, a=RateChange(5, 0.0, {"fc8": 3.0, "fc7": 4.0}))
    assert found == (Phase(5, {"fc8": 2.0, "fc7": 4.0}),)


def test_standstill_is_found_only_where_it_comes_to_pass():
    both, later = {"a": 0.0, "b": 0.0}, (Phase(4, {"a": 0.0}), Phase(9, {"a": 0.0, "b": 0.0}))
    assert first_standstill({}, later, ("a", "b"), 20) == 9
    assert first_standstill({}, later, ("a", "b"), 9) is None
    assert first_standstill({}, later, ("a",), 20) == 4
    assert first_standstill(both, (), ("a", "b"), 20) == 0
    assert first_standstill(both, (Phase(0, {}),), ("a", "b"), 20) is None


def course(settings: ScheduleSettings, per_epoch: int, base: float = 0.3) -> list[float]:
    """The rate of every update, the schedule's state advanced at each epoch's end."""
    state, rates, num_updates = ScheduleState(), [], settings.epochs * per_epoch
    for step in range(num_updates):
        rates.append(learning_rate(base, state, step, settings, num_updates))
        if (step + 1) % per_epoch == 0:
            state = after_epoch(state, 0.5, settings, LEARNT)
    return rates


def torch_s(make: Callable[[torch.optim.Optimizer], LRScheduler], num_updates: int, base: float = 0.3) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=base)
    scheduler, rates = make(optimizer), []
    for _ in range(num_updates):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


# 20 epochs of 7 updates: 140 in all.
TWENTY = ScheduleSettings(epochs=20, cuts=0, latest=())
COSINE = replace(TWENTY, decay=Decay.cosine)
CYCLE = replace(TWENTY, decay=Decay.one_cycle, warmup_share=0.3, final_lr_share=1 / 25e4)


def warmed(optimizer: torch.optim.Optimizer, rise: int, then: LRScheduler) -> LRScheduler:
    up = lr_scheduler.LinearLR(optimizer, start_factor=1 / rise, total_iters=rise - 1)
    return lr_scheduler.SequentialLR(optimizer, [up, then], milestones=[rise])


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (COSINE, lambda o: lr_scheduler.CosineAnnealingLR(o, 140)),
        (replace(COSINE, final_lr_share=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, 140, eta_min=0.03)),
        (replace(COSINE, warmup_updates=14), lambda o: warmed(o, 14, lr_scheduler.CosineAnnealingLR(o, 126))),
        (replace(COSINE, warmup_share=0.25), lambda o: warmed(o, 35, lr_scheduler.CosineAnnealingLR(o, 105))),
        (CYCLE, lambda o: lr_scheduler.OneCycleLR(o, 0.3, 140, cycle_momentum=False)),
        (
            replace(CYCLE, warmup_share=0.0, warmup_updates=7, final_lr_share=0.01),
            lambda o: lr_scheduler.OneCycleLR(o, 0.3, 140, pct_start=0.05, final_div_factor=4.0, cycle_momentum=False),
        ),
        (replace(TWENTY, decay=Decay.step, step_epochs=6), lambda o: lr_scheduler.StepLR(o, 42, gamma=0.1)),
        (replace(TWENTY, warmup_updates=30), lambda o: lr_scheduler.LinearLR(o, 1 / 30, total_iters=29)),
    ],
    ids=["cosine", "to a share", "warmed up", "warmed up for a share", "one cycle", "short rise", "step", "warm-up"],
)
def test_rates_of_a_whole_course_are_torch_s(settings, theirs):
    np.testing.assert_allclose(course(settings, 7), torch_s(theirs, 140), rtol=1e-12, atol=0)


def test_schedules_that_cut_by_no_share_make_no_cut_of_their_own():
    for decay in (Decay.step, Decay.cosine):
        assert run([0.4] * 100, replace(SETTINGS, decay=decay))[-1] == 0


def test_one_cycle_that_would_end_at_nothing_is_refused():
    with pytest.raises(ValueError, match="final_lr_share=0: the last update of decay=one_cycle would not move"):
        replace(CYCLE, final_lr_share=0.0)
    assert course(replace(CYCLE, epochs=1), 1) == [0.3]
    assert all(rate > 0 for rate in course(COSINE, 7))


@pytest.mark.parametrize("num_classes", [2, 3, 7, 10, 1000])
@pytest.mark.parametrize("each", [5, 50, 3])
def test_chance_of_equal_classes_is_one_of_the_classes_to_the_bit(num_classes, each):
    chance, num_images = 1.0 - 1.0 / num_classes, num_classes * each
    assert chance_threshold([each] * num_classes) == chance - 2.0 * (chance * (1.0 - chance) / num_images) ** 0.5


def test_chance_is_the_error_of_naming_the_largest_class():
    assert chance_threshold([400, 40]) == pytest.approx(1 / 11 - 2 * (10 / 121 / 440) ** 0.5)
    # Two standard errors are more than chance itself: no error at all is still better.
    assert 0 < chance_threshold([19, 1]) < 1 / 20
    assert chance_threshold([0, 8]) > 0
