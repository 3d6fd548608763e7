"""Defines what a fit of a combination found, as manifest.json keeps it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from orchestrator.config import CombineMethod, Metric
from orchestrator.text import counted

# Two for each of the ten folds of cross-fitting. Of fewer, an interval over images is far too sure.
LEAST_IMAGES = 20
_IN_POINTS = frozenset(Metric) - {Metric.log_loss, Metric.brier}


@dataclass(frozen=True)
class Interval:
    """An estimate and the bounds of its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """How a fitted combination compares with the plain mean; losses are by `metric`, lower is better.

    `mean`, `fitted` and `cross_fitted` are the losses on `num_images` of `split` of the plain mean, of the combination
    in use where it was fitted, and of fits of `asked` to other folds of these images. `gain` is mean − cross_fitted.
    `optimism` is the loss on new images − fitted: estimated by the cross-fitted loss, with the bootstrap interval of
    that over images.
    """

    asked: CombineMethod
    metric: Metric
    split: str
    num_images: int
    mean: float
    fitted: float
    cross_fitted: float
    gain: Interval
    optimism: Interval
    is_taken: bool

    @staticmethod
    def from_json(said: Mapping[str, Any]) -> "Fit":
        """Reads what `asdict` gave."""
        intervals = {name: Interval(**said[name]) for name in ("gain", "optimism")}
        return Fit(**{**said, "asked": CombineMethod(said["asked"]), "metric": Metric(said["metric"]), **intervals})

    def lines(self) -> tuple[str, ...]:
        """Returns lines for people: what was gained in cross-fitting, what is used, and how optimistic its fit is."""
        used = (
            f"{self.asked} is used" if self.is_taken else "the plain mean is kept: that is not above 0 with confidence"
        )
        return (
            f"combine={self.asked}, fitted to {counted(self.num_images, 'image')} of {self.split} by {self.metric}",
            f"  cross-fitted it gains {in_units(self.metric, self.gain)} on the mean, so {used}",
            f"  on new images expect {in_units(self.metric, self.optimism)} more loss than on those of the fit",
        )


def too_few(setting: str, num_images: int, split: str, kept: str) -> str:
    """Returns the line on a fit that a `setting` asks for, and that so few images of `split` do not allow."""
    return f"{setting}: {split} has {counted(num_images, 'image')}, and a fit needs {LEAST_IMAGES}, so {kept} is kept."


def in_units(metric: Metric, one: Interval, sign: str = "") -> str:
    """Formats a difference of losses: `0.40 points (-1.30 to 0.50)`; without the brackets if it has no bounds."""
    scale, unit, places = _unit(metric, " points")
    # Without the sign that rounding leaves at zero.
    rounded = (round(scale * value, places) + 0.0 for value in (one.estimate, one.low, one.high))
    estimate, low, high = (f"{value:{sign}.{places}f}" for value in rounded)
    return f"{estimate}{unit}" + (f" ({low} to {high})" if isfinite(one.low) else "")


def loss_in_units(metric: Metric, loss: float) -> str:
    """Formats a loss: `12.50 %`, or `0.4312` of a metric that is no share."""
    scale, unit, places = _unit(metric, " %")
    return f"{scale * loss:.{places}f}{unit}"


def _unit(metric: Metric, unit: str) -> tuple[int, str, int]:
    return (100, unit, 2) if metric in _IN_POINTS else (1, "", 4)
