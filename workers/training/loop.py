"""Trains one stage: epochs of updates, errors after each epoch, and a state from which any update can resume."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from workers.data.loading import TrainingBatches
from workers.errors import Diverged
from workers.numerics import autocast
from workers.protocol import StageSpec
from workers.training.batch_norm import batch_norms, set_modes
from workers.training.evaluation import Evaluation, main_logits, mean_loss
from workers.training.layer_rates import Phase
from workers.training.optimizer import LearningRates
from workers.training.schedule import ScheduleState, after_epoch, has_stalled, learning_rate, whole_epochs


@dataclass(frozen=True)
class EpochSums:
    """Sums over the running epoch; saved, so that a resumed epoch reports the same figures."""

    loss: float = 0.0
    missed: int = 0
    images: int = 0


@dataclass(frozen=True)
class TrainState:
    """All that the next update depends on, besides weights and momentum; `rates` are `LearningRates.last`."""

    step: int = 0
    schedule: ScheduleState = field(default_factory=ScheduleState)
    sums: EpochSums = field(default_factory=EpochSums)
    best_step: int | None = None
    dev_error: float = 1.0
    val_error: float = 1.0
    at_chance: bool = False
    rates: tuple[float, ...] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainState":
        nested = {"schedule": ScheduleState(**value["schedule"]), "sums": EpochSums(**value["sums"])}
        return cls(**{**value, **nested, "rates": tuple(value["rates"])})


@dataclass(frozen=True)
class Stage:
    """All that the loop works on.

    `evaluate` returns errors on dev, which decides on the schedule, and on val, which is only reported.
    A net with an error below `learnt_below_*` is no longer guessing. `later` are the phases of layers' rates that
    `optimizer` was built with.
    """

    spec: StageSpec
    model: nn.Module
    optimizer: torch.optim.SGD
    batches: TrainingBatches
    learnt_below_dev: float
    learnt_below_val: float
    evaluate: Callable[[], tuple[Evaluation, Evaluation]]
    log: Callable[[int, float, Mapping[str, float]], None]
    after_update: Callable[[TrainState, bool], None]
    later: tuple[Phase, ...] = ()


def train(stage: Stage, state: TrainState) -> TrainState:
    """Trains from `state` to the last epoch, or to an earlier one if the schedule ends a stalled stage.

    `after_update(state, epoch_ended)` may save, or raise to stop.
    """
    per_epoch = stage.batches.per_epoch
    total = per_epoch * stage.spec.recipe.schedule.epochs
    clock = _Stopwatch()
    log_every = max(1, min(50, per_epoch // 2))
    rates = LearningRates(stage.optimizer, stage.spec.recipe.optimizer.velocity, stage.later, state.rates)
    norms = batch_norms(stage.model)
    while state.step < total and not has_stalled(state.schedule, stage.spec.recipe.schedule):
        epoch, index = divmod(state.step, per_epoch)
        state = _update(stage, state, epoch, index, clock, rates, norms)
        epoch_ended = state.step % per_epoch == 0
        if epoch_ended:
            state = _end_epoch(stage, state, clock)
        elif state.step % log_every == 0:
            stage.log(state.step, state.step / per_epoch, {**_running(state.sums), **clock.lap()})
        stage.after_update(state, epoch_ended)
    return state


def _update(
    stage: Stage,
    state: TrainState,
    epoch: int,
    index: int,
    clock: "_Stopwatch",
    rates: LearningRates,
    norms: Sequence[_BatchNorm],
) -> TrainState:
    """One update of momentum SGD."""
    with clock.waiting():
        batch = stage.batches.draw(epoch, index)
    device = stage.spec.numerics.device
    images, labels = batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
    rates.set(
        learning_rate(stage.spec.recipe.optimizer.lr, state.schedule, state.step, stage.spec.recipe.schedule),
        state.step,
    )
    if not stage.model.training:
        stage.model.train()
    set_modes(norms, len(labels))
    # Dropout depends on (seed, step) only, so no generator state has to be saved.
    torch.manual_seed((stage.spec.seed * 1_000_003 + state.step) % 2**63)
    with autocast(stage.spec.numerics):
        outputs = stage.model(images)
    loss = mean_loss(outputs, labels)
    stage.optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    _refuse_divergence(stage, state.step, loss.item())
    stage.optimizer.step()
    clock.images += len(labels)
    sums = EpochSums(
        loss=state.sums.loss + loss.item() * len(labels),
        missed=state.sums.missed + int((main_logits(outputs).argmax(dim=1) != labels).sum()),
        images=state.sums.images + len(labels),
    )
    return replace(state, step=state.step + 1, sums=sums, rates=rates.last)


def _refuse_divergence(stage: Stage, step: int, loss: float) -> None:
    """Raises before a NaN or infinity reaches the weights; clips the gradient if `clip_norm` is set."""
    gradients = [p.grad for p in stage.model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if not (torch.isfinite(norm) and torch.isfinite(torch.tensor(loss))):
        message = f"update {step}: loss {loss}, gradient norm {norm.item()}; lower optimizer.lr or set clip_norm"
        raise Diverged(message, step=step)
    limit = stage.spec.recipe.optimizer.clip_norm
    if limit > 0:
        torch.nn.utils.clip_grads_with_norm_(stage.model.parameters(), limit, norm)


def _end_epoch(stage: Stage, state: TrainState, clock: "_Stopwatch") -> TrainState:
    """Scores the epoch, advances the schedule, and notes whether this is the best epoch so far."""
    timing = clock.lap()
    settings = stage.spec.recipe.schedule
    dev, val = stage.evaluate()
    clock.restart()
    if not (dev.finite and val.finite):
        message = f"after update {state.step}: outputs on held-out images are not finite; lower optimizer.lr"
        raise Diverged(message, step=state.step)
    schedule = after_epoch(state.schedule, dev.top1_error, settings, stage.learnt_below_dev)
    improved = dev.top1_error < state.schedule.best_error
    flagged_from = whole_epochs(settings.at_chance_after, settings.epochs)
    at_chance = schedule.epochs >= flagged_from and val.top1_error >= stage.learnt_below_val
    rate = learning_rate(stage.spec.recipe.optimizer.lr, state.schedule, state.step - 1, settings)
    metrics = {
        **_running(state.sums),
        **timing,
        "lr": rate,
        "dev/top1_error": dev.top1_error,
        "val/top1_error": val.top1_error,
        "val/top5_error": val.top5_error,
        "at_chance": float(at_chance),
    }
    stage.log(state.step, float(schedule.epochs), metrics)
    return replace(
        state,
        schedule=schedule,
        sums=EpochSums(),
        best_step=state.step if improved or state.best_step is None else state.best_step,
        dev_error=dev.top1_error,
        val_error=val.top1_error,
        at_chance=at_chance,
    )


def _running(sums: EpochSums) -> dict[str, float]:
    return {"train/loss": sums.loss / sums.images, "train/top1_error": sums.missed / sums.images}


class _Stopwatch:
    """Measures images a second and the share of time spent waiting for data, since the last lap."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.images, self._waited, self._since = 0, 0.0, time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        since = time.perf_counter()
        yield
        self._waited += time.perf_counter() - since

    def lap(self) -> dict[str, float]:
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        timing = {"images_per_second": self.images / elapsed, "data_wait": self._waited / elapsed}
        self.restart()
        return timing
