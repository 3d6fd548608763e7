"""AlexNet's layers as numbers, without torch: the network is built from them, and `septet plan` counts them."""

from dataclasses import dataclass

from workers.errors import ConfigError
from workers.settings import CONVS, MIDDLE_CONVS, ModelSettings

POOL_STRIDE = 2
_GROUPED = ("conv2", "conv4", "conv5")


@dataclass(frozen=True)
class Conv:
    """A convolution and the pooling after it.

    Attributes:
        padding: zeros left of and above its input.
        padding_end: zeros right of and below its input.
        size: side of its square output in pixels, before pooling.
        pool: side of a pooling window, 0 for no pooling.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    padding: int
    padding_end: int
    groups: int
    size: int
    pool: int

    @property
    def pooled_size(self) -> int:
        return (self.size - self.pool) // POOL_STRIDE + 1 if self.pool else self.size

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


def geometry(model: ModelSettings, num_classes: int) -> Geometry:
    """Returns the layers of `model`.

    Raises:
        ConfigError: the input is too small for the poolings.
    """
    convs: list[Conv] = []
    channels, size = 3, model.input_size
    conv1_end = model.conv1_padding if model.conv1_padding_end is None else model.conv1_padding_end
    # Kernel, stride, and padding at either end.
    shapes = dict.fromkeys(CONVS[: model.num_convs], (3, 1, 1, 1))
    shapes |= {"conv1": (model.conv1_kernel, model.conv1_stride, model.conv1_padding, conv1_end), "conv2": (5, 1, 2, 2)}
    shapes = {name: shape for name, shape in shapes.items() if name not in model.without}
    pooled = {"conv1", "conv2", [name for name in shapes if name in MIDDLE_CONVS][-1]}
    filters = dict(zip(CONVS, model.filters, strict=True))
    # Filters are rounded to a multiple of this, so that groups divide them evenly.
    unit = 4 * model.groups
    for name, (kernel, stride, padding, end) in shapes.items():
        size = (size + padding + end - kernel) // stride + 1
        groups = model.groups if name in _GROUPED else 1
        out_channels = max(unit, round(filters[name] * model.width / unit) * unit)
        pool = model.pool_size if name in pooled else 0
        convs.append(Conv(name, channels, out_channels, kernel, stride, padding, end, groups, size, pool))
        channels, size = out_channels, convs[-1].pooled_size
        if size < 1:
            raise ConfigError(
                f"model.input_size={model.input_size}: no pixel is left after {name}; "
                "give a larger input_size or a smaller conv1_stride"
            )
    linears = [
        Linear("fc6", channels * size**2, model.fc_units),
        Linear("fc7", model.fc_units, model.fc_units),
        Linear("fc8", model.bottleneck or model.fc_units, num_classes),
    ]
    if model.bottleneck:
        linears.insert(2, Linear("bottleneck", model.fc_units, model.bottleneck))
    return Geometry(tuple(convs), tuple(linears))
