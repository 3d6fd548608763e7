"""Draws what the net sees: some training images as a stage draws them in its first epochs."""

from dataclasses import replace

import numpy as np
import torch

from workers.data.export import Band, Tile, draw, spread
from workers.data.loading import PixelStatistics, TrainingBatches, Windows, pixel_statistics, to_input
from workers.data.store import Store, centre_square
from workers.settings import Sampler, TrainingSettings
from workers.training.schedule import whole_epochs

_MOST_IMAGES, _EPOCHS = 6, 7


def augmented_sheet(store: Store, settings: TrainingSettings, seed: int, splits: tuple[str, ...] = ("train",)) -> bytes:
    """Returns a PNG with one row an image: the image, then what the net sees of it in each of the first epochs."""
    images, labels = store.images(*splits, whole=True), store.labels(*splits)
    assert labels is not None
    statistics = pixel_statistics(store, settings.augmentation)
    shown = {label: int(np.argmax(labels == label)) for label in spread(store.num_classes)[:_MOST_IMAGES]}
    chosen = np.array(list(shown.values()))
    batches = TrainingBatches(
        store,
        statistics,
        # An epoch of the balanced sampler may lack an image.
        replace(settings.augmentation, sampler=Sampler.shuffled),
        seed=seed,
        batch_size=len(chosen),
        input_size=settings.model.input_size,
        colour_epochs=whole_epochs(settings.augmentation.colour_until, settings.schedule.epochs),
        splits=splits,
    )
    drawn = [batches.draw_images(epoch, chosen) for epoch in range(min(_EPOCHS, settings.schedule.epochs))]
    seen = [to_pixels(batch.images, statistics, batch.windows) for batch in drawn]
    tiles = []
    for row, (label, index) in enumerate(shown.items()):
        tiles.append(Tile(centre_square(images[index], store.size), store.classes[label]))
        tiles += [Tile(pixels[row], f"epoch {epoch + 1}") for epoch, pixels in enumerate(seen)]
    title = f"{store.size} px as prepared, then {settings.model.input_size} px as the net sees them"
    return draw([Band(title, tiles)], 1 + len(seen))


def to_pixels(inputs: torch.Tensor, statistics: PixelStatistics, windows: Windows) -> np.ndarray:
    """Inverts `to_input`: [batch, 3, side, side] float32 to [batch, side, side, 3] uint8, clipped to 0…255."""
    batch, _, side, _ = inputs.shape

    def of_level(level: int) -> torch.Tensor:
        return to_input(torch.full((batch, side, side, 3), level, dtype=torch.uint8), statistics, None, windows)

    # `to_input` is linear in the pixels, so two levels determine it.
    black, white = of_level(0), of_level(255)
    levels = ((inputs - black) / (white - black) * 255).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
