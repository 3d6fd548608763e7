"""AlexNet's layers as numbers: what the network is built from and what `septet plan` counts, without torch."""

from collections.abc import Iterator
from dataclasses import dataclass

from workers.errors import ConfigError
from workers.settings import ModelSettings

POOL_SIZE, POOL_STRIDE = 3, 2
_FILTERS = (96, 256, 384, 384, 256, 256)
_GROUPED = (False, True, False, True, True, False)
_POOLED_AFTER = (1, 2, 5)


@dataclass(frozen=True)
class Conv:
    """A convolution; `size` is the side of its square output in pixels, before pooling."""

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    groups: int
    size: int
    pooled: bool

    @property
    def num_weights(self) -> int:
        return self.out_channels * (self.in_channels // self.groups) * self.kernel**2

    @property
    def num_macs(self) -> int:
        return self.num_weights * self.size**2


@dataclass(frozen=True)
class Linear:
    """A fully connected layer."""

    name: str
    in_features: int
    out_features: int

    @property
    def num_weights(self) -> int:
        return self.in_features * self.out_features


@dataclass(frozen=True)
class Geometry:
    """All layers of one network, in order."""

    convs: tuple[Conv, ...]
    linears: tuple[Linear, ...]


def _scaled(filters: int, width: float, groups: int) -> int:
    """Filters at `width`, rounded to a multiple of 4 · `groups` so that grouped layers divide evenly."""
    unit = 4 * groups
    return max(unit, round(filters * width / unit) * unit)


def _conv_shapes(model: ModelSettings) -> Iterator[tuple[int, int, int]]:
    yield model.conv1_kernel, model.conv1_stride, model.conv1_padding
    yield 5, 1, 2
    for _ in range(2, model.num_convs):
        yield 3, 1, 1


def geometry(model: ModelSettings, num_classes: int) -> Geometry:
    """The layers of `model`.

    Raises:
        ConfigError: the input is too small for the poolings.
    """
    convs: list[Conv] = []
    channels, size = 3, model.input_size
    for index, (kernel, stride, padding) in enumerate(_conv_shapes(model)):
        number = index + 1
        size = (size + 2 * padding - kernel) // stride + 1
        pooled = number in _POOLED_AFTER
        groups = model.groups if _GROUPED[index] else 1
        out_channels = _scaled(_FILTERS[index], model.width, model.groups)
        convs.append(Conv(f"conv{number}", channels, out_channels, kernel, stride, padding, groups, size, pooled))
        channels = out_channels
        if pooled:
            size = (size - POOL_SIZE) // POOL_STRIDE + 1
        if size < 1:
            raise ConfigError(
                f"model.input_size={model.input_size}: nothing is left of the image after conv{number}; "
                "give a larger input_size or a smaller conv1_stride"
            )
    linears = (
        Linear("fc6", channels * size**2, model.fc_units),
        Linear("fc7", model.fc_units, model.fc_units),
        Linear("fc8", model.fc_units, num_classes),
    )
    return Geometry(tuple(convs), linears)
