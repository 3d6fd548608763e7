"""Trains one stage of one member to its end, from its newest checkpoint, its ancestor's weights or fresh ones."""

import gc
import hashlib
import logging
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from workers import numerics
from workers.data.loading import (
    Teachers,
    TrainingBatches,
    batches_ahead,
    centre_batches,
    num_batches,
    pixel_statistics,
)
from workers.data.store import Store, open_on_node, without_fold
from workers.errors import CheckFailed, ConfigError, DataError, StorageError
from workers.models import HEAD, Outline, build, fill, initialise, outline, parts_of, place, saved_parts_of, whole_shape
from workers.protocol import StageResult, StageSpec
from workers.settings import AugmentationSettings, ClassWeights, KeptCheckpoint, LossSettings, Sampler
from workers.storage import (
    Checkpoint,
    Contents,
    Weights,
    beat,
    beating,
    fence_of,
    layout,
    newest_checkpoint,
    nothing,
    read_finished,
    read_weights,
    remove_leftovers,
    replacing,
    verify_checkpoint,
    write_bytes,
)
from workers.training.augmented import augmented_sheet
from workers.training.averaging import Average, renew_statistics
from workers.training.evaluation import Evaluation, Outputs, evaluate
from workers.training.gang import Gang, met
from workers.training.gradients import own_images
from workers.training.init_file import load_init_file
from workers.training.layer_rates import Phase, first_standstill, later_phases
from workers.training.loop import Stage, TrainState, score, train
from workers.training.metrics import AVERAGED, MetricsLog, StepMark, cut_back
from workers.training.optimizer import build_optimizer, layer_of, load_state, misfit
from workers.training.saver import Saver, Snapshot
from workers.training.schedule import chance_threshold, whole_epochs


def warm_up() -> None:
    """Keeps collections of garbage from looking at what is loaded by now."""
    gc.freeze()


_log = logging.getLogger(__name__)
# Bytes of a stage's answers, and images of which an error says something.
_MOST_KEPT, _LEAST_IMAGES = 2**22, 100


def run_stage(spec: StageSpec, should_stop: Callable[[], bool]) -> StageResult:
    """Trains `spec` to its end, resuming from its newest valid checkpoint.

    In a gang only rank 0's result is the stage's, and only it stops on request. The others train what it tells them,
    and end when it does.

    Raises:
        Stopped: `should_stop` returned true; the state is in a checkpoint.
        Diverged: loss, gradient, weights or outputs are not finite.
        StorageError: no valid checkpoint is left, or storage fails.
        DataError: the store has nothing to train on.
        ConfigError: the rates leave no layer to train.
        CheckFailed: what its teachers predicted has changed.
        Superseded: a newer attempt has taken over.
        PeerLost: another worker of the gang has ended.
    """
    numerics.apply(spec.numerics)
    if spec.width == 1:
        return _lead(spec, should_stop, None)
    with met(spec) as gang:
        return _lead(spec, should_stop, gang) if gang.rank == 0 else _follow(spec, gang)


def _lead(spec: StageSpec, should_stop: Callable[[], bool], gang: Gang | None) -> StageResult:
    """Trains as the only one who reads and writes the stage's files."""
    fence = fence_of(spec.stage_dir, spec.fence)
    fence.enter()
    check = fence.check
    store, found, model, optimizer, later = _prepared(spec, partial(beat, spec.stage_dir))
    for folder in (spec.stage_dir, (spec.stage_dir / layout.answers("", "")).parent):
        if folder.is_dir():
            remove_leftovers(folder, check=check)
    average = Average(parts_of(model) if spec.keep in (KeptCheckpoint.ema, KeptCheckpoint.swa) else {})
    state, resumed = _begin(spec, found, model, optimizer, average)
    _log.info("%s/%s: from update %d", spec.member, spec.stage, state.step)
    if resumed is None:
        sheet = augmented_sheet(store, spec.recipe, spec.seed, spec.recipe.trained_on)
        write_bytes(spec.stage_dir / layout.AUGMENTED, sheet, check)
    metrics_path = spec.stage_dir / layout.METRICS
    cut_back(metrics_path, state.step, check)
    with closing(MetricsLog(metrics_path)) as metrics, closing(StepMark(spec.stage_dir / layout.STEP)) as mark:
        # Both are open now. A newer attempt puts other files under their names, so no later write can reach its files.
        check()
        mark.set(state.step)
        snapshot = Snapshot(model, optimizer, average)
        if gang is not None:
            _hand_out(gang, state, snapshot)
        classes = hashlib.sha256("\n".join(store.classes).encode()).hexdigest()
        with Saver(spec, store.digest, snapshot, metrics, mark, should_stop, resumed, classes) as saver:
            stage = _assemble(spec, store, model, optimizer, later, average, mark.beat, gang)
            stage = replace(stage, log=metrics.append, is_due=saver.is_due, after_update=saver.after_update)
            with closing(stage.batches):
                return _result(stage, saver, train(stage, state), mark, resumed_from=state.step)


def _follow(spec: StageSpec, gang: Gang) -> StageResult:
    """Trains along with rank 0, from the state that it hands out."""
    # Averages are kept, and epochs are picked, by rank 0.
    spec = replace(spec, keep=KeptCheckpoint.last)
    store, _, model, optimizer, later = _prepared(spec, nothing)
    state = begun = TrainState.from_json(gang.share(None))
    fill(saved_parts_of(model), gang.share_arrays({}))
    load_state(model, optimizer, {name: torch.from_numpy(value) for name, value in gang.share_arrays({}).items()})
    stage = _assemble(spec, store, model, optimizer, later, Average({}), nothing, gang)
    with closing(stage.batches):
        state = train(stage, begun)
    return StageResult(state.step, begun.step, "", "", state.dev_error, state.val_error, state.at_chance)


def _hand_out(gang: Gang, state: TrainState, snapshot: Snapshot) -> None:
    """Gives the other workers what they begin with, as a checkpoint has it."""
    copied = snapshot.take()
    gang.share(asdict(state))
    gang.share_arrays(copied.model)
    gang.share_arrays(copied.optimizer or {})


def _prepared(
    spec: StageSpec, beat: Callable[[], None]
) -> tuple[Store, Outline, nn.Module, torch.optim.Optimizer, tuple[Phase, ...]]:
    """Returns the store, the net with its outline and optimizer, and the later phases of its layers' rates."""
    store = without_fold(open_on_node(spec.store, spec.local_copy, beat), spec.fold)
    if not store.counts.get("train"):
        raise DataError(f"{spec.store}: no training images; check the dataset's root and splits")
    model = build(spec.recipe.model, store.num_classes).to(memory_format=torch.channels_last)
    found = outline(spec.recipe.model, store.num_classes)
    place(model, spec.numerics.device, spec.numerics.convolutions)
    frozen, lr_scale = found.select_all(spec.recipe.freeze), found.factors(spec.recipe.lr_scale)
    per_epoch = num_batches(
        sum(store.counts[split] for split in spec.recipe.trained_on), spec.recipe.optimizer.batch_size
    )
    later = later_phases(found, lr_scale, spec.recipe.schedule, per_epoch)
    layer_decay = found.factors(spec.recipe.optimizer.layer_decay)
    heads = found.select(HEAD)
    optimizer = build_optimizer(model, spec.recipe.optimizer, frozen, lr_scale, later, layer_decay, heads)
    total, trained = per_epoch * spec.recipe.schedule.epochs, set(found.layers) - frozen
    # The plan checks this too, but with a count of images that is an upper bound.
    if (update := first_standstill(lr_scale, later, trained, total)) is not None:
        raise ConfigError(f"lr_scale, schedule.rate_changes: from update {update} on no layer is left to train")
    return store, found, model, optimizer, later


def _begin(
    spec: StageSpec, found: Outline, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average
) -> tuple[TrainState, Checkpoint | None]:
    """Fills what trains, and returns the state and the checkpoint to resume from; None at a fresh start.

    The arrays read from disk are freed before training starts.
    """
    saved = newest_checkpoint(
        spec.stage_dir / layout.CHECKPOINTS,
        lambda found: _misfit(found, spec, model, optimizer, average),
        fence_of(spec.stage_dir, spec.fence).check,
    )
    if saved is None:
        _start(model, found, spec)
        return TrainState(), None
    if saved.state.get("taught_by", []) != spec.taught_by:
        raise CheckFailed(
            f"{saved.checkpoint.folder}: learned from other predictions than its teachers have now; restore those, or "
            f"delete {spec.stage_dir} and train it again"
        )
    _load_weights(model, saved, only=None)
    load_state(model, optimizer, {name: torch.from_numpy(value) for name, value in saved.optimizer.items()})
    fill(average.parts, saved.optimizer)
    return TrainState.from_json(saved.state["train"]), saved.checkpoint


def _misfit(
    saved: Contents, spec: StageSpec, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average
) -> str:
    """Returns why this stage cannot resume from a checkpoint whose hashes are right; empty if it can."""
    if saved.checkpoint.stage_hash not in (spec.stage_hash, *spec.shorter):
        return "it is of another stage"
    wanted = {name: whole_shape(parts) for name, parts in {**saved_parts_of(model), **average.parts}.items()}
    averages = {name: value for name, value in saved.optimizer.items() if name in average.parts}
    held = {**saved.model, **averages}
    for name, shape in wanted.items():
        found = held.get(name)
        if found is None or found.shape != shape:
            return f"{name} is {'missing' if found is None else found.shape}, the model wants {shape}"
    own = {name: value for name, value in saved.optimizer.items() if name not in averages}
    if why := misfit(own, model, optimizer):
        return why
    try:
        state = TrainState.from_json(saved.state["train"])
    except (KeyError, TypeError, ValueError) as error:
        return f"its state.json is not of this program ({error})"
    if state.step != saved.checkpoint.step or len(state.rates) not in (0, len(optimizer.param_groups)):
        return "its state.json is of another step or optimizer"
    if bool(state.loss_scale) != (spec.numerics.precision == "fp16"):
        return "its state.json has a loss scale, or lacks it, against the run's precision"
    return ""


def _start(model: nn.Module, found: Outline, spec: StageSpec) -> None:
    """Draws weights from the seed, then loads the ancestor's or the given file's into every layer that is not reset."""
    initialise(model, spec.recipe.init, spec.seed)
    if spec.init_dir is not None:
        finished = read_finished(spec.init_dir)
        ancestor = read_weights(spec.init_dir / layout.CHECKPOINTS / finished.checkpoint)
        layers = set(found.layers) - found.select_all(spec.recipe.reset)
        _load_weights(model, ancestor, only=layers)
    if spec.init_file is not None:
        load_init_file(model, spec.init_file, found.select_all(spec.recipe.reset))


def _load_weights(model: nn.Module, weights: Weights, only: set[str] | None) -> None:
    """Copies weights by name; the shapes must be equal. `only` names the layers to copy; None copies all."""
    every = saved_parts_of(model)
    wanted = {name: parts for name, parts in every.items() if only is None or layer_of(name) in only}
    for name, parts in wanted.items():
        value, shape = weights.model.get(name), whole_shape(parts)
        if value is None or value.shape != shape:
            found = "missing" if value is None else f"{value.shape}"
            raise StorageError(
                f"{weights.checkpoint.folder}: {name} is {found}, the model wants {shape}; "
                f"add {layer_of(name)} to the stage's reset"
            )
    fill(wanted, weights.model)


def _assemble(
    spec: StageSpec,
    store: Store,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    later: tuple[Phase, ...],
    average: Average,
    beat: Callable[[], None],
    gang: Gang | None,
) -> Stage:
    settings, device = spec.recipe, spec.numerics.device
    statistics = pixel_statistics(store, settings.augmentation, spec.normaliser)
    held_out = [split for split in ("dev", "val") if store.counts.get(split) and split not in settings.trained_on]
    if not held_out and settings.schedule.looks:
        raise DataError(f"{spec.store}: no dev or val images to schedule by; raise dev_fraction or val_fraction")
    told = (store.num_classes, settings.distil.temperature)
    steering, scored = (held_out[0], held_out[-1]) if held_out else ("train", "train")

    def errors(epochs: int) -> tuple[Evaluation | None, Evaluation | None]:
        found = {}
        for split in held_out:
            batches = centre_batches(store, split, statistics, settings.model.input_size, device=device)
            every = _kept_every(spec, store, split) if split == steering else 0
            found[split] = evaluate(model, beating(batches, beat), spec.numerics, every)
            if every:
                _keep_answers(spec, store, split, epochs, found[split], every)
        return found.get(steering), found.get("val")

    return Stage(
        spec=spec,
        model=model,
        forward=_forward(model, spec),
        optimizer=optimizer,
        batches=TrainingBatches(
            store,
            statistics,
            settings.augmentation,
            seed=spec.seed,
            batch_size=settings.optimizer.batch_size,
            input_size=settings.model.input_size,
            colour_epochs=whole_epochs(settings.augmentation.colour_until, settings.schedule.epochs),
            device=device,
            depth=batches_ahead(spec.numerics),
            threads=spec.numerics.threads,
            splits=settings.trained_on,
            teachers=Teachers(spec.teachers, *told, beat) if spec.teachers else None,
            own=partial(own_images, settings=settings.optimizer, rank=spec.rank, width=spec.width),
        ),
        learnt_below_dev=_learnt_below(store, steering, settings.augmentation),
        learnt_below_val=_learnt_below(store, scored, settings.augmentation),
        evaluate=errors,
        later=later,
        criterion=_criterion(settings.loss, store, settings.trained_on).to(device),
        average=average,
        gang=gang,
    )


def _kept_every(spec: StageSpec, store: Store, split: str) -> int:
    """Returns how far images are apart of which answers are kept; 0 if a stage's answers would be too large."""
    fit = _MOST_KEPT // (2 * store.num_classes * spec.recipe.schedule.epochs)
    return -(-store.counts[split] // fit) if fit >= min(_LEAST_IMAGES, store.counts[split]) else 0


def _keep_answers(spec: StageSpec, store: Store, split: str, epoch: int, found: Evaluation, every: int) -> None:
    """Keeps what the net says of evenly spaced images, for the ensemble's curve."""
    labels, path = store.labels(split), spec.stage_dir / layout.answers(split, epoch)
    assert labels is not None and found.probabilities is not None
    with replacing(path, fence_of(spec.stage_dir, spec.fence).check) as file:
        np.savez(file, probabilities=found.probabilities.cpu().numpy(), labels=labels[::every])


def _criterion(settings: LossSettings, store: Store, splits: tuple[str, ...]) -> nn.CrossEntropyLoss:
    labels, given, weights = store.labels(*splits), settings.class_weights, None
    assert labels is not None
    counts = np.bincount(labels, minlength=store.num_classes)
    if given is not ClassWeights.none:
        relative = 1.0 / np.maximum(counts, 1)
        if isinstance(given, Mapping):
            relative = np.array([given[name] for name in store.classes])
        # An image's mean weight is 1: torch divides the loss of mixed labels by images, not by weights.
        weights = torch.tensor(relative * (len(labels) / (relative * counts).sum()), dtype=torch.float32)
    return nn.CrossEntropyLoss(weights, label_smoothing=settings.label_smoothing)


def _learnt_below(store: Store, split: str, settings: AugmentationSettings) -> float:
    labels = store.labels(split)
    assert labels is not None
    counts = np.bincount(labels)
    if split == "train" and settings.sampler is Sampler.balanced:
        # Of the images that a net sees in training: those of a large class are not more.
        counts = np.full(np.count_nonzero(counts), len(labels) // np.count_nonzero(counts))
    return chance_threshold(counts.tolist())


def _forward(model: nn.Module, spec: StageSpec) -> Callable[[Tensor], Outputs]:
    """Returns the forward pass in training.

    A CUDA graph's gradients lie in memory that its next replay overwrites, so where a batch goes through the net in
    pieces it is compiled without graphs.
    """
    optimizer, chosen = spec.recipe.optimizer, spec.numerics
    in_pieces = optimizer.most_at_once < optimizer.batch_size
    mode = "fused" if in_pieces and chosen.compile == "graphs" else chosen.compile
    forward: Callable[[Tensor], Outputs] = numerics.compiled(model, replace(chosen, compile=mode))
    return forward


def _result(stage: Stage, saver: Saver, state: TrainState, mark: StepMark, resumed_from: int) -> StageResult:
    chosen, keep = saver.finish(state), stage.spec.keep
    if keep is KeptCheckpoint.best:
        chosen = verify_checkpoint(chosen.folder.with_name(layout.checkpoint(state.best_step or state.step)))
    elif keep is not KeptCheckpoint.last and not stage.spec.pauses:
        # All of it follows from checkpoints that are committed, so a stage killed here ends with the same bits.
        average = stage.average if keep is not KeptCheckpoint.soup else _soup(stage, state, chosen.folder.parent)
        average.put_into_net()
        renew_statistics(stage.model, stage.optimizer, stage.batches, stage.spec, mark.beat)
        state, errors = score(stage, state, state.schedule.epochs)
        stage.log(state.step, float(state.schedule.epochs), {**errors, AVERAGED: 1.0})
        chosen = saver.write_averaged(state)
    return StageResult(
        num_updates=state.step,
        resumed_from=resumed_from,
        checkpoint=chosen.folder.name,
        checkpoint_sha256=chosen.model_sha256,
        dev_error=state.dev_error,
        val_error=state.val_error,
        at_chance=state.at_chance,
        best_epochs=None if state.best_step is None else state.best_step // stage.batches.per_epoch,
        cut_at=state.schedule.cut_at,
    )


def _soup(stage: Stage, state: TrainState, folder: Path) -> Average:
    average = Average(parts_of(stage.model))
    for count, step in enumerate(sorted(dict(state.soup)), start=1):
        fill(parts_of(stage.model), read_weights(folder / layout.checkpoint(step)).model)
        average.take_in(1 / count)
    return average
