"""When later factors of layers' rates begin, and which of several counts."""

from workers.models import outline
from workers.settings import ModelSettings, RateChange, ScheduleSettings
from workers.training import first_standstill, later_phases
from workers.training.layer_rates import Phase

PER_EPOCH = 7
FOUND = outline(ModelSettings(), 10)


def phases(lr_scale: dict[str, float] | None = None, **changes: RateChange) -> tuple[Phase, ...]:
    return later_phases(FOUND, lr_scale or {}, ScheduleSettings(epochs=91, rate_changes=changes), PER_EPOCH)


def test_change_begins_once_updates_and_share_are_both_reached() -> None:
    layers = {"fc8": 2.0}
    assert phases(a=RateChange(300, 0.0, layers))[0].begin == 300
    assert phases(a=RateChange(300, 72 / 91, layers))[0].begin == 72 * PER_EPOCH
    assert phases(a=RateChange(600, 72 / 91, layers))[0].begin == 600
    assert phases(a=RateChange(0, 0.0, layers))[0].begin == 0


def test_phase_keeps_the_factors_that_its_change_does_not_name() -> None:
    found = phases({"conv1": 0.5, "fc8": 10.0}, a=RateChange(3, 0.0, {"conv1": 0.0}))
    assert found == (Phase(3, {"conv1": 0.0, "fc8": 10.0}),)


def test_change_that_begins_later_counts_whatever_the_order_of_writing() -> None:
    early, late = RateChange(5, 0.0, {"fc8": 2.0}), RateChange(0, 1 / 91, {"fc8": 3.0})
    for found in (phases(a=early, b=late), phases(b=early, a=late), phases(b=late, a=early)):
        assert found == (Phase(5, {"fc8": 2.0}), Phase(7, {"fc8": 3.0}))


def test_of_changes_that_begin_together_the_last_in_the_alphabet_counts() -> None:
    found = phases(b=RateChange(5, 0.0, {"fc8": 2.0}), a=RateChange(5, 0.0, {"fc8": 3.0, "fc7": 4.0}))
    assert found == (Phase(5, {"fc8": 2.0, "fc7": 4.0}),)


def test_standstill_is_found_only_where_it_comes_to_pass() -> None:
    both, later = {"a": 0.0, "b": 0.0}, (Phase(4, {"a": 0.0}), Phase(9, {"a": 0.0, "b": 0.0}))
    assert first_standstill({}, later, ("a", "b"), 20) == 9
    assert first_standstill({}, later, ("a", "b"), 9) is None
    assert first_standstill({}, later, ("a",), 20) == 4
    assert first_standstill(both, (), ("a", "b"), 20) == 0
    assert first_standstill(both, (Phase(0, {}),), ("a", "b"), 20) is None


def test_change_may_name_all_but_the_last_layer() -> None:
    (phase,) = phases({"conv1": 0.1}, a=RateChange(2, 0.0, {"body": 0.0, "head": 5.0}))
    assert phase.factors == {**dict.fromkeys(FOUND.select("body"), 0.0), "fc8": 5.0}
