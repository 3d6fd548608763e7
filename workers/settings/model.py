"""The settings of a net and of its fresh weights, as frozen values."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workers.settings.checks import require, require_least

# AlexNet's two groups of filters lie together on one device, or each half on its own.
Layout = StrEnum("Layout", "grouped halves")
InitScheme = StrEnum("InitScheme", "he gaussian")
# After a convolution or a hidden fully connected layer.
Activation = StrEnum("Activation", "relu tanh")
# Dropout makes up for zeroed outputs: it scales kept ones up in training, or all of them down at test.
DropoutScaling = StrEnum("DropoutScaling", "train test")

CONVS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6")
# Nothing pools or normalises between these.
MIDDLE_CONVS = CONVS[2:5]


@dataclass(frozen=True)
class ModelSettings:
    """AlexNet's geometry, and the points on which its sources differ (conf/reading); sizes in pixels.

    Attributes:
        name: the architecture.
        input_size: side of a crop.
        width: scales the filters of every convolution.
        num_convs: 5, or 6 to add one after the last pooling.
        groups: of conv2, conv4 and conv5; with 2, each half of the filters sees only its own half of the channels.
        conv1_padding: zeros left of and above the image.
        lrn: normalises after conv1 and conv2, over windows of `lrn_size` channels, by
            (`lrn_k` + `lrn_alpha` · Σ x²)^-`lrn_beta`.
        lrn_alpha_over_size: α multiplies the window's mean (the release), not its sum (the paper's formula).
        lrn1_before_relu: normalises conv1 before its ReLU, as in the release.
        within_map_norm: normalises within each map after conv2's normalisation, as in the release.
        conv1_padding_end: zeros right of and below the image; None for as many as `conv1_padding`.
        filters: of conv1 to conv6 at width 1; the paper's net on one GPU has 48, 128, 192, 192, 256 and `groups` 1.
        without: which of conv3, conv4, conv5 to leave out; the pooling after them stays.
        pool_size: side of a pooling window; its stride is 2, so that windows of 3 overlap.
        activation: of all hidden layers.
        dropout_scaling: `train` is torch's scaling, `test` the release's.
        lrn_across_halves: false keeps the windows of `lrn` inside one group's channels, as on two GPUs.
        layout: the groups' placement; it changes neither counts nor checkpoints.
        bottleneck: outputs of a linear layer before the last, with which the release has 22,000 classes; 0 for none.
        file: a Python file whose `function` builds the net in place of `name`; run only where its code is trusted.
        args: arguments of torchvision's, timm's or a user's builder, by its names.
        code: the sha256 of the file's folder, or a user's package and its version; planning fills it in.
        pretrained: starts from weights that the net's library publishes, its default ones (true) or those of a tag.
    """

    name: str = "alexnet"
    input_size: int = 224
    width: float = 1.0
    num_convs: int = 5
    groups: int = 2
    conv1_kernel: int = 11
    conv1_stride: int = 4
    conv1_padding: int = 2
    fc_units: int = 4096
    dropout: float = 0.5
    lrn: bool = True
    lrn_size: int = 5
    lrn_k: float = 2.0
    lrn_alpha: float = 1e-4
    lrn_beta: float = 0.75
    lrn_alpha_over_size: bool = True
    lrn1_before_relu: bool = False
    within_map_norm: bool = False
    conv1_padding_end: int | None = None
    filters: tuple[int, ...] = (96, 256, 384, 384, 256, 256)
    without: tuple[str, ...] = ()
    pool_size: int = 3
    activation: Activation = Activation.relu
    dropout_scaling: DropoutScaling = DropoutScaling.train
    lrn_across_halves: bool = True
    layout: Layout = Layout.grouped
    bottleneck: int = 0
    file: str | None = None
    function: str = "build"
    # A mapping has no hash; equality sees it.
    args: Mapping[str, Any] = field(default_factory=dict, hash=False)
    code: str = ""
    pretrained: bool | str = False

    def __post_init__(self) -> None:
        require(_is_finite(self.args), f"args={self.args}: give finite numbers")
        require(self.num_convs in (5, 6), f"num_convs={self.num_convs}: give 5 or 6")
        all_given = len(self.filters) == len(CONVS) and min(self.filters) > 0
        require(all_given, f"filters={list(self.filters)}: give a positive count for each of {', '.join(CONVS)}")
        some_left = set(self.without) < set(MIDDLE_CONVS)
        require(some_left, f"without={list(self.without)}: give some of {', '.join(MIDDLE_CONVS)}, but not all")
        require(self.pool_size in (2, 3), f"pool_size={self.pool_size}: give 3 (windows overlap) or 2")
        require(0 <= self.dropout < 1, f"dropout={self.dropout}: give a share in [0, 1)")
        require(self.width > 0, f"width={self.width}: give a positive factor")
        require_least(self, 1, "input_size", "groups", "conv1_kernel", "conv1_stride", "fc_units")
        require((self.conv1_padding_end or 0) >= 0, f"conv1_padding_end={self.conv1_padding_end}: give 0 or more")
        require_least(self, 0, "conv1_padding", "lrn_alpha", "lrn_beta", "bottleneck")
        # A channel is in the middle of its window.
        require(self.lrn_size >= 1 and self.lrn_size % 2 == 1, f"lrn_size={self.lrn_size}: give an odd count")
        require(self.lrn_k > 0, f"lrn_k={self.lrn_k}: give a positive number, because activity may be 0")
        if self.layout is Layout.halves:
            self._check_halves()

    def _check_halves(self) -> None:
        only = "layout=halves: only alexnet has halves"
        require(self.name == "alexnet", f"{only}, not {self.name}; give layout=grouped")
        require(self.groups == 2, f"groups={self.groups}: layout=halves has one half for each group; give 2")
        require(self.fc_units % 2 == 0, f"fc_units={self.fc_units}: layout=halves splits them; give an even count")
        require(
            not (self.lrn and self.lrn_across_halves),
            "lrn_across_halves=true: with layout=halves each half normalises only its own channels; "
            "give lrn_across_halves=false",
        )


def _is_finite(value: object) -> bool:
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return all(map(_is_finite, inner)) and not (isinstance(value, float) and not math.isfinite(value))


@dataclass(frozen=True)
class InitSettings:
    """The distribution of fresh weights: `he` (by fan-in; `std` for the last layer), or `gaussian` of `std` for all.

    `layer_std` overrides either for single layers. Biases of the layers in `biased` start at `bias`, others at 0.
    """

    scheme: InitScheme = InitScheme.he
    std: float = 0.01
    bias: float = 0.0
    layer_std: Mapping[str, float] = field(default_factory=dict)
    biased: tuple[str, ...] = ("conv2", "conv4", "conv5", "conv6", "fc6", "fc7")

    def __post_init__(self) -> None:
        require_least(self, 0, "std", "layer_std")
