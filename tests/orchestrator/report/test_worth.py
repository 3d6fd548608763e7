"""What members are worth, as tables, notes and JSON."""

import re
from math import inf
from types import SimpleNamespace

import pytest

from orchestrator.combine import Interval
from orchestrator.config import Metric
from orchestrator.fitting.worth import MemberWorth, Worth
from orchestrator.report.evidence import Valued
from orchestrator.report.worth import drop_note, number, worth_json, worth_notes


def make(metric=Metric.top1, rise=(-0.01, -0.02, 0.005), costs=(300.0, 100.0), num_orders=None, num_images=50):
    good = MemberWorth(Interval(0.4, 0.3, 0.5), Interval(0.1, 0.05, 0.2))
    poor = MemberWorth(Interval(0.3, 0.2, 0.4), Interval(*rise))
    members = {"b*": poor, "a": good}
    worth = Worth(metric, num_images, num_orders, 0.001, 0.9, 0.2, members, ("a", "b*"), (0.25, 0.2), (0.3, 0.2))
    return Valued("val", 50, worth, dict(zip(members, costs, strict=True)))


def lines(valued):
    return number(SimpleNamespace(worth=valued)).tables[0].lines


def test_tables_have_the_best_member_first_with_its_share_of_the_cost():
    members = lines(make())
    assert members[0] == ("a", "40.00 points (30.00 to 50.00)", "+10.00 points (+5.00 to +20.00)", "100.0", "25 %")
    assert members[1][2:] == ("-1.00 points (-2.00 to +0.50)", "300.0", "75 %")
    assert lines(make(Metric.log_loss))[0][1] == "0.4000 (0.3000 to 0.5000)"


def test_tables_say_where_a_cost_is_unknown():
    assert [line[3:] for line in lines(make(costs=(None, 100.0)))] == [("100.0", ""), ("unknown", "")]


def test_notes_tell_of_drawn_orders_thinned_images_and_no_intervals():
    assert len(worth_notes(make())) == 5
    drawn = " ".join(worth_notes(make(num_orders=220)))
    assert "220 orders were drawn; the standard error from that is 0.10 points" in drawn
    assert "25 evenly spaced ones of 50 images" in " ".join(worth_notes(make(num_images=25)))
    assert "no intervals" in " ".join(worth_notes(make(rise=(0.1, -inf, inf))))


@pytest.mark.parametrize(("rise", "said"), [((-0.01, -0.02, 0.005), False), ((-0.01, -0.02, -0.005), True)])
def test_drop_note_only_where_the_loss_falls_beyond_the_interval(rise, said):
    note = drop_note(make(rise=rise))
    assert bool(note) == said
    if said:
        assert "without b* the mean of the others is better by 1.00 points (0.50 to 2.00) in top1 on val" in note
        assert "combine.without=[b*]" in note


def test_json_leaves_out_bounds_that_are_infinite():
    found = worth_json(make(rise=(0.1, -inf, inf)))
    assert found["members"]["b*"]["without"] == {"estimate": 0.1}
    assert found["members"]["a"]["shapley"] == {"estimate": 0.4, "low": 0.3, "high": 0.5}
    assert found["curve"] == [{"added": "a", "best": 0.25, "mean": 0.3}, {"added": "b*", "best": 0.2, "mean": 0.2}]


@pytest.mark.parametrize(
    ("metric", "label", "losses"),
    [
        (Metric.top1, "top-1 error, %", "a 25.00 %, b* 20.00 %"),
        (Metric.log_loss, "loss by log_loss", "a 0.2500, b* 0.2000"),
    ],
)
def test_number_draws_both_orders_by_the_number_of_members(metric, label, losses):
    section = number(SimpleNamespace(worth=make(metric)))
    (drawn,) = section.drawings
    scale = 100 if metric is Metric.top1 else 1
    assert (
        f"best order: {scale * 0.2:.4g}" in " ".join(re.findall("<title>([^<]*)</title>", drawn.inline))
        and label in drawn.inline
    )
    assert section.tables[0].lines[0][0] == "a" and section.notes[0].endswith(f"that loss: {losses}.")
