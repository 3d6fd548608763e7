"""Times training steps as a stage makes them, with data, metrics and step mark, beside plain PyTorch on a ready batch.

Ours is `workers.training.run_stage` itself. It asks after every update whether to stop; the turns are taken there.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from benchmarks import limits, synthetic
from benchmarks.numerics import fastest
from benchmarks.peers import step as peers
from benchmarks.row import Measure, Row, Settings, Spread, Wanted
from benchmarks.turns import Contestant, Turns, ratios, take_turns
from workers.models.geometry import geometry
from workers.protocol import StageSpec
from workers.settings import ModelSettings
from workers.training import run_stage

_WARM_UP = 2


@dataclass(frozen=True)
class _Case:
    """One net with its batch and threads; `updates` make one turn."""

    title: str
    net: str
    model: ModelSettings
    num_classes: int
    side: int
    batch: int
    threads: int
    updates: int


def ours(spec: StageSpec, updates: int, turns: Turns) -> None:
    """Reports the seconds of one update, as the mean over the turn's `updates`."""
    count, since = 0, time.perf_counter()

    def should_stop() -> bool:
        nonlocal count, since
        count += 1
        if count >= _WARM_UP and (count - _WARM_UP) % updates == 0:
            turns.next((time.perf_counter() - since) / updates)
            since = time.perf_counter()
        return False

    run_stage(spec, should_stop)


def step_flops(model: ModelSettings, num_classes: int) -> int:
    """Returns the FLOP of one image: forward, weight gradients, input gradients but the first layer's; without LRN."""
    layers = geometry(model, num_classes)
    forward = sum(conv.num_macs for conv in layers.convs) + sum(linear.num_weights for linear in layers.linears)
    return 2 * (3 * forward - layers.convs[0].num_macs)


def full_size(settings: Settings) -> tuple[Row, ...]:
    """Measures AlexNet at 224 pixels, 1,000 classes, batch 128."""
    case = _Case(
        "full-size training step", "full_size", synthetic.FULL_SIZE, 1000, 256, 128, settings.threads, updates=1
    )
    return _measure(case, settings, at_least=3.6, of_limit=0.6)


def small(settings: Settings) -> tuple[Row, ...]:
    """Measures a third of the width at 56 pixels, 40 classes, batch 64, one thread."""
    return _measure(
        _Case("small training step", "small", synthetic.SMALL, 40, 64, 64, 1, updates=5), settings, of_limit=0.55
    )


def cifar(settings: Settings) -> Row:
    """Measures cuda-convnet's net of 80 seconds at 32 pixels, batch 128, beside a plain loop on a ready batch."""
    case = _Case(
        "CIFAR-10 net of 80 seconds", "cifar_80s", ModelSettings(name="cifar_80s", input_size=32), 10, 32, 128,
        settings.threads, updates=10,
    )  # fmt: skip
    return _beside(case, peers.plain, "plain PyTorch, fp32", settings, Wanted(1.6))


def modern(settings: Settings) -> tuple[Row, ...]:
    """Measures nets of torchvision and timm beside tuned PyTorch in bfloat16 and in float32."""
    nets = (
        ("torchvision/resnet18", "resnet18", 64, 73, 64),
        ("torchvision/resnet18", "resnet18_224", 224, 256, 32),
        ("timm/resnet10t", "resnet10t", 64, 73, 64),
        ("torchvision/mobilenet_v2", "mobilenet_v2", 224, 256, 32),
    )
    cases = [
        _Case(f"{name}, {px} px", net, ModelSettings(name=name, input_size=px), 40, side, batch, settings.threads, 2)
        for name, net, px, side, batch in nets
    ]
    precisions = ((peers.tuned, "bf16 autocast"), (peers.tuned_fp32, "fp32"))
    title = "PyTorch with channels_last, {}, fused SGD"
    return tuple(
        _beside(case, peer, title.format(precision), settings, Wanted(1.0))
        for case in cases
        for peer, precision in precisions
    )


def _beside(case: _Case, peer: Callable[..., None], title: str, settings: Settings, wanted: Wanted) -> Row:
    """Measures the step of a case beside that of one peer."""
    num_images = (_WARM_UP + (settings.repeats + 2) * case.updates) * case.batch
    store = synthetic.store(settings.scratch, num_images, case.num_classes, case.side)
    spec = synthetic.stage(store, settings.scratch / "member", case.model, case.batch, fastest(case.threads))
    readings = take_turns(
        {
            "ours": partial(ours, spec, case.updates),
            "peer": partial(peer, case.net, case.num_classes, case.batch, case.threads),
        },
        settings.repeats,
    )
    speed = {name: case.batch / Spread.of(seconds).median for name, seconds in readings.items()}
    return Row(
        f"{case.title}: training step beside {title}", "images/s", speed["ours"], speed["peer"], None,
        Spread.of(ratios(readings, "peer", "ours")), Measure.times, wanted, settings.repeats,
        f"{case.model.input_size} px, batch {case.batch}, {case.threads} threads, {spec.numerics.precision}",
    )  # fmt: skip


def _measure(
    case: _Case, settings: Settings, at_least: float | None = None, of_limit: float | None = None
) -> tuple[Row, ...]:
    # One epoch lasts longer than all turns, so no turn includes an evaluation.
    num_images = (_WARM_UP + (settings.repeats + 2) * case.updates) * case.batch
    store = synthetic.store(settings.scratch, num_images, case.num_classes, case.side)
    spec = synthetic.stage(store, settings.scratch / "member", case.model, case.batch, fastest(case.threads))
    peer = (case.net, case.num_classes, case.batch, case.threads)
    contestants: dict[str, Contestant] = {
        "ours": partial(ours, spec, case.updates),
        "no lrn": partial(ours, synthetic.without_lrn(spec), case.updates),
        "plain": partial(peers.plain, *peer),
        "tuned": partial(peers.tuned, *peer),
        "limit": partial(limits.matrix_products, case.threads),
    }
    readings = take_turns(contestants, settings.repeats)
    flops = step_flops(case.model, case.num_classes)
    speed = {name: case.batch / Spread.of(readings[name]).median for name in contestants if name != "limit"}
    limit = Spread.of(readings["limit"]).median / flops
    shape = f"{case.model.input_size} px, batch {case.batch}, {case.threads} thread{'s'[: case.threads - 1]}"

    def beside(name: str, title: str, wanted: Wanted | None) -> Row:
        ratio = Spread.of(ratios(readings, name, "ours"))
        return Row(
            f"{case.title} beside {title}", "images/s", speed["ours"], speed[name], limit, ratio, Measure.times,
            wanted, settings.repeats, shape,
        )  # fmt: skip

    shares = [
        case.batch * flops / (seconds * rate) for seconds, rate in zip(readings["ours"], readings["limit"], strict=True)
    ]
    lrn = [1 - off / on for on, off in zip(readings["ours"], readings["no lrn"], strict=True)]
    precision = f"{spec.numerics.precision}, {spec.numerics.kernels} LRN"
    return (
        beside("plain", "plain PyTorch, fp32", None if at_least is None else Wanted(at_least)),
        beside("tuned", "PyTorch with channels_last, bf16 autocast, fused SGD", None),
        Row(
            f"{case.title}: share of the matrix-product limit", "images/s", speed["ours"], None, limit,
            Spread.of(shares), Measure.share, None if of_limit is None else Wanted(of_limit), settings.repeats,
            f"{precision}; {flops / 1e9:.2f} GFLOP an image",
        ),
        Row(
            f"{case.title}: LRN's share", "images/s", speed["ours"], speed["no lrn"], None, Spread.of(lrn),
            Measure.share, Wanted(0.1, at_least=False) if at_least else None, settings.repeats,
            "beside: the same without LRN",
        ),
    )  # fmt: skip
