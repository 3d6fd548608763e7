"""Newcomers' words lead to the right setting, and settings that nothing would read are refused."""

import re
import shlex

import pytest

from orchestrator.config.composition import compose
from workers.errors import ConfigError

OWN = "experiment=photos datasets.target.root="
# What is typed, and what the line then says to type.
GIVEN = [
    ("num_members=4", "ensemble=sweep 'sweep.seed=[0,1,2,3]'"),
    ("ensemble=3", "ensemble=sweep 'sweep.seed=[0,1,2]'"),
    ("seed=[1,2]", "ensemble=sweep 'sweep.seed=[1,2]'"),
    ("optimizer.lr=[0.1,0.2]", "ensemble=sweep 'sweep.optimizer.lr=[0.1,0.2]'"),
    ("model=resnet50", "model.name=torchvision/resnet50 ensemble=five"),
    ("model=torchvision/resnet50", "model.name=torchvision/resnet50 ensemble=five"),
    ("arch=resnet18", "model.name=torchvision/resnet18 ensemble=five"),
    *((f"{key}=/x", f"{OWN}/x") for key in ("root", "data", "images", "dataset.root", "datasets.root", "target.path")),
    ("dataset=/x", f"{OWN}/x"),
    ("dataset@datasets.target=/x", f"{OWN}/x"),
    ("datasets.target.dir=/x", f"{OWN}/x"),
    ("trainer.max_epochs=5", "schedule.epochs=5"),
    ("learning_rate=0.1", "optimizer.lr=0.1"),
    ("batch_size=64", "optimizer.batch_size=64"),
    ("walltime=8", "budget.hours=8"),
    ("budget.time_limit=0.5", "budget.hours=0.5"),
    ("gpus=1", "cluster.gpus_per_member=1"),
    ("cluster.gpus=1", "cluster.gpus_per_member=1"),
    ("num_workers=4", "cluster.cpus_per_member=4"),
    ("kernels=plain", "cluster.kernels=plain"),
    ("output_dir=/x", "run_dir=/x"),
    ("img_size=224", "model.input_size=224 datasets.target.size=256"),
    ("val_fraction=0.2", "datasets.target.val_fraction=0.2"),
    ("optimizer=adam", "optimizer.name=adam"),
    ("early_stopping=true", "schedule.stop_when_stalled=true"),
    ("early_stopping_patience=3", "schedule.stop_when_stalled=true schedule.patience=3"),
    ("hflip=0.5", "augmentation.reflect=true"),
    ("augmentation.vflip=0.5", "augmentation.reflect_vertically=true"),
    ("auto_augment=ra", "augmentation.policy=randaugment"),
    ("augmentation.ta_wide=true", "augmentation.policy=trivialaugment"),
    ("color_jitter=0.4", " ".join(f"augmentation.{name}=0.4" for name in ("brightness", "contrast", "saturation"))),
    ("reprob=0.25", "augmentation.random_erasing=0.25"),
    ("degrees=15", "augmentation.rotation_degrees=15"),
    ("loss.smoothing=0.1", "loss.label_smoothing=0.1"),
    ("loss.label_smoothing=[0,0.1]", "ensemble=sweep 'sweep.loss.label_smoothing=[0,0.1]'"),
    ("mixup=0.2", "augmentation.mixup=0.2"),
    ("cutmix_alpha=1.0", "augmentation.cutmix=1.0"),
    ("weighted_sampler=true", "augmentation.sampler=balanced"),
    ("model_ema=true", "predict.checkpoint=ema"),
    ("preds=p.csv", "'ensemble.members.other={predictions: {test: p.csv}}'"),
    ("model_ema_decay=0.99", "predict.checkpoint=ema averaging.ema_decay=0.99"),
    ("use_swa=true", "predict.checkpoint=swa"),
]


def told(*overrides):
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize(("override", "advice"), GIVEN)
def test_word_of_another_program_leads_to_what_does_it_here(override, advice):
    said = "several values" if override.endswith("]") else f"no such {override.split('=')[0].split('@')[0]}"
    said = (
        said
        if override.split("@")[0].split("=")[0] in ("model", "ensemble", "dataset", "optimizer")
        else said.split(" ")[0]
    )
    line = told(override)
    assert line.startswith(f"{override}: {said}") and line.endswith(f"; give {advice}")


@pytest.mark.slow
@pytest.mark.parametrize("advice", sorted({advice for _, advice in GIVEN}))
def test_what_those_lines_say_to_type_composes(advice):
    compose(shlex.split(advice))


@pytest.mark.parametrize(
    ("override", "line"),
    [
        (
            "class_weights=[1,2]",
            "class_weights=[1,2]: no such key; give loss.class_weights=balanced, or a file of lines",
        ),
        ("ensemble.size=3", "ensemble.size: no such key (known: "),
        ("optimizer=lamb", "optimizer=lamb: no such optimizer; known: "),
        ("model=nonsense", "model=nonsense: no such model; known: "),
        ("num_classes=3", "num_classes=3: no such key; leave it out: the data tell"),
        # Elsewhere it multiplies the batch; shards only cut it.
        (
            "accumulate_grad_batches=4",
            "accumulate_grad_batches=4: no such key; give optimizer.shards=4, and in optimizer.batch_size the images",
        ),
        (
            "pretrained=true",
            "pretrained=true: no such key; give model.pretrained=true, or a file: ensemble.stages.train.ini",
        ),
    ],
)
def test_word_that_nothing_does_leads_nowhere_else(override, line):
    assert told(override).startswith(line) and "did you mean" not in told(override)


def test_every_group_may_be_chosen_with_a_plus():
    plain = ["experiment=tiny_imagenet", "model=alexnet"]
    assert compose([f"+{one}" for one in plain]) == compose(plain)


TORCHVISION = ["ensemble=five", "model.name=torchvision/resnet18"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["experiment=digits", "datasets.target.root=/x"], "datasets.target.root=/x: only source=csv or folder or"),
        (["experiment=digits", "datasets.target={root: /x}"], "datasets.target.root=/x: only source=csv or folder or"),
        (["datasets.superset.root=/x"], "datasets.superset.root=/x: only source=csv or folder or"),
        (["datasets.target.on_bad=skip"], "datasets.target.on_bad=skip: only source="),
        (
            ["experiment=cifar10", "datasets.target.orientations=4"],
            "only source=digits reads it, not folder; remove it",
        ),
        (["experiment=cifar10", "datasets.target.name=CIFAR10"], "only source=torchvision reads it, not folder"),
        (
            ["optimizer=adamw", "optimizer.velocity=scaled"],
            "only optimizer.name=sgd reads it, not adamw; remove it",
        ),
        (
            ["schedule=cosine", "schedule.cuts=2"],
            "schedule.cuts=2: only schedule.decay=plateau or fixed reads it, not cosine",
        ),
        (
            ["schedule=cosine", "schedule.patience=3"],
            "only schedule.decay=plateau or schedule.stop_when_stalled=true reads it, not cosine; remove it",
        ),
        (
            ["optimizer.name=nadam", "optimizer.momentum=0.8"],
            "optimizer.momentum=0.8: only optimizer.name=sgd reads it, not nadam",
        ),
        (
            ["ensemble.members.base1.optimizer={name: adam, nesterov: true}"],
            "nesterov=true: only optimizer.name=sgd reads it",
        ),
        (
            ["averaging.ema_decay=0.99"],
            "averaging.ema_decay=0.99: only predict.checkpoint=ema reads it, not last; remove it",
        ),
        (["predict.checkpoint=ema", "averaging.swa_from=0.5"], "only predict.checkpoint=swa reads it, not ema"),
        (
            ["predict.checkpoint=swa", "ensemble.stages.finetune.averaging.soup=best"],
            "ensemble.stages.finetune.averaging.soup=best: only predict.checkpoint=soup reads it, not swa",
        ),
        (["schedule.step_epochs=3"], "schedule.step_epochs=3: only schedule.decay=step reads it, not plateau"),
        (
            ["schedule=step", "schedule.final_lr_share=0.1"],
            "only schedule.decay=cosine or one_cycle reads it, not step",
        ),
        (
            ["augmentation=modern", "augmentation.magnitude=5"],
            "only augmentation.policy=randaugment reads it, not triv",
        ),
        (
            ["augmentation.crop_scale=[0.5,1]"],
            "only augmentation.resized_crop=true reads it, not false; remove it",
        ),
        ([*TORCHVISION, "model.width=0.5"], "only alexnet and highway read it, not torchvision/resnet18; remove it"),
        ([*TORCHVISION, "model.dropout=0.2"], "model.dropout=0.2: only alexnet reads it"),
        (
            ["ensemble=five", "model.name=torchvision/mobilenet_v2", "model.width=0.5"],
            "not torchvision/mobilenet_v2; give model.args.width_mult=0.5",
        ),
        ([*TORCHVISION, "init.std=0.1"], "init.std=0.1: the builder of torchvision/resnet18 draws its weights"),
        ([*TORCHVISION, "model.function=build"], "model.function=build: is looked up in a file; give model.file too"),
        (["ensemble=five", "model.file=a.py", "model.width=0.5"], "only alexnet and highway read it, not a.py:build"),
        (["ensemble=five", "model.file=a.py", "model.name=alexnet"], "model.name=alexnet: model.file builds the net"),
        (["ensemble.members.base1.model={name: lenet5, lrn: false}"], "ensemble.members.base1.model.lrn=false: only"),
        (["ensemble=sweep", "sweep.model.name=[lenet5,highway]", "sweep.model.lrn=[true]"], "not highway, lenet5"),
    ],
)
def test_setting_that_source_or_net_would_ignore_is_refused(overrides, words):
    assert re.search(re.escape(words), told(*overrides))


@pytest.mark.parametrize(
    "overrides",
    [
        ["dataset@datasets.target=folder", "datasets.target.root=/x", "datasets.target.on_bad=skip"],
        ["datasets.superset.orientations=1", "datasets.target.val_fraction=0.2"],
        ["ensemble=five", "model.width=0.5", "ensemble.members.base1.model.name=torchvision/resnet18"],
        ["ensemble=five", "model=highway", "model.width=0.5", "init.std=0.1"],
        ["schedule=one_cycle", "schedule.stop_when_stalled=true", "schedule.patience=3"],
        ["predict.checkpoint=soup", "averaging.soup=best", "averaging.soup_checkpoints=5", "averaging.swa_from=0.75"],
        # Files of conf/ set what only some sources and nets read.
        [*TORCHVISION, "model=alexnet_64", "dataset@datasets.superset=folder"],
    ],
)
def test_setting_that_some_source_or_net_reads_is_taken(overrides):
    compose(overrides)


@pytest.mark.parametrize("typed", ["datasets.target.root=/x", "datasets.target={root: /x}"])
def test_root_without_experiment_means_photos_and_is_told(typed):
    config = compose([typed, "datasets.target.size=64"])
    assert config == compose([*shlex.split(f"{OWN}/x"), "datasets.target.size=64"])
    assert config.notes == ("experiment=photos is taken, since datasets.target.root is given and no experiment",)


@pytest.mark.parametrize("more", ["experiment=tiny_imagenet", "dataset@datasets.target=folder"])
def test_root_with_a_source_or_experiment_chooses_no_other(more):
    assert compose([more, "datasets.target.root=/x", "ensemble=five"]).name != "photos"


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_pieces_of_a_shard_are_refused_where_its_images_are_mixed(kind):
    line = told("optimizer.micro_batch=16", f"augmentation.{kind}=0.2")
    assert line.endswith(
        "micro_batch=16: augmentation.mixup and cutmix need whole shards; give optimizer.shards instead"
    )
    compose(["optimizer.shards=8", f"augmentation.{kind}=0.2"])


@pytest.mark.parametrize(
    ("typed", "hours"), [("8h", "8"), ("90min", "1.5"), ("'1 day'", "24"), ("01:30:00", "1.5"), ("00:45", "0.75")]
)
def test_time_with_a_unit_is_answered_in_hours(typed, hours):
    assert told(f"budget.hours={typed}") == (
        f"budget.hours={typed}: give a number of hours, as in budget.hours={hours}"
    )
    assert compose([f"budget.hours={hours}"]).budget.hours == float(hours)


@pytest.mark.parametrize("typed", ["0", "-1", "soon", "inf"])
def test_budget_that_is_no_time_is_refused(typed):
    assert told(f"budget.hours={typed}").startswith(f"budget.hours={'0.0' if typed == '0' else typed}")
