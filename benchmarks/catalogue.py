"""Lists every row with its name and cost; a row's module is loaded only when the row is requested."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from benchmarks.row import Row, Settings


@dataclass(frozen=True)
class Entry:
    """One row: `module:function` maps Settings to a Row or several; `long` rows run with `--long` or by name only."""

    name: str
    function: str
    cost: str
    what: str
    long: bool = False

    def run(self, settings: Settings) -> tuple[Row, ...]:
        module, _, function = self.function.partition(":")
        measure: Callable[[Settings], Row | tuple[Row, ...]] = getattr(import_module(module), function)
        rows = measure(settings)
        return (rows,) if isinstance(rows, Row) else rows


ENTRIES = (
    Entry("step", "benchmarks.training_step:full_size", "3 min", "full-size training step; LRN's share of it"),
    Entry("small_step", "benchmarks.training_step:small", "1 min", "training step at 64 pixels, one thread"),
    Entry("widths", "benchmarks.widths:run", "4 min", "two workers of one member beside one; eight shards beside one"),
    Entry("modern_step", "benchmarks.training_step:modern", "1 min", "training step of resnet18 and timm's resnet10t"),
    Entry("cifar", "benchmarks.training_step:cifar", "1 min", "training step of cuda-convnet's small CIFAR-10 net"),
    Entry("ten_crop", "benchmarks.ten_crop:run", "4 min", "ten-crop prediction, full size"),
    Entry("serving", "benchmarks.serving:run", "3 min", "septet serve, eight clients, beside a loop of seven nets"),
    Entry("stall", "benchmarks.checkpoint_stall:run", "1 min", "what a checkpoint costs training, in steps"),
    Entry("tracking", "benchmarks.tracking:run", "3 min", "step time under each fault of MLflow"),
    Entry("combine", "benchmarks.combining:run", "2 min, 2.8 GB of disk", "averaging 7 × 100,000 × 1,000"),
    Entry("startup", "benchmarks.start_up:run", "10 s", "septet --help beside python -c pass"),
    Entry("launch", "benchmarks.launch_cost:run", "6 min", "fixed cost of a launch beside a floor; a member more"),
    Entry("input", "benchmarks.input_pipeline:run", "5 s", "training batches from the store beside PIL"),
    Entry("large_store", "benchmarks.large_store:run", "20 s, 0.2 GB of disk", "a store of 1.3 million images"),
    Entry("cold_store", "benchmarks.cold_store:run", "2 min, 2.5 GB of disk", "batches from a store not in memory"),
    Entry("crops", "benchmarks.stored_crops:run", "40 s", "uint8 crops from a raw and a JPEG store beside torchvision"),
    Entry("verify", "benchmarks.verification:run", "1 min", "verifying prepared pixels: a step, and opening a store"),
    Entry("prepare", "benchmarks.preparing:run", "2 min", "preparing photographs on one core and on two beside PIL"),
    Entry("memory", "benchmarks.actor_memory:run", "3 min", "an actor's peak memory beside a plain process"),
    Entry("lrn", "benchmarks.normalisation:run", "15 s", "local response normalisation beside torch's"),
    Entry("members", "benchmarks.many_members:run", "1 min", "the driver with 1,000 members, 64 of them running"),
    Entry("schedule", "benchmarks.schedule:run", "1 min", "simulated: members of several workers beside the bound"),
    Entry("job", "benchmarks.whole_job:alexnets", "20 min", "seven AlexNets on photographs, to the file", long=True),
    Entry("resnets", "benchmarks.whole_job:resnets", "30 min", "seven ResNet-18s on photographs", long=True),
    Entry("to_error", "benchmarks.time_to_error:run", "15 min", "CIFAR-10's small net to 35 % error", long=True),
    Entry(
        "seven_small",
        "benchmarks.seven_small:run",
        "40 min at --epochs-share 1",
        "the tiny_imagenet experiment",
        long=True,
    ),
    Entry(
        "voting",
        "benchmarks.seven_on_target:torch_ensemble",
        "25 min at --epochs-share 1",
        "seven small nets in TorchEnsemble",
        long=True,
    ),
    Entry(
        "tune",
        "benchmarks.seven_on_target:ray_tune",
        "25 min at --epochs-share 1",
        "seven small nets in Ray Tune",
        long=True,
    ),
)
