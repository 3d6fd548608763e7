"""Computes errors and losses of a model on labelled batches."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from workers.data.loading import Batch
from workers.numerics import autocast
from workers.protocol import Numerics

AUXILIARY_WEIGHT = 0.3
CROSS_ENTROPY = nn.CrossEntropyLoss()
# Logits, or logits followed by those of auxiliary classifiers.
Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Evaluation:
    """Errors in [0, 1]; meaningless if `finite` is false, which means that some logit was not finite.

    `probabilities` are [kept images, classes] in half precision, on the model's device; None if none are kept.
    """

    top1_error: float
    top5_error: float
    finite: bool = True
    probabilities: Tensor | None = field(default=None, compare=False)


def _missed(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Counts the labels that are not among the `k` largest logits, on the device."""
    guesses = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (guesses != labels[:, None]).all(dim=1).sum()


def evaluate(model: nn.Module, batches: Iterable[Batch], numerics: Numerics, keep_every: int = 0) -> Evaluation:
    """Returns top-1 and top-5 error of `model` over `batches`, which are on its device.

    It keeps the probabilities of each `keep_every`-th image; of none with 0. Leaves the model in evaluation mode.
    """
    model.eval()
    num_images, counts, probabilities = 0, [], []
    with torch.inference_mode():
        for batch in batches:
            with autocast(numerics):
                logits = model(batch.images).float()
            if keep_every:
                probabilities.append(logits.softmax(dim=1)[-num_images % keep_every :: keep_every].half())
            num_images += len(batch)
            # topk treats NaN as the largest value, so a broken net would look like one at chance.
            broken = (~torch.isfinite(logits)).sum()
            counts.append(torch.stack([_missed(logits, batch.labels, 1), _missed(logits, batch.labels, 5), broken]))
        # Read once, so that the device works on while the next batch is made.
        missed_top1, missed_top5, broken_logits = torch.stack(counts).sum(dim=0).tolist()
    errors = missed_top1 / num_images, missed_top5 / num_images
    return Evaluation(*errors, broken_logits == 0, torch.cat(probabilities) if keep_every else None)


def main_logits(outputs: Outputs) -> Tensor:
    """Returns the net's own logits, without those of auxiliary classifiers."""
    return outputs if isinstance(outputs, Tensor) else outputs[0]


def mean_loss(
    outputs: Outputs, targets: Tensor, criterion: Callable[[Tensor, Tensor], Tensor] = CROSS_ENTROPY
) -> Tensor:
    """Returns the cross-entropy in float32, plus a share of the auxiliary classifiers' losses.

    Args:
        outputs: logits [batch, classes]; or, as GoogLeNet and Inception give in training, several such tensors, the
            main one first. The others' losses count 0.3 (Szegedy et al. 2014, §5).
        targets: labels, [batch] int64, or mixed ones, [batch, classes] float32.
        criterion: takes logits and targets; may have weights of classes and label smoothing.
    """
    loss = criterion(main_logits(outputs).float(), targets)
    if not isinstance(outputs, Tensor):
        for logits in outputs[1:]:
            loss = loss + AUXILIARY_WEIGHT * criterion(logits.float(), targets)
    return loss
