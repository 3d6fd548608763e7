"""The gradient of one batch, summed over shards whose results do not depend on who computes them.

A batch is cut into a fixed number of shards. Each draws its own dropout and has its own batch statistics, and their
gradients are summed in order, in float32. A shard may go through the net in smaller pieces to save memory.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from workers.data.loading import Batch
from workers.numerics import autocast
from workers.protocol import Numerics
from workers.settings import Distil, OptimizerSettings
from workers.training.batch_norm import RunningStatistics, set_modes
from workers.training.evaluation import CROSS_ENTROPY, Outputs, main_logits, mean_loss
from workers.training.gang import Gang
from workers.training.mixing import Mix

NOT_TAUGHT = Distil()


@dataclass(frozen=True)
class Measured:
    """The mean loss over a batch, and how many images' labels (of a mixed image, the larger) were missed: scalars."""

    loss: Tensor
    missed: Tensor


def shards(num_images: int, settings: OptimizerSettings) -> Iterator[tuple[int, list[slice]]]:
    """Yields each shard's number and the pieces of the batch that it is computed in.

    Shards differ by one image at most, the larger ones first; those without an image are left out.
    """
    sizes = [len(part) for part in np.array_split(np.arange(num_images), settings.shards)]
    start = 0
    for number, size in enumerate(sizes):
        if size:
            at_once, end = settings.micro_batch or size, start + size
            yield number, [slice(first, min(first + at_once, end)) for first in range(start, end, at_once)]
        start += size


def own_shards(num_images: int, settings: OptimizerSettings, rank: int, width: int) -> list[tuple[int, list[slice]]]:
    """Returns those of `shards` that a gang's worker computes: a run of neighbours, none of a very short batch."""
    run = np.array_split(np.arange(settings.shards), width)[rank]
    return [(number, pieces) for number, pieces in shards(num_images, settings) if number in run]


def own_images(num_images: int, settings: OptimizerSettings, rank: int, width: int) -> slice:
    """Returns the images of a batch that a gang's worker computes."""
    pieces = [piece for _, pieces in own_shards(num_images, settings, rank, width) for piece in pieces]
    return slice(pieces[0].start, pieces[-1].stop) if pieces else slice(0, 0)


def dropout_seed(seed: int, step: int, shard: int) -> int:
    """Returns the seed of a shard's dropout in update `step`; nothing of a generator has to be saved."""
    if shard == 0:
        return (seed * 1_000_003 + step) % 2**63
    return int(np.random.SeedSequence([seed, step, shard]).generate_state(1, np.uint64)[0]) % 2**63


def compute_gradients(
    forward: Callable[[Tensor], Outputs],
    parameters: Sequence[nn.Parameter],
    norms: Sequence[_BatchNorm],
    batch: Batch,
    settings: OptimizerSettings,
    numerics: Numerics,
    seeds: Callable[[int], int],
    place: Tensor | None = None,
    criterion: nn.CrossEntropyLoss = CROSS_ENTROPY,
    mix_of: Callable[[int], Mix | None] = lambda _: None,
    scale: Callable[[Tensor], Tensor] = lambda loss: loss,
    distil: Distil = NOT_TAUGHT,
    gang: Gang | None = None,
) -> Measured:
    """Leaves in `parameters` the gradient of the mean loss over `batch`, in place of what was there.

    Args:
        forward: the net, in training mode; takes normalised [images, 3, size, size].
        parameters: of the net.
        norms: its batch norms, whose running statistics take in the shards in order; one shard is left to torch.
        batch: on the device.
        settings: say how it is cut.
        numerics: the precision.
        seeds: a shard's seed of dropout, by the shard's number.
        place: memory on the device for the images of the largest piece, as `to_input` takes it; None for new memory.
        criterion: on the device.
        mix_of: how a shard is mixed, by the shard's number; a mixed one is whole.
        scale: of the loss, and so of the gradient.
        distil: how much the teachers' probabilities count, of a batch that has them.
        gang: computes the shards together; what is left and returned is then of all of them. None for one worker.
    """
    losses, missed, seen = [], [], []
    total: dict[nn.Parameter, Tensor] = {}
    apart: list[dict[nn.Parameter, Tensor]] = []
    statistics = RunningStatistics(norms if settings.shards > 1 else ())
    rank, width = (0, 1) if gang is None else (gang.rank, gang.width)
    for number, pieces in own_shards(len(batch), settings, rank, width):
        for parameter in parameters:
            parameter.grad = None
        torch.manual_seed(seeds(number))
        mix = mix_of(number)
        for piece in pieces:
            part = batch[piece]
            set_modes(norms, len(part))
            with autocast(numerics):
                images = part.images_in(place)
                outputs = forward(images if mix is None else mix.images(images))
            logits, labels = main_logits(outputs).detach(), part.labels
            targets = labels if mix is None else mix.targets(labels, logits.shape[1])
            loss = mean_loss(outputs, targets, criterion)
            if len(part) < len(batch):
                loss = loss * _share(targets, batch.labels, criterion.weight)
            if part.taught is not None:
                taught = part.taught if mix is None else mix.rows(part.taught)
                of_teachers = mean_loss(outputs, taught, partial(_soft_cross_entropy, distil.temperature))
                # Nothing but the label's part knows weights of classes.
                loss = (1 - distil.weight) * loss + distil.weight * (len(part) / len(batch)) * of_teachers
            scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            larger = labels if mix is None or mix.share >= 0.5 else labels.roll(1)
            missed.append((logits.argmax(dim=1) != larger).sum())
            seen.append(statistics.captured(loss.detach()))
        own = {parameter: parameter.grad for parameter in parameters if parameter.grad is not None}
        if rank == 0:
            _add(total, own)
        else:
            # They come after the sum of the shards before them, which is not here yet.
            apart.append(own)
    if gang is not None:
        total = gang.add_up([parameter for parameter in parameters if parameter.requires_grad], apart or [total])
        numbers = (losses, missed, seen)
        counts = [
            sum(len(pieces) for _, pieces in own_shards(len(batch), settings, each, width)) for each in range(width)
        ]
        losses, missed, seen = _exchanged(gang, numbers, counts, statistics.columns, batch.labels.device)
    for parameter in parameters:
        parameter.grad = total.get(parameter)
    statistics.take_in(seen)
    return Measured(_sum(losses), _sum(missed))


def _exchanged(
    gang: Gang, own: Sequence[Sequence[Tensor]], counts: Sequence[int], columns: int, device: torch.device
) -> Sequence[list[Tensor]]:
    """Returns losses, missed labels and statistics of all pieces of a batch, in order, given those of this worker."""
    rows = [torch.cat([torch.stack([loss, missed.float()]), row]) for loss, missed, row in zip(*own, strict=True)]
    every = gang.gather(torch.stack(rows) if rows else torch.empty((0, 2 + columns), device=device), counts)
    return [list(every[:, 0].unbind()), list(every[:, 1].unbind()), list(every[:, 2:].unbind())]


def _soft_cross_entropy(temperature: float, logits: Tensor, taught: Tensor) -> Tensor:
    """Returns the cross-entropy at `temperature`, at which `taught` is already, times its square."""
    return temperature**2 * cross_entropy(logits / temperature, taught)


def _share(part: Tensor, batch: Tensor, weights: Tensor | None) -> Tensor | float:
    """Returns the share of a part's mean loss in the batch's; torch divides the loss of labels by their weights."""
    if weights is None or part.is_floating_point():
        return len(part) / len(batch)
    return weights[part].sum() / weights[batch].sum()


def _add(total: dict[nn.Parameter, Tensor], own: dict[nn.Parameter, Tensor]) -> None:
    """Adds one shard's gradients to those of the shards before it."""
    both = [parameter for parameter in own if parameter in total]
    if both:
        torch._foreach_add_([total[parameter] for parameter in both], [own[parameter] for parameter in both])
    total |= {parameter: gradient for parameter, gradient in own.items() if parameter not in total}


def _sum(scalars: list[Tensor]) -> Tensor:
    return scalars[0] if len(scalars) == 1 else torch.stack(scalars).sum()
