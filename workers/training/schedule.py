"""Schedules the learning rate: it is cut 10-fold when dev error stops improving (Krizhevsky et al. 2012, §5). Pure."""

from dataclasses import dataclass, replace
from math import ceil

from workers.settings import Decay, ScheduleSettings

# In epochs. 25/91 of 91 is 25.000000000000004 in binary, and must not mean 26; nor must 0.27472528 in a file.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ScheduleState:
    """The schedule's state after some epochs; saved with every checkpoint."""

    epochs: int = 0
    cuts: int = 0
    best_error: float = 1.0
    epochs_since_best: int = 0


def whole_epochs(share: float, epochs: int) -> int:
    """Returns the number of epochs after which `share` of `epochs` is reached."""
    return ceil(share * epochs - _ROUNDING)


def chance_threshold(num_classes: int, num_images: int) -> float:
    """Returns the error below which a net has learnt something: chance less two standard errors over `num_images`."""
    chance = 1.0 - 1.0 / num_classes
    standard_error: float = (chance * (1.0 - chance) / max(1, num_images)) ** 0.5
    return chance - 2.0 * standard_error


def after_epoch(
    state: ScheduleState, dev_error: float, settings: ScheduleSettings, learnt_below: float
) -> ScheduleState:
    """Returns the state after one more epoch, which ended with `dev_error`.

    Patience counts only after an error below `learnt_below`: a net still at chance has not begun to descend, and a cut
    would freeze it there. `latest` cuts regardless.
    """
    epochs = state.epochs + 1
    improved = dev_error < state.best_error
    best = min(dev_error, state.best_error)
    waited = 0 if improved or best >= learnt_below else state.epochs_since_best + 1
    moved = replace(state, epochs=epochs, best_error=best, epochs_since_best=waited)
    if state.cuts >= settings.cuts:
        return moved
    due = bool(settings.latest) and epochs >= whole_epochs(settings.latest[state.cuts], settings.epochs)
    stalled = settings.decay is Decay.plateau and waited >= settings.patience
    return replace(moved, cuts=state.cuts + 1, epochs_since_best=0) if due or stalled else moved


def has_stalled(state: ScheduleState, settings: ScheduleSettings) -> bool:
    """Returns whether a stage that may end early ends now: no cut is left, and dev error has stopped improving."""
    waited_out = state.cuts >= settings.cuts and state.epochs_since_best >= settings.patience
    return settings.stop_when_stalled and waited_out


def learning_rate(base: float, state: ScheduleState, step: int, settings: ScheduleSettings) -> float:
    """Returns the learning rate of update `step` (from 0)."""
    rate = base * settings.factor**state.cuts
    if step < settings.warmup_updates:
        rate *= (step + 1) / settings.warmup_updates
    return rate
