"""Errors of a model on labelled batches."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.data.batches import Batch
from workers.numerics import autocast
from workers.protocol import Numerics


@dataclass(frozen=True)
class Evaluation:
    """Errors in [0, 1]."""

    top1_error: float
    top5_error: float


def _missed(logits: Tensor, labels: Tensor, k: int) -> int:
    guesses = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return len(labels) - int((guesses == labels[:, None]).any(dim=1).sum())


def evaluate(model: nn.Module, batches: Iterable[Batch], numerics: Numerics) -> Evaluation:
    """Top-1 and top-5 error of `model` over `batches`; leaves the model in evaluation mode."""
    model.eval()
    num_images = missed_top1 = missed_top5 = 0
    with torch.inference_mode():
        for batch in batches:
            with autocast(numerics):
                logits = model(batch.images.to(numerics.device)).float()
            labels = batch.labels.to(numerics.device)
            num_images += len(labels)
            missed_top1 += _missed(logits, labels, 1)
            missed_top5 += _missed(logits, labels, 5)
    return Evaluation(missed_top1 / num_images, missed_top5 / num_images)


def mean_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy in fp32, whatever the precision of the logits."""
    return functional.cross_entropy(logits.float(), labels)
