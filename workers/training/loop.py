"""Trains one stage: epochs of updates, errors after each epoch, and a state from which any update can resume."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workers.data.loading import TrainingBatches
from workers.errors import Diverged
from workers.load import read_load
from workers.numerics import convolution_dtype, refusals, shared_casts
from workers.protocol import StageSpec
from workers.settings import KeptCheckpoint, Soup
from workers.training.averaging import Average, ema_share, next_soup, swa_share
from workers.training.batch_norm import batch_norms
from workers.training.evaluation import CROSS_ENTROPY, Evaluation, Outputs
from workers.training.gang import ConstantBuffers, Gang
from workers.training.gradients import compute_gradients, dropout_seed
from workers.training.layer_rates import Phase
from workers.training.mixing import draw_mix
from workers.training.optimizer import LearningRates, LossScale
from workers.training.readings import EpochSums, Readings
from workers.training.schedule import ScheduleState, after_epoch, has_stalled, learning_rate, whole_epochs

_LOAD_EVERY_S = 10.0


@dataclass(frozen=True)
class TrainState:
    """All that the next update depends on, besides weights and the optimizer's state; `rates` are `LearningRates.last`.

    While updates are not read, `sums` and `loss_scale`, which is `LossScale.state()`, lack them. Errors are None until
    an epoch ends, and where nothing is held out. `soup` are the checkpoints to average, as (step, dev error).
    """

    step: int = 0
    schedule: ScheduleState = field(default_factory=ScheduleState)
    sums: EpochSums = field(default_factory=EpochSums)
    best_step: int | None = None
    dev_error: float | None = None
    val_error: float | None = None
    at_chance: bool = False
    rates: tuple[float, ...] = ()
    loss_scale: dict[str, Any] = field(default_factory=dict)
    soup: tuple[tuple[int, float], ...] = ()

    @property
    def kept_steps(self) -> set[int]:
        """The steps of the best checkpoint and of those to average."""
        return {step for step in (self.best_step, *dict(self.soup)) if step is not None}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrainState":
        schedule = {**value["schedule"], "cut_at": tuple(value["schedule"].get("cut_at", ()))}
        nested = {"schedule": ScheduleState(**schedule), "sums": EpochSums(**value["sums"])}
        soup = tuple((step, error) for step, error in value.get("soup", ()))
        return cls(**{**value, **nested, "rates": tuple(value["rates"]), "soup": soup})


@dataclass(frozen=True)
class Stage:
    """All that the loop works on.

    `forward` is the forward pass of `model` in training, perhaps compiled. `evaluate` is given the number of epochs and
    returns errors on dev, which decides on the schedule, and on val, which is only reported; val stands in for an
    absent dev, and None is an absent split. A net is no longer guessing if its error on dev is below
    `learnt_below_dev`, or that on val, or dev, or in training, the first that there is, below `learnt_below_val`.
    `is_due` is told of each update, and says whether `after_update` wants its state; that is also called at each
    epoch's end. `later` are the phases of layers' rates that `optimizer` was built with. `average` is of the weights if
    `spec.keep` is `ema` or `swa`, else of nothing.
    `gang` trains it together: each worker makes every update, and rank 0 alone evaluates, decides and writes.
    """

    spec: StageSpec
    model: nn.Module
    forward: Callable[[Tensor], Outputs]
    optimizer: torch.optim.Optimizer
    batches: TrainingBatches
    learnt_below_dev: float
    learnt_below_val: float
    evaluate: Callable[[int], tuple[Evaluation | None, Evaluation | None]]
    later: tuple[Phase, ...]
    average: Average
    criterion: nn.CrossEntropyLoss = CROSS_ENTROPY
    log: Callable[[int, float, Mapping[str, float]], None] = lambda *_: None
    is_due: Callable[[int], bool] = lambda _: False
    after_update: Callable[[TrainState, bool], None] = lambda *_: None
    gang: Gang | None = None


def train(stage: Stage, state: TrainState) -> TrainState:
    """Trains from `state` to the last epoch, to the one before which the stage pauses, or until it stalls and may end.

    What updates measure is read where it is needed: for a point of metrics, a checkpoint, an epoch's end. Between
    those, the host never waits for the device. `after_update(state, epoch_ended)` may save, or raise to stop.

    Raises:
        Diverged: the loss or the gradient of an update was not finite; no state that came after it is handed on.
        ConfigError: a gang cannot train the net.
        PeerLost: another worker of the gang has ended.
    """
    gang = stage.gang
    per_epoch = stage.batches.per_epoch
    total = per_epoch * (stage.spec.until or stage.spec.recipe.schedule.epochs)
    clock = _Stopwatch(next(stage.model.parameters()).device)
    log_every = max(1, min(50, per_epoch // 2))
    update = _Update(stage, state, log_every, clock)
    while state.step < total and not has_stalled(state.schedule, stage.spec.recipe.schedule):
        state = update.make(state)
        epoch_ended, logs = state.step % per_epoch == 0, state.step % log_every == 0
        is_due = stage.is_due(state.step)
        if not (epoch_ended or logs or is_due):
            continue
        state = replace(state, sums=update.readings.read(state.sums), loss_scale=update.loss_scale.state())
        if epoch_ended:
            if gang is None or gang.rank == 0:
                state = _end_epoch(stage, state, clock)
            if gang is not None:
                state = TrainState.from_json(gang.share(asdict(state)))
        elif logs:
            stage.log(state.step, state.step / per_epoch, {**_running(state.sums), **clock.lap()})
        if epoch_ended or is_due:
            stage.after_update(state, epoch_ended)
    return state


class _Update:
    """One update after another; `readings` has what those since the last reading measured."""

    def __init__(self, stage: Stage, state: TrainState, most_unread: int, clock: "_Stopwatch") -> None:
        self._stage, self._clock = stage, clock
        self._rates = LearningRates(stage.optimizer, stage.spec.recipe.optimizer.velocity, stage.later, state.rates)
        self._norms = batch_norms(stage.model)
        # The order in which their norms are summed: the net's own, also of two halves.
        self._parameters = list(stage.model.parameters())
        self._constant = None if stage.gang is None else ConstantBuffers(stage.model, self._norms)
        settings = stage.spec.recipe
        num_numbers = settings.optimizer.most_at_once * settings.model.input_size**2 * 3
        device, numerics = self._parameters[0].device, stage.spec.numerics
        # Used again for every batch: the next one is written when the gradients of the last are there. A GPU writes
        # what the first layer would convert to.
        precision = convolution_dtype(numerics) if device.type == "cuda" else torch.float32
        self._place = torch.empty(num_numbers, dtype=precision, device=device)
        self.readings = Readings(most_unread, device)
        self.loss_scale = LossScale(stage.optimizer, device, state.loss_scale, enabled=numerics.precision == "fp16")

    def make(self, state: TrainState) -> TrainState:
        """Makes the update after `state`, without waiting for the device."""
        stage, step, recipe = self._stage, state.step, self._stage.spec.recipe
        with self._clock.waiting():
            batch = stage.batches.take(step)
        self._rates.set(_rate(stage, state, step), step)
        if not stage.model.training:
            stage.model.train()
        # Dropout and mixing depend on (seed, step, shard) only, so no generator state has to be saved.
        seeds = partial(dropout_seed, stage.spec.seed, step)
        mix_of = partial(draw_mix, stage.spec.seed, step, recipe.model.input_size, recipe.augmentation)
        with refusals(recipe.model.name), shared_casts():
            measured = compute_gradients(
                *(stage.forward, self._parameters, self._norms, batch, recipe.optimizer, stage.spec.numerics),
                *(seeds, self._place, stage.criterion, mix_of, self.loss_scale.scale),
                *(recipe.distil, stage.gang),
            )
        if self._constant is not None:
            self._constant.check(recipe.model.name)
        self.loss_scale.unscale()
        norm = self.loss_scale.step(self._clip(recipe.optimizer.clip_norm))
        if stage.spec.keep is KeptCheckpoint.ema:
            stage.average.take_in(ema_share(recipe.averaging.ema_decay, step))
        self.readings.record(step, len(batch), measured.loss, norm, measured.missed)
        self._clock.images += len(batch)
        return replace(state, step=step + 1, rates=self._rates.last)

    def _clip(self, limit: float) -> Tensor:
        """Returns the gradient's norm, a scalar on the device; scales the gradient down if it is above a `limit`."""
        norm = torch.nn.utils.get_total_norm([part.grad for part in self._parameters if part.grad is not None])
        if limit > 0:
            torch.nn.utils.clip_grads_with_norm_(self._parameters, limit, norm)
        return norm


def _end_epoch(stage: Stage, state: TrainState, clock: "_Stopwatch") -> TrainState:
    """Scores the epoch, advances the schedule, and notes whether this is one of the best epochs so far."""
    timing = clock.lap()
    recipe, before = stage.spec.recipe, state.schedule
    running = {**_running(state.sums), **timing, "lr": _rate(stage, state, state.step - 1)}
    state, errors = score(stage, state, before.epochs + 1)
    clock.restart()
    # An error of 1 is never an improvement, so nothing counts as the best epoch.
    seen = 1.0 if state.dev_error is None else state.dev_error
    schedule = after_epoch(before, seen, recipe.schedule, stage.learnt_below_dev)
    improved = seen < before.best_error or (state.dev_error is not None and state.best_step is None)
    stage.log(state.step, float(schedule.epochs), {**running, **errors})
    keep, soup = stage.spec.keep, state.soup
    if keep is KeptCheckpoint.swa and (share := swa_share(stage.spec, schedule.epochs)):
        stage.average.take_in(share)
    if keep is KeptCheckpoint.soup:
        # Where nothing is held out, as in a refit, all errors are 1: the last are taken.
        is_last = recipe.averaging.soup is Soup.last or state.dev_error is None
        soup = next_soup(soup, (state.step, seen), recipe.averaging.soup_checkpoints, is_last=is_last)
    return replace(
        state,
        schedule=schedule,
        sums=EpochSums(),
        best_step=state.step if improved else state.best_step,
        soup=soup,
    )


def score(stage: Stage, state: TrainState, epochs: int) -> tuple[TrainState, dict[str, float]]:
    """Returns `state` with the net's errors after `epochs`, and these as metrics; raises Diverged if not finite."""
    dev, val = stage.evaluate(epochs)
    if not all(each.finite for each in (dev, val) if each is not None):
        message = f"after update {state.step}: outputs on held-out images are not finite; lower optimizer.lr"
        raise Diverged(message, step=state.step)
    dev_error, val_error = (None if each is None else each.top1_error for each in (dev, val))
    in_training = _running(state.sums).get("train/top1_error", 1.0 if state.sums.skipped else None)
    judged = next((each for each in (val_error, dev_error, in_training) if each is not None), None)
    settings, at_chance = stage.spec.recipe.schedule, state.at_chance
    if judged is not None:
        flagged_from = whole_epochs(settings.at_chance_after, settings.epochs)
        at_chance = epochs >= flagged_from and judged >= stage.learnt_below_val
    metrics = {"at_chance": float(at_chance)}
    if dev is not None:
        metrics["dev/top1_error"] = dev.top1_error
    if val is not None:
        metrics |= {"val/top1_error": val.top1_error, "val/top5_error": val.top5_error}
    return replace(state, dev_error=dev_error, val_error=val_error, at_chance=at_chance), metrics


def _rate(stage: Stage, state: TrainState, step: int) -> float:
    recipe, num_updates = stage.spec.recipe, stage.batches.per_epoch * stage.spec.recipe.schedule.epochs
    return learning_rate(recipe.optimizer.lr, state.schedule, step, recipe.schedule, num_updates)


def _running(sums: EpochSums) -> dict[str, float]:
    skipped = {"train/skipped": float(sums.skipped)} if sums.skipped else {}
    if not sums.images:
        return skipped
    return {"train/loss": sums.loss / sums.images, "train/top1_error": sums.missed / sums.images, **skipped}


class _Stopwatch:
    """Measures images a second, the share of time spent waiting for data, and every ten seconds the load."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._load_due = device, 0.0
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
        if self._since >= self._load_due:
            self._load_due = self._since + _LOAD_EVERY_S
            timing |= read_load() | _gpu_memory(self._device)
        return timing


def _gpu_memory(device: torch.device) -> dict[str, float]:
    """Returns what all processes use of a GPU's memory, if it is there, without waiting for the device."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info(device)
    name, used = f"system/gpu_{device.index or 0}_memory_usage", total - free
    return {f"{name}_megabytes": used / 1e6, f"{name}_percentage": 100 * used / total}
