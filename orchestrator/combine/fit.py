"""Defines what a fit of a combination found, as manifest.json keeps it. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config import CombineMethod, Metric
from orchestrator.text import counted

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
            f"  cross-fitted it gains {self._shown(self.gain)} on the mean, so {used}",
            f"  on new images expect {self._shown(self.optimism)} more loss than on those of the fit",
        )

    def _shown(self, one: Interval) -> str:
        scale, unit, places = (100, " points", 2) if self.metric in _IN_POINTS else (1, "", 4)
        estimate, low, high = (f"{scale * value:.{places}f}" for value in (one.estimate, one.low, one.high))
        return f"{estimate}{unit} ({low} to {high})"
