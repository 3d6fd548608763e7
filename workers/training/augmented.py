"""Draws what the net sees: some training images as a stage draws them in its first epochs."""

import numpy as np
import torch

from workers.data.export import Band, Tile, draw, spread
from workers.data.loading import PixelStatistics, Windows, crop, draw_epoch, pixel_statistics, to_input
from workers.data.store import Store
from workers.settings import TrainingSettings
from workers.training.schedule import whole_epochs

_MOST_IMAGES, _EPOCHS = 6, 7


def augmented_sheet(store: Store, settings: TrainingSettings, seed: int) -> bytes:
    """Returns a PNG with one row an image: the image, then what the net sees of it in each of the first epochs."""
    images, labels = store.images("train"), store.labels("train")
    assert labels is not None
    statistics = pixel_statistics(store, settings.augmentation)
    size, margin = settings.model.input_size, store.size - settings.model.input_size
    shown = {label: int(np.argmax(labels == label)) for label in spread(store.num_classes)[:_MOST_IMAGES]}
    chosen = np.array(list(shown.values()))
    colour_epochs = whole_epochs(settings.augmentation.colour_until, settings.schedule.epochs)
    seen = []
    for epoch in range(min(_EPOCHS, settings.schedule.epochs)):
        draws = draw_epoch(seed, epoch, len(labels), margin, settings.augmentation)
        place = np.array([int(np.argmax(draws.order == index)) for index in chosen])
        windows = Windows(draws.offsets[place], torch.from_numpy(draws.flips[place]))
        pixels = crop(images, chosen, windows.offsets, size)
        shifted = settings.augmentation.colour_std > 0 and epoch < colour_epochs
        colour = torch.from_numpy(draws.colour[place]) if shifted else None
        inputs = to_input(torch.from_numpy(pixels), statistics, colour, windows)
        seen.append(to_pixels(inputs, statistics, windows))
    tiles = []
    for row, (label, index) in enumerate(shown.items()):
        tiles.append(Tile(images[index], store.classes[label]))
        tiles += [Tile(pixels[row], f"epoch {epoch + 1}") for epoch, pixels in enumerate(seen)]
    title = f"{store.size} px as prepared, then {size} px as the net sees them"
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
