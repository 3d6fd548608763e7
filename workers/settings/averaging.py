"""The averages of a stage's weights over time."""

from dataclasses import dataclass
from enum import StrEnum

from workers.settings.checks import require, require_least

# The checkpoints that a soup is made of.
Soup = StrEnum("Soup", "last best")


@dataclass(frozen=True)
class AveragingSettings:
    """Averages of weights over time, for `predict.checkpoint`.

    `ema` is an exponential average after every update; its decay is at most (1 + n)/(10 + n) after n of them. `swa` is
    the equal average of the weights at epochs' ends once the share `swa_from` of the epochs is done (Izmailov et al.
    2018), and `soup` that of so many checkpoints at epochs' ends: the last, or those with the lowest dev errors.
    """

    ema_decay: float = 0.999
    swa_from: float = 0.75
    soup: Soup = Soup.last
    soup_checkpoints: int = 3

    def __post_init__(self) -> None:
        require(0 < self.ema_decay < 1, f"ema_decay={self.ema_decay}: give a share between 0 and 1, as 0.999")
        require(0 <= self.swa_from <= 1, f"swa_from={self.swa_from}: give a share in [0, 1]")
        require_least(self, 1, "soup_checkpoints")
