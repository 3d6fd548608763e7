"""The settings of one stage, as frozen values.

They are the schema of the configuration groups (`orchestrator.config.composition` registers and checks them). A
`StageSpec` carries them unchanged to the process that trains. Import nothing heavy here.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workers.settings.averaging import AveragingSettings, Soup
from workers.settings.checks import require, require_least
from workers.settings.dataset import Fold
from workers.settings.model import InitSettings, ModelSettings

# Pixels are centred by mean and deviation of the training set or of ImageNet, or by a mean image, that of 2012: pixels
# stay on the scale 0…255, minus the training set's mean at each position. `auto` is the normalisation of the stage or
# the pre-trained weights that a stage starts from, else `dataset`.
Normalisation = StrEnum("Normalisation", "auto dataset imagenet mean_image")
# The length of a colour shift along a principal direction: the root of its eigenvalue (the release of 2012), or the
# eigenvalue (the paper). The covariance is that of pixels on the scale [0, 1]: on 0…255, eigenvalues would be
# shifts of a thousand grey levels.
ColourScale = StrEnum("ColourScale", "root eigenvalue")
# Operations on single images, named as in the field; their spaces and magnitudes are torchvision's.
Policy = StrEnum("Policy", "none randaugment trivialaugment augmix")
Decay = StrEnum("Decay", "plateau fixed step cosine one_cycle")
# An epoch has every image once, or every class equally often.
Sampler = StrEnum("Sampler", "shuffled balanced")
# `balanced` is images / (classes · the class's images) in the training split, as in scikit-learn.
ClassWeights = StrEnum("ClassWeights", "none balanced")
# Momentum holds past gradients, scaled by the current rate, or past updates, scaled when made.
Velocity = StrEnum("Velocity", "unscaled scaled")
# What a finished stage predicts with: its last weights, those of its best epoch, or an average (`AveragingSettings`).
KeptCheckpoint = StrEnum("KeptCheckpoint", "last best ema swa soup")
# The crops that predict: five and their reflections, or the centre crop alone.
Crops = StrEnum("Crops", "ten centre flip five_scales")


@dataclass(frozen=True)
class OptimizerSettings:
    """A first-order optimizer, and how a batch becomes its gradient.

    Attributes:
        name: `sgd`, with `momentum`, `nesterov` and `velocity`; or another of torch.optim, in lower case.
        args: the optimizer's own arguments, by torch's names; those not given have torch's defaults.
        decay_biases: false applies weight decay to weights only.
        decay_norms: false leaves out weights of one dimension, those of norms.
        layer_lr_decay: multiplies the rate once for each layer from the head back; see `optimizer.depth_factors`.
        clip_norm: largest norm of the gradient; 0 does not clip.
        bias_lr_scale: a bias's rate over its layer's.
        velocity: unscaled is torch's rule, v ← m·v + g + wd·w, w ← w − lr·v; scaled is that of 2012 (Krizhevsky et al.,
            §5), v ← m·v − lr·(g + wd·w), w ← w + v. They differ only for some updates after a change of the rate.
        layer_decay: decay of single layers, in place of `weight_decay`.
        shards: parts that a batch is cut into, as evenly as can be; each draws its own dropout and has its own batch
            statistics, and their gradients are summed in order.
        micro_batch: most images of a shard that go through the net at once, to save memory; 0 for all. Each piece has
            its own batch statistics.
    """

    name: str = "sgd"
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    decay_biases: bool = True
    batch_size: int = 128
    clip_norm: float = 0.0
    bias_lr_scale: float = 1.0
    velocity: Velocity = Velocity.unscaled
    layer_decay: Mapping[str, float] = field(default_factory=dict)
    shards: int = 1
    micro_batch: int = 0
    nesterov: bool = False
    args: Mapping[str, Any] = field(default_factory=dict)
    decay_norms: bool = True
    layer_lr_decay: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, f"lr={self.lr}: give a positive learning rate")
        require(0 <= self.momentum < 1, f"momentum={self.momentum}: give a value in [0, 1)")
        require(
            self.momentum > 0 or not self.nesterov, "nesterov=true: has no effect without momentum; give momentum=0.9"
        )
        fits = 0 < self.layer_lr_decay <= 1
        require(fits, f"layer_lr_decay={self.layer_lr_decay}: give a factor in (0, 1]; 1 is none")
        require(self.batch_size > 0, f"batch_size={self.batch_size}: give a positive count")
        require(self.bias_lr_scale > 0, f"bias_lr_scale={self.bias_lr_scale}: give a positive factor")
        require_least(self, 0, "weight_decay", "clip_norm", "layer_decay", "micro_batch")
        fits = 1 <= self.shards <= self.batch_size
        require(fits, f"shards={self.shards}: give a count from 1 to batch_size={self.batch_size}")

    @property
    def most_at_once(self) -> int:
        """The most images that go through the net at once in training."""
        of_a_shard = -(-self.batch_size // self.shards)
        return min(of_a_shard, self.micro_batch or of_a_shard)

    @property
    def num_states(self) -> int:
        """The numbers that the optimizer keeps for each weight, and checkpoints with it."""
        switched_on = sum(bool(self.args.get(name)) for name in ("amsgrad", "centered", "momentum"))
        return {"sgd": 1, "adagrad": 1, "asgd": 1, "rmsprop": 1, "adafactor": 0}.get(self.name, 2) + switched_on


@dataclass(frozen=True)
class RateChange:
    """New factors of the learning rate for `layers`, in place of their earlier ones; 0 freezes a layer.

    They apply once `after_updates` updates and `after_share` of the stage's epochs are done.
    """

    after_updates: int = 0
    after_share: float = 0.0
    layers: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_least(self, 0, "after_updates", "layers")
        require(0 <= self.after_share <= 1, f"after_share={self.after_share}: give a share in [0, 1]")


@dataclass(frozen=True)
class ScheduleSettings:
    """The course of the learning rate over `epochs`.

    `plateau` and `fixed` make `cuts` cuts, each by `factor`. `plateau` cuts after `patience` epochs without a better
    dev error, at the latest at the cut's share in `latest`, which may be empty; epochs whose dev error is at chance do
    not count. `fixed` cuts exactly at the shares in `latest`. A share of epochs is reached at the end of an epoch.
    `step` cuts by `factor` every `step_epochs`. `cosine` falls with every update after warm-up, along half a cosine.
    `one_cycle` rises from a 25th of the rate and falls again, each along half a cosine (as torch's OneCycleLR).

    Attributes:
        warmup_updates: updates that raise the rate linearly from zero; under `one_cycle`, those of its rise.
        warmup_share: the same as a share of the stage's updates; the longer one counts.
        final_lr_share: the share of the rate to which `cosine` and `one_cycle` fall.
        rate_changes: later changes of single layers' rates. If two name the same layer, the later one counts; if both
            begin together, the last in alphabetical order.
        stop_when_stalled: ends the stage after `patience` epochs without a better dev error, counted from the last cut
            where there are cuts. Under the other decays the rate has then not reached its end.
    """

    decay: Decay = Decay.plateau
    epochs: int = 90
    factor: float = 0.1
    cuts: int = 3
    patience: int = 10
    latest: tuple[float, ...] = (0.6, 0.8, 0.95)
    warmup_updates: int = 0
    at_chance_after: float = 0.2
    rate_changes: Mapping[str, RateChange] = field(default_factory=dict)
    stop_when_stalled: bool = False
    step_epochs: int = 30
    warmup_share: float = 0.0
    final_lr_share: float = 0.0

    def __post_init__(self) -> None:
        require(self.epochs > 0, f"epochs={self.epochs}: give a positive count")
        require(0 < self.factor <= 1, f"factor={self.factor}: give a share in (0, 1]")
        require_least(self, 0, "cuts", "warmup_updates")
        require_least(self, 1, "patience", "step_epochs")
        for name in ("warmup_share", "final_lr_share"):
            share = getattr(self, name)
            require(0 <= share <= 1, f"{name}={share}: give a share in [0, 1]")
        ends = "final_lr_share=0: the last update of decay=one_cycle would not move; give a small share, as 4e-6"
        require(self.decay is not Decay.one_cycle or self.final_lr_share > 0, ends)
        require(0 <= self.at_chance_after <= 1, f"at_chance_after={self.at_chance_after}: give a share in [0, 1]")
        fits = len(self.latest) == self.cuts or (not self.latest and self.decay is not Decay.fixed)
        require(fits, f"latest={list(self.latest)}: give one share for each of the {self.cuts} cuts")
        require(all(0 < share <= 1 for share in self.latest), f"latest={list(self.latest)}: give shares in (0, 1]")

    @property
    def looks(self) -> bool:
        """Whether errors on held-out images decide on the rate or the end."""
        return self.stop_when_stalled or (self.decay is Decay.plateau and self.cuts > 0)


@dataclass(frozen=True)
class AugmentationSettings:
    """Random crop, reflection, and a shift along the colour eigenvectors by `colour_std` (0 for none).

    Colours are shifted until `colour_until` of the stage's epochs is done. `shuffle_window` is for stores larger than
    memory: 0 mixes all images; n mixes n at a time, in runs of neighbours that are read together.

    Attributes:
        resized_crop: cuts a box of a random area and aspect in place of a window, and scales it to the net's input.
        crop_scale, crop_ratio: least and largest share of the image's area in a box, and width over height of it.
        reflect_vertically: reflects every second image top to bottom.
        rotation_degrees: largest angle, to either side.
        policy: `randaugment` applies `num_ops` operations of `magnitude` 0…30; the others choose for themselves.
        brightness, contrast, saturation: largest change of a factor of 1; `hue`: largest turn of the colour circle.
        random_erasing: share of images of which a box gets the mean colour, the zero of a normalised image.
        mixup, cutmix: the α of Beta(α, α), which gives a mixed image's share of its own label; 0 for none (Zhang et al.
            2018, Yun et al. 2019). With both, each shard of a batch draws which.
    """

    random_crop: bool = True
    reflect: bool = True
    colour_std: float = 0.1
    normalisation: Normalisation = Normalisation.auto
    colour_scale: ColourScale = ColourScale.root
    colour_until: float = 1.0
    shuffle_window: int = 0
    resized_crop: bool = False
    crop_scale: tuple[float, ...] = (0.08, 1.0)
    crop_ratio: tuple[float, ...] = (0.75, 1.3333333333333333)
    reflect_vertically: bool = False
    rotation_degrees: float = 0.0
    policy: Policy = Policy.none
    num_ops: int = 2
    magnitude: int = 9
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    sampler: Sampler = Sampler.shuffled

    def __post_init__(self) -> None:
        require_least(
            self, 0, "colour_std", "shuffle_window", "brightness", "contrast", "saturation", "mixup", "cutmix"
        )
        require_least(self, 1, "num_ops")
        limits = {"rotation_degrees": 180, "magnitude": 30, "hue": 0.5, "random_erasing": 1}
        for name, most in limits.items():
            require(0 <= (value := getattr(self, name)) <= most, f"{name}={value}: give a number in [0, {most}]")
        for name, largest, example in (("crop_scale", 1.0, "0.08,1"), ("crop_ratio", math.inf, "0.75,1.33")):
            given = getattr(self, name)
            fits = len(given) == 2 and 0 < given[0] <= given[1] <= largest
            require(fits, f"{name}={list(given)}: give the least and the largest, as in [{example}]")
        centred = "random_crop=false: resized_crop=true cuts random boxes; leave out one of them"
        require(self.random_crop or not self.resized_crop, centred)
        whole = "sampler=balanced: takes images from the whole store; give shuffle_window=0"
        require(self.sampler is Sampler.shuffled or self.shuffle_window == 0, whole)
        require(0 <= self.colour_until <= 1, f"colour_until={self.colour_until}: give a share in [0, 1]")

    @property
    def changes_images(self) -> bool:
        """Whether more than window, reflection and colour shift is asked for; torchvision does that, on the CPU."""
        shares = (self.brightness, self.contrast, self.saturation, self.hue, self.random_erasing, self.rotation_degrees)
        return self.resized_crop or self.reflect_vertically or self.policy is not Policy.none or max(shares) > 0


@dataclass(frozen=True)
class LossSettings:
    """The cross-entropy as torch defines it; `class_weights` may also have a weight for each class by name."""

    label_smoothing: float = 0.0
    class_weights: Mapping[str, float] | ClassWeights = ClassWeights.none

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, f"label_smoothing={self.label_smoothing}: give a share in [0, 1)")
        for name, weight in self.class_weights.items() if isinstance(self.class_weights, Mapping) else ():
            require(weight > 0, f"class_weights.{name}={weight}: give a positive number")


@dataclass(frozen=True)
class Distil:
    """What a stage learns from the ensemble (Hinton et al. 2015): from its members that did not see the image.

    Attributes:
        weight: the share of the teachers' probabilities in the loss; the rest is the label's. 0: no teachers.
        temperature: softens the probabilities of teachers and student: each to the power of its inverse, normalised.
            This part of the loss is multiplied by its square, so that gradients keep their size.
    """

    weight: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        require(0 <= self.weight <= 1, f"weight={self.weight}: give a share in [0, 1]; 0 learns from no teachers")
        require(self.temperature > 0, f"temperature={self.temperature}: give a number above 0, as 2")


@dataclass(frozen=True)
class TrainingSettings:
    """All settings that shape one stage's weights besides data, seed, threads and precision."""

    model: ModelSettings = field(default_factory=ModelSettings)
    init: InitSettings = field(default_factory=InitSettings)
    optimizer: OptimizerSettings = OptimizerSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    loss: LossSettings = LossSettings()
    averaging: AveragingSettings = field(default_factory=AveragingSettings)


@dataclass(frozen=True)
class Recipe(TrainingSettings):
    """The settings of one stage with all defaults resolved, shared by plan, driver and worker.

    Attributes:
        dataset: name of the dataset that the stage trains on.
        init_from: the stage whose weights it starts from, as written (`<stage>` or `<member>.<stage>`), or None.
        init_file: a file of weights to start from instead, as written, or None.
        reset: layers drawn again after the weights are loaded, sorted by name.
        freeze: layers that are not trained, sorted by name.
        lr_scale: factors of the learning rate by layer (`conv1` … `fc8`, `head`, `body`).
        refit: the stage of the same member that this one trains again, on dev and val too, for the epochs that were
            best there.
        fold: the training images of the target that it never sees.
        distil: what it learns from the members of the folds.
    """

    dataset: str = ""
    init_from: str | None = None
    init_file: str | None = None
    reset: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    lr_scale: Mapping[str, float] = field(default_factory=dict)
    refit: str | None = None
    fold: Fold = field(default_factory=Fold)
    distil: Distil = Distil()

    def __post_init__(self) -> None:
        require_least(self, 0, "lr_scale")

    def picks_epochs(self, keep: KeptCheckpoint) -> bool:
        """Whether errors on held-out images decide which weights predict."""
        return keep is KeptCheckpoint.best or (keep is KeptCheckpoint.soup and self.averaging.soup is Soup.best)

    @property
    def trained_on(self) -> tuple[str, ...]:
        """The splits of the dataset that are trained on."""
        return ("train",) if self.refit is None else ("train", "dev", "val")
