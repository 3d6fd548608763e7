"""Changes single images by torchvision's own transforms: resized crop, reflections, policy, jitter, erasing.

Those draw from torch's global generator, which threads share. Here a mode of the calling thread gives each image a
generator of its own, whose seed is one of the epoch's draws (docs/decisions/0018).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from workers.data.store import Pixels
from workers.settings import AugmentationSettings, Policy

# All that torchvision draws with.
_DRAWING = {torch.rand, torch.randint, torch.randperm, torch._sample_dirichlet, Tensor.uniform_, Tensor.normal_}


class _DrawnFrom(TorchFunctionMode):
    """Makes what torch draws in this thread come from a generator, with the numbers that follow `manual_seed`."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._generator = torch.Generator().manual_seed(seed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        own = {"generator": self._generator} if func in _DRAWING else {}
        return func(*args, **(kwargs or {}), **own)


class Transforms:
    """The transforms of one image in the order of torchvision's recipe; may be used by several threads at once."""

    def __init__(self, settings: AugmentationSettings, size: int, mean: Tensor) -> None:
        """Makes those that `settings` names for inputs of `size` pixels, reflection included: it precedes the policy.

        `mean`, [3] float32 on the [0, 1] scale, is the colour that erases; it is rounded to whole levels.
        """
        # Imported here, because it takes a second and most stages have none of these.
        from torchvision.transforms import v2

        self._size, self._takes_whole = size, settings.resized_crop
        policy, how = settings.policy, {"interpolation": v2.InterpolationMode.BILINEAR}
        jitter = (settings.brightness, settings.contrast, settings.saturation, settings.hue)
        colour = [round(255 * level) for level in mean.tolist()]
        chosen = (
            (settings.resized_crop, lambda: v2.RandomResizedCrop(size, settings.crop_scale, settings.crop_ratio)),
            (settings.reflect, v2.RandomHorizontalFlip),
            (settings.reflect_vertically, v2.RandomVerticalFlip),
            (settings.rotation_degrees > 0, lambda: v2.RandomRotation(settings.rotation_degrees, **how)),
            (policy is Policy.randaugment, lambda: v2.RandAugment(settings.num_ops, settings.magnitude, **how)),
            (policy is Policy.trivialaugment, lambda: v2.TrivialAugmentWide(**how)),
            (policy is Policy.augmix, lambda: v2.AugMix(**how)),
            (max(jitter) > 0, lambda: v2.ColorJitter(*jitter)),
            (settings.random_erasing > 0, lambda: v2.RandomErasing(settings.random_erasing, value=colour)),
        )
        self._compose = v2.Compose([make() for is_on, make in chosen if is_on])

    def fill(
        self, crops: np.ndarray, images: np.ndarray | Pixels, chosen: np.ndarray, offsets: np.ndarray, seeds: np.ndarray
    ) -> None:
        """Writes each chosen image, changed, to `crops`; see `crop`, whose windows it takes without `resized_crop`.

        With it, images may have any sizes. What is drawn for an image depends on its one of `seeds` [batch] alone.
        """
        for target, image, place, seed in zip(crops, chosen.tolist(), offsets.tolist(), seeds.tolist(), strict=True):
            rows, columns = (slice(first, first + self._size) for first in place)
            pixels = images[image] if self._takes_whole else images[image, rows, columns]
            # A copy, because torch warns of arrays that cannot be written to.
            changed = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)
            with _DrawnFrom(seed):
                changed = self._compose(changed)
            target[...] = changed.permute(1, 2, 0).numpy()
