"""Measures how much of an image is left in each layer of an untrained net, to explain why some initial weights stall.

    python -m benchmarks.fresh_signal STORE [--images 128] [--seeds 3]

STORE is a prepared dataset. For each kind of initial weights, on held-out images, it prints two figures. One is the
share of a layer's activity that differs between images: the standard deviation of a unit over images, divided by the
root mean square, over all units; a convolution includes everything up to the next one. The other is the norm of the
gradient over that of the weights. Both are medians over seeds.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from workers.data.loading import centre_batches, pixel_statistics
from workers.data.store import open_store
from workers.models import AlexNet, build, initialise
from workers.settings import AugmentationSettings, InitScheme, InitSettings, ModelSettings, Normalisation

RELEASED = dict.fromkeys(("conv3", "conv4", "conv5"), 0.03)
WAYS = {
    "article: std 0.01, biases 1": InitSettings(InitScheme.gaussian, 0.01, 1.0),
    "biases 0.1": InitSettings(InitScheme.gaussian, 0.01, 0.1),
    "biases 0": InitSettings(InitScheme.gaussian, 0.01, 0.0),
    "release: std 0.03 in conv3-5": InitSettings(InitScheme.gaussian, 0.01, 1.0, RELEASED),
    "He, biases 0": InitSettings(InitScheme.he, 0.01, 0.0),
}
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def measured(init: InitSettings, images: Tensor, labels: Tensor, num_classes: int, seed: int) -> dict[str, list[float]]:
    """Returns, by layer, the share of its outputs that differs between images, and norm of gradient over weights."""
    model = build(ModelSettings(), num_classes)
    initialise(model, init, seed)
    model.eval()
    assert isinstance(model, AlexNet)
    outputs: dict[str, Tensor] = {}
    for name in LAYERS[5:]:
        hook = partial(_note, outputs, name)
        model.get_submodule(name).register_forward_hook(hook)
    hidden = images
    for index, conv in enumerate(model.layers.convs):
        hidden = outputs[conv.name] = model.convolve(index, hidden)
    functional.cross_entropy(model(hidden, first=len(model.layers.convs)), labels).backward()
    shares, ratios = [], []
    for name in LAYERS:
        output = outputs[name].detach().float()
        between = output.std(dim=0).square().mean().sqrt()
        shares.append((between / output.square().mean().sqrt()).item())
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        assert layer.weight.grad is not None
        ratios.append((layer.weight.grad.norm() / layer.weight.detach().norm()).item())
    return {"share": shares, "ratio": ratios}


def _note(outputs: dict[str, Tensor], name: str, _layer: nn.Module, _inputs: object, output: Tensor) -> None:
    outputs[name] = output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    store = open_store(arguments.store)
    statistics_of = pixel_statistics(store, AugmentationSettings(normalisation=Normalisation.imagenet))
    # Rows are sorted by class: take every k-th, so that all classes are included.
    split = "dev" if store.counts["dev"] else "val"
    batches = list(centre_batches(store, split, statistics_of, ModelSettings().input_size))
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    chosen = torch.arange(0, len(images), max(1, len(images) // arguments.images))
    for figure, title in (
        ("share", "share of activity that differs between images"),
        ("ratio", "gradient over weights"),
    ):
        print(f"\n| {title} | " + " | ".join(LAYERS) + " |\n" + "|---" * (len(LAYERS) + 1) + "|")
        for name, init in WAYS.items():
            runs = [
                measured(init, images[chosen], labels[chosen], store.num_classes, seed)[figure]
                for seed in range(arguments.seeds)
            ]
            medians = [statistics.median(values) for values in zip(*runs, strict=True)]
            print(f"| {name} | " + " | ".join(f"{value:.1e}" for value in medians) + " |")


if __name__ == "__main__":
    main()
