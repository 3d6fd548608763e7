"""Ablations: differences within seeds, and a sign only where the interval leaves zero out."""

import pytest

from benchmarks.ablations import differences, table


def scores(**errors: float) -> dict[str, dict[str, float]]:
    return {name.replace("__", "-"): {"top1_error": e, "top5_error": e / 2} for name, e in errors.items()}


def test_differences_are_paired_by_seed_whatever_the_order() -> None:
    members = scores(no_lrn__s1=0.55, full__s0=0.4, no_lrn__s0=0.45, full__s1=0.5)
    (one,) = differences(members, "top1_error")
    assert one.variant == "no_lrn"
    assert one.differences == pytest.approx((0.05, 0.05))
    assert one.verdict == "worse without"


def test_a_seed_that_one_side_lacks_is_left_out() -> None:
    members = scores(full__s0=0.4, full__s2=0.4, no_lrn__s0=0.3, no_lrn__s1=0.9, no_lrn__s2=0.31)
    (one,) = differences(members, "top1_error")
    assert one.differences == pytest.approx((-0.1, -0.09))
    assert one.verdict == "better without"


def test_no_sign_is_claimed_where_zero_is_inside_or_there_is_one_seed() -> None:
    spread = scores(full__s0=0.4, full__s1=0.4, full__s2=0.4, tanh__s0=0.5, tanh__s1=0.35, tanh__s2=0.42)
    assert differences(spread, "top1_error")[0].verdict.startswith("none")
    single = scores(full__s0=0.4, tanh__s0=0.9)
    assert differences(single, "top1_error")[0].verdict.startswith("none")
    assert "none" in table(spread)[-1]
