"""Averages of a net's weights over the course of a stage; buffers are not averaged, but batch norm's are renewed."""

from collections.abc import Callable, Mapping, Sequence
from math import ceil

import torch
from torch import Tensor, nn

from workers.data.loading import TrainingBatches
from workers.numerics import autocast
from workers.protocol import StageSpec
from workers.training.batch_norm import batch_norms
from workers.training.gradients import dropout_seed, shards
from workers.training.schedule import whole_epochs

# Some thousands are enough (Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm", §3).
_RENEWING_IMAGES = 10_000


class Average:
    """An average of a net's `weights`, as `parts_of` gives them; zero until the first are taken in.

    `parts` are its tensors, in the weights' own parts, by their names in checkpoints.
    """

    def __init__(self, weights: Mapping[str, tuple[nn.Parameter, ...]]) -> None:
        self.parts = {f"average/{name}": tuple(map(torch.zeros_like, parts)) for name, parts in weights.items()}
        self._own = [part for parts in self.parts.values() for part in parts]
        self._current: list[Tensor] = [part for parts in weights.values() for part in parts]

    @torch.no_grad()
    def take_in(self, share: float) -> None:
        """Moves the average by `share` of its distance to the weights, as torch's `AveragedModel` does; 1 copies."""
        if share == 1:
            torch._foreach_copy_(self._own, self._current)
        else:
            torch._foreach_lerp_(self._own, self._current, share)

    @torch.no_grad()
    def put_into_net(self) -> None:
        torch._foreach_copy_(self._current, self._own)


def ema_share(decay: float, step: int) -> float:
    """Returns the share by which update `step` (from 0) moves an exponential average of `decay`.

    At first the decay is lower: a constant 0.999 would leave three quarters of the first weights after 300 updates.
    """
    return 1 - min(decay, (1 + step) / (10 + step)) if step else 1.0


def swa_share(spec: StageSpec, epochs: int) -> float:
    """Returns the share by which the end of an epoch, after `epochs` in all, moves the average of late epochs."""
    num_epochs = spec.recipe.schedule.epochs if spec.pauses else spec.until or spec.recipe.schedule.epochs
    late = epochs - max(1, whole_epochs(spec.recipe.averaging.swa_from, num_epochs))
    return 1 / (late + 1) if late >= 0 else 0.0


def next_soup(
    soup: Sequence[tuple[int, float]], epoch: tuple[int, float], size: int, *, is_last: bool
) -> tuple[tuple[int, float], ...]:
    """Returns which epochs' ends to average after one more, each as (step, dev error); of equal ones the earlier."""
    every = (*soup, epoch)
    return every[-size:] if is_last else tuple(sorted(every, key=lambda one: one[1])[:size])


@torch.no_grad()
def renew_statistics(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: TrainingBatches,
    spec: StageSpec,
    beat: Callable[[], None],
) -> None:
    """Computes the running statistics of batch norms again, those of frozen layers excepted; ends their training.

    They are means over the batches of the first epoch that hold 10,000 images, each batch alike as in torch's
    `update_bn`, in the pieces and with the dropout of training. `beat` is called for each batch.
    """
    groups = (group["params"] for group in optimizer.param_groups if any(group["scales"]))
    trained = {parameter for parameters in groups for parameter in parameters}
    norms = {norm: not norm.affine or norm.weight in trained for norm in batch_norms(model)}
    for norm in (norm for norm, is_renewed in norms.items() if is_renewed):
        norm.reset_running_stats()
        norm.momentum = None
    batches.draw_whole()
    num_batches = min(batches.per_epoch, ceil(_RENEWING_IMAGES / spec.recipe.optimizer.batch_size))
    model.train()
    for step in range(num_batches if any(norms.values()) else 0):
        batch = batches.take(step)
        for number, pieces in shards(len(batch), spec.recipe.optimizer):
            torch.manual_seed(dropout_seed(spec.seed, step, number))
            for part in (batch[piece] for piece in pieces):
                for norm, is_renewed in norms.items():
                    norm.train(is_renewed and len(part) > 1)
                with autocast(spec.numerics):
                    model(part.images)
        beat()
