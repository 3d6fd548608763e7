"""Schedules the learning rate: by default cut 10-fold when dev error stalls (Krizhevsky et al. 2012, §5). Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, pi

from workers.settings import Decay, ScheduleSettings

# In epochs. 25/91 of 91 is 25.000000000000004 in binary, and must not mean 26; nor must 0.27472528 in a file.
_ROUNDING = 1e-6
_CUTTING = (Decay.plateau, Decay.fixed)
# Torch's default.
_ONE_CYCLE_START = 1 / 25


@dataclass(frozen=True)
class ScheduleState:
    """The schedule's state after some epochs; saved with every checkpoint. Epochs in `cut_at` ended in a cut."""

    epochs: int = 0
    cuts: int = 0
    best_error: float = 1.0
    epochs_since_best: int = 0
    cut_at: tuple[int, ...] = ()


def whole_epochs(share: float, epochs: int) -> int:
    """Returns the number of epochs after which `share` of `epochs` is reached."""
    return ceil(share * epochs - _ROUNDING)


def chance_threshold(class_counts: Sequence[int]) -> float:
    """Returns the error below which a net has learnt something: chance less two standard errors.

    Chance is the error of naming the largest class for every image. With few images of other classes two standard
    errors may be all of it; then a net without any error has learnt.

    Args:
        class_counts: images by class of the split that is looked at.
    """
    num_images = sum(class_counts)
    chance = 1.0 - max(class_counts) / num_images
    standard_error: float = (chance * (1.0 - chance) / num_images) ** 0.5
    threshold = chance - 2.0 * standard_error
    return threshold if threshold > 0 else 0.5 / num_images


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
    if state.cuts >= settings.cuts or settings.decay not in _CUTTING:
        return moved
    due = bool(settings.latest) and epochs >= whole_epochs(settings.latest[state.cuts], settings.epochs)
    stalled = settings.decay is Decay.plateau and waited >= settings.patience
    if not (due or stalled):
        return moved
    return replace(moved, cuts=state.cuts + 1, epochs_since_best=0, cut_at=(*state.cut_at, epochs))


def has_stalled(state: ScheduleState, settings: ScheduleSettings) -> bool:
    """Returns whether a stage that may end early ends now: no cut is left, and dev error has stopped improving."""
    is_cut_left = settings.decay in _CUTTING and state.cuts < settings.cuts
    return settings.stop_when_stalled and not is_cut_left and state.epochs_since_best >= settings.patience


def warm_up_updates(settings: ScheduleSettings, num_updates: int) -> int:
    """Returns how many of a stage's `num_updates` raise the rate."""
    return max(settings.warmup_updates, whole_epochs(settings.warmup_share, num_updates))


def learning_rate(base: float, state: ScheduleState, step: int, settings: ScheduleSettings, num_updates: int) -> float:
    """Returns the learning rate of update `step` (from 0) of `num_updates`."""
    rise = warm_up_updates(settings, num_updates)
    if settings.decay is Decay.one_cycle:
        return base * _one_cycle(step, rise, num_updates, settings.final_lr_share)
    if settings.decay is Decay.cosine:
        fall = max(0, step - rise) / max(1, num_updates - rise)
        rate = base * _half_cosine(1.0, settings.final_lr_share, fall)
    else:
        cuts = state.epochs // settings.step_epochs if settings.decay is Decay.step else state.cuts
        rate = base * settings.factor**cuts
    if step < rise:
        rate *= (step + 1) / rise
    return rate


def _one_cycle(step: int, rise: int, num_updates: int, end: float) -> float:
    top = rise - 1
    if step < top:
        return _half_cosine(_ONE_CYCLE_START, 1.0, step / top)
    return _half_cosine(1.0, end, (step - top) / max(1, num_updates - 1 - top))


def _half_cosine(start: float, end: float, share: float) -> float:
    """Returns the value between `start` and `end` after `share` of the way; it changes slowest at both ends."""
    return end + (start - end) * (1 + cos(pi * share)) / 2
