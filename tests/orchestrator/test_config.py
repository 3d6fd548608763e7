"""Composing conf/: what comes out, and what is refused with which words."""

from dataclasses import replace
from pathlib import Path

import pytest

import conf
from orchestrator.config import compose, default_run_dir, reopen
from orchestrator.config_schema import GROUPS, CombineMethod, SubmissionFormat
from workers.errors import ConfigError
from workers.models.outline import outline
from workers.settings import (
    AugmentationSettings,
    ColourScale,
    Decay,
    InitScheme,
    ModelSettings,
    Normalisation,
    RateChange,
    Source,
    Velocity,
)
from workers.training.layer_rates import later_phases
from workers.training.schedule import ScheduleState, after_epoch, whole_epochs

OPTIONS = {
    group: sorted(path.stem for path in (Path(str(conf.__file__)).parent / group).glob("*.yaml")) for group in GROUPS
}
SEVEN = ["base1", "base2", "base3", "base4", "base5", "pretrained1", "pretrained2"]


def test_compose_without_overrides_gives_the_seven_on_digits():
    config = compose([])
    assert config.experiment == "digits"
    assert list(config.members) == SEVEN
    assert {settings.source for settings in config.datasets.values()} == {Source.digits}
    assert config.datasets["superset"].orientations == 4
    finetune = config.members["pretrained1"].stages["finetune"]
    assert (finetune.dataset, finetune.init_from, finetune.reset) == ("target", "pretrain", ("fc8",))
    assert finetune.settings.model.num_convs == 6
    assert config.members["base1"].stages["train"].settings.model.num_convs == 5
    assert not finetune.settings.augmentation.reflect


@pytest.mark.parametrize("experiment", OPTIONS["experiment"])
@pytest.mark.parametrize("ensemble", ["seven", "five"])
def test_compose_every_experiment_with_every_ensemble(experiment, ensemble):
    config = compose([f"experiment={experiment}", f"ensemble={ensemble}"])
    assert config.experiment == experiment
    assert list(config.members) == SEVEN[: 7 if ensemble == "seven" else 5]


def test_compose_every_option_of_every_group():
    options = {group: names for group, names in OPTIONS.items() if group not in ("experiment", "dataset", "ensemble")}
    for index in range(max(len(names) for names in options.values())):
        config = compose([f"{group}={names[index % len(names)]}" for group, names in options.items()])
        assert config.submission.format == options["submission"][index % len(options["submission"])]


def test_groups_are_the_folders_of_conf():
    folder = Path(str(conf.__file__)).parent
    assert {path.parent.name for path in folder.glob("*/*.yaml")} == set(GROUPS)


def test_experiments_open_with_a_comment_on_cost():
    for path in (Path(str(conf.__file__)).parent / "experiment").glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert any(line.startswith("# Cost and score:") for line in lines), path


def test_ilsvrc2012_is_the_published_recipe():
    config = compose(["experiment=ilsvrc2012", "datasets.target.root=/x", "datasets.superset.root=/y"])
    settings = config.members["base1"].stages["train"].settings
    assert (settings.model.input_size, settings.model.width, settings.model.fc_units) == (224, 1.0, 4096)
    assert (settings.optimizer.lr, settings.optimizer.batch_size) == (0.01, 128)
    assert (settings.schedule.epochs, settings.schedule.cuts) == (90, 3)
    assert config.datasets["target"].declared_train == 1_281_167
    assert config.datasets["superset"].declared_classes == 21_843


@pytest.mark.parametrize("experiment", ["ilsvrc2012", "ilsvrc2012_release"])
def test_experiments_of_2012_read_class_folders_or_the_challenge_s_own_files(experiment):
    assert compose([f"experiment={experiment}"]).datasets["target"].source is Source.folder
    own = compose([f"experiment={experiment}", "dataset@datasets.target=ilsvrc"]).datasets["target"]
    assert (own.source, own.declared_train, own.declared_test) == (Source.ilsvrc, 1_281_167, 100_000)


def test_ilsvrc_declares_what_was_published():
    target = compose(["dataset@datasets.target=ilsvrc"]).datasets["target"]
    counts = (target.declared_classes, target.declared_train, target.declared_val, target.declared_test)
    assert counts == (1000, 1_281_167, 50_000, 100_000)


def test_reading_lies_over_the_experiment_and_under_the_command_line():
    plain = compose(["experiment=tiny_imagenet"]).members["base1"].stages["train"].settings
    article = compose(["experiment=tiny_imagenet", "reading=article"]).members["base1"].stages["train"].settings
    assert (plain.init.scheme, article.init.scheme) == ("he", "gaussian")
    assert (article.init.std, article.init.bias) == (0.01, 1.0)
    assert article.model == plain.model
    assert article.augmentation.normalisation == "imagenet"
    typed = compose(["reading=article", "init.bias=0.1"]).members["base1"].stages["train"].settings
    assert typed.init.bias == 0.1


def test_readings_of_paper_and_release_name_what_the_sources_tell_differently():
    of = {name: compose([f"reading={name}"]).members["base1"].stages["train"].settings for name in ("paper", "release")}
    paper, release = of["paper"], of["release"]
    assert (paper.model.lrn_alpha_over_size, release.model.lrn_alpha_over_size) == (False, True)
    assert not paper.model.lrn_across_halves and not release.model.lrn_across_halves
    assert (release.model.conv1_padding, release.model.conv1_padding_end) == (0, 3)
    assert (paper.model.lrn1_before_relu, release.model.lrn1_before_relu) == (False, True)
    assert (paper.augmentation.colour_scale, release.augmentation.colour_scale) == ("eigenvalue", "root")
    assert paper.augmentation.normalisation == release.augmentation.normalisation == "mean_image"
    assert (release.optimizer.bias_lr_scale, release.optimizer.decay_biases) == (2.0, False)
    assert release.init.layer_std["conv4"] == 0.03


def test_each_cifar_net_has_its_published_decay_of_single_layers():
    for net, decay in (("cifar_80s", {"fc64": 0.03, "fc10": 0.03}), ("cifar_18pct", {"fc10": 1.0})):
        stage = compose(["experiment=cifar10", f"model={net}", f"optimizer={net}"]).members["base1"].stages["train"]
        assert (stage.settings.optimizer.weight_decay, dict(stage.settings.optimizer.layer_decay)) == (0.004, decay)


@pytest.fixture(scope="module")
def composed() -> str:
    """The default configuration as text: reading it again is quick, composing takes a fifth of a second."""
    return compose([]).yaml


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lrr=3", "optimizer.lrr: no such key; did you mean optimizer.lr?"),
        ("lr=3", "lr: no such key; did you mean optimizer.lr?"),
        ("optmizer=sgd", "optmizer: no such key; did you mean optimizer?"),
        ("datasets.target.rot=/x", "datasets.target.rot: no such key; did you mean datasets.target.root?"),
        ("ensemble.members.base1.optimizer.lrr=1", "did you mean ensemble.members.base1.optimizer.lr?"),
        ("ensemble.members.base1.epochs=1", "did you mean ensemble.members.base1.schedule.epochs?"),
        ("ensemble.members.base1.stages.train.epoch=1", "did you mean ensemble.members.base1.stages.train.epochs?"),
        ("ensemble.stages.train.epoch=1", "did you mean ensemble.stages.train.epochs?"),
        ("combine.method=weigthed", "combine.method=weigthed: did you mean weighted?"),
        ("schedule.decay=platou", "schedule.decay=platou: did you mean plateau? (known: fixed, plateau)"),
        ("model.name=alexnett", "model.name=alexnett: did you mean alexnet?"),
        ("optimizer.lr=fast", "optimizer.lr=fast: give a number"),
        ("optimizer.lr=nan", "optimizer.lr=nan: give a number"),
        ("optimizer.lr=null", "optimizer.lr=null: give a number"),
        ("optimizer.lr=true", "optimizer.lr=true: give a number"),
        ("schedule.epochs=1.5", "schedule.epochs=1.5: give a whole number"),
        ("model.lrn=1", "model.lrn=1: give true or false"),
        ("schedule.latest=0.5", "schedule.latest=0.5: give a list"),
        ("schedule.latest=[a]", "schedule.latest[0]=a: give a number"),
        ("model.width={a:1}", "model.width"),
        ("ensemble.members.base1=3", "ensemble.members.base1=3: give keys below"),
        ("optimizer.lr=-1", "optimizer.lr=-1.0: give a positive"),
        ("schedule.cuts=2", "schedule.latest=[0.6, 0.8, 0.95]: give one share for each of the 2 cuts"),
        ("schedule.factor=0", "schedule.factor=0.0: give a share in (0, 1]"),
        ("schedule.factor=-0.1", "schedule.factor=-0.1: give a share in (0, 1]"),
        ("schedule.patience=0", "schedule.patience=0: give 1 or more"),
        ("schedule.warmup_updates=-1", "schedule.warmup_updates=-1: give 0 or more"),
        ("schedule.at_chance_after=1.1", "schedule.at_chance_after=1.1: give a share in [0, 1]"),
        ("schedule.at_chance_after=-0.1", "schedule.at_chance_after=-0.1: give a share in [0, 1]"),
        ("schedule.rate_change={}", "schedule.rate_change: no such key; did you mean schedule.rate_changes?"),
        ("schedule.rate_changes=3", "schedule.rate_changes=3: give keys below"),
        ("schedule.rate_changes.late=3", "schedule.rate_changes.late=3: give keys below"),
        (
            "schedule.rate_changes.late.after_shar=0.5",
            "schedule.rate_changes.late.after_shar: no such key; did you mean schedule.rate_changes.late.after_share?",
        ),
        (
            "ensemble.members.base1.stages.train.schedule.rate_changes.late.layer={conv1: 0}",
            "did you mean ensemble.members.base1.stages.train.schedule.rate_changes.late.layers?",
        ),
        ("schedule.rate_changes.late.after_share=1.5", "rate_changes.late.after_share=1.5: give a share in [0, 1]"),
        ("schedule.rate_changes.late.after_updates=-1", "rate_changes.late.after_updates=-1: give 0 or more"),
        ("schedule.rate_changes.late.after_updates=0.5", "late.after_updates=0.5: give a whole number"),
        ("schedule.rate_changes.late.layers.conv1=-1", "rate_changes.late.layers.conv1=-1.0: give 0 or more"),
        ("schedule.rate_changes.late.layers.conv1=slow", "rate_changes.late.layers.conv1=slow: give a number"),
        ("optimizer.bias_lr_scale=0", "optimizer.bias_lr_scale=0.0: give a positive factor"),
        ("optimizer.velocity=scalled", "optimizer.velocity=scalled: did you mean scaled? (known: scaled, unscaled)"),
        ("optimizer.weight_decay=-0.1", "optimizer.weight_decay=-0.1: give 0 or more"),
        ("optimizer.layer_decay.fc8=-1", "optimizer.layer_decay.fc8=-1.0: give 0 or more"),
        ("optimizer.clip_norm=-1", "optimizer.clip_norm=-1.0: give 0 or more"),
        ("init.std=-0.1", "init.std=-0.1: give 0 or more"),
        ("augmentation.colour_std=-0.1", "augmentation.colour_std=-0.1: give 0 or more"),
        ("augmentation.colour_until=1.1", "augmentation.colour_until=1.1: give a share in [0, 1]"),
        (
            "augmentation.colour_scale=rot",
            "augmentation.colour_scale=rot: did you mean root? (known: eigenvalue, root)",
        ),
        ("augmentation.normalisation=mean_imag", "augmentation.normalisation=mean_imag: did you mean mean_image?"),
        ("model.input_size=0", "model.input_size=0: give 1 or more"),
        ("model.groups=0", "model.groups=0: give 1 or more"),
        ("model.conv1_kernel=0", "model.conv1_kernel=0: give 1 or more"),
        ("model.conv1_stride=0", "model.conv1_stride=0: give 1 or more"),
        ("model.conv1_padding=-1", "model.conv1_padding=-1: give 0 or more"),
        ("model.fc_units=0", "model.fc_units=0: give 1 or more"),
        ("model.lrn_size=0", "model.lrn_size=0: give an odd count"),
        ("model.lrn_size=4", "model.lrn_size=4: give an odd count"),
        ("model.lrn_k=0", "model.lrn_k=0.0: give a positive number"),
        ("model.lrn_alpha=-1", "model.lrn_alpha=-1.0: give 0 or more"),
        ("model.lrn_beta=-1", "model.lrn_beta=-1.0: give 0 or more"),
        ("ensemble.members.base1.model.fc_units=0", "ensemble.members.base1.model.fc_units=0: give 1 or more"),
        ("datasets.target.declared_train=-1", "datasets.target.declared_train=-1: give 0 or more"),
        ("datasets.target.images=x", "datasets.target.images=x: only source=csv reads it, not digits"),
        ("datasets.target.id_column=x", "only source=csv or parquet reads it, not digits"),
        ("predict.crops=center", "predict.crops=center: did you mean centre? (known: centre, ten)"),
        ("checkpoint_updates=0", "checkpoint_updates=0: give 1 or more"),
        ("cluster.max_failures=-1", "cluster.max_failures=-1: give 0 or more"),
        ("cluster.max_losses=-1", "cluster.max_losses=-1: give 0 or more"),
        ("cluster.cpus_per_member=0", "cluster.cpus_per_member=0: give 1 or more"),
        ("cluster.cpus_per_member=aut", "cluster.cpus_per_member=aut: give a whole number or auto"),
        ("cluster.cpus_per_member=1.5", "cluster.cpus_per_member=1.5: give a whole number or auto"),
        ("cluster.gpus_per_member=1.5", "cluster.gpus_per_member=1.5"),
        ("seed=-1", "seed=-1: give 0 or more"),
        ("ensemble.members.base1.seed=-1", "ensemble.members.base1.seed=-1: give 0 or more"),
        ("optimizer.lr=0.1,0.2", "sweep.optimizer.lr=[a,b]"),
        ("foo", "foo: not an override; write key=value"),
        ("a=[b", "a=[b: not an override"),
        ("optimizer._target_=os.system", "optimizer._target_: classes cannot be named"),
        ("ensemble.members.base1._target_=os.system", "ensemble.members.base1._target_"),
        ("sweep._target_=os.system", "sweep._target_"),
        ("ensemble.members.bas1.optimizer.lr=0.1", "did you mean base1?"),
        (
            "ensemble.members.base1.stages.trian.epochs=3",
            "stages.trian.dataset: missing; did you mean the stage train?",
        ),
        ("ensemble.members.base1.stages.predictions.dataset=target", "stages.predictions: this folder name is taken"),
        ("ensemble.members.a b.stages.train.dataset=target", "ensemble.members.a b"),
        ("ensemble.members._a.stages.train.dataset=target", "ensemble.members._a: a member's name"),
        ("ensemble.members.a.stages._b.dataset=target", "ensemble.members.a.stages._b: a stage's name"),
        ("ensemble.members.base1.stages.train.lr_scale.conv1=-1", "lr_scale.conv1=-1.0: give 0 or more"),
        ("datasets.target.root=${oc.env:SEPTET_NO_SUCH}", "datasets.target.root: "),
        ("sweep.seed=[0,1]", "sweep.seed: a sweep needs a template"),
    ],
)
def test_value_that_is_mistaken_is_named_in_one_line(composed, override, words):
    with pytest.raises(ConfigError) as caught:
        reopen(composed, [override])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["optimizer.lrr=3"], "optimizer.lrr: no such key; did you mean optimizer.lr?"),
        (["+foo=1"], "foo: no such key"),
        (["ensemble=sweep", "sweep.optimizer.lrr=[1]"], "did you mean sweep.optimizer.lr?"),
        (["ensemble=sweep", "sweep.epochs=[1]"], "did you mean sweep.schedule.epochs?"),
        (["optimizer=sgdd"], "optimizer=sgdd: did you mean sgd?"),
        (["experiment=tiny_imagnet"], "did you mean tiny_imagenet? (known: "),
        (["dataset@datasets.target=foldr"], "dataset@datasets.target=foldr: did you mean folder?"),
        (["datset@datasets.target=folder"], "datset@datasets.target: no such group; did you mean dataset?"),
        (["dataset=folder"], "dataset@datasets.target=folder"),
        (["optimizer=null"], "optimizer=null: (known: cifar_18pct, cifar_80s, release, sgd)"),
        (["optimizer=sgd", "optimizer.lr.x=1"], "optimizer.lr"),
        (["hydra.run.dir=x"], "Hydra's own settings"),
        (["datasets.targt.root=/x"], "datasets.targt: no stage uses it; did you mean target?"),
        (["datasets.stor=/x"], "datasets.stor"),
        (["~datasets.target"], "datasets.target: missing"),
        (["schedule=fixed", "schedule.stop_when_stalled=true"], "schedule.stop_when_stalled=true: only decay=plateau"),
        (["~ensemble.members.base9"], "ensemble.members.base9"),
        (["ensemble.members={}", "ensemble=five", "~ensemble.members"], "ensemble.members: no member"),
        (
            ["ensemble.stages.pretrian.epochs=3"],
            "ensemble.stages.pretrian: no member has such a stage; did you mean pretrain?",
        ),
        (["ensemble=sweep"], "sweep: nothing to sweep over; say what, as in ensemble=sweep"),
        (["ensemble=sweep", "sweep.seed=[]"], "sweep.seed=[]: give at least one value"),
        (["ensemble=sweep", "sweep.seed=[0,0]"], "made twice"),
        (["ensemble=sweep", "sweep.optimizer.lr=[1,1.0]"], "would be the same"),
        (["ensemble=sweep", "sweep.stages.trian.epochs=[1]"], "sweep.stages.trian: no such stage; did you mean train?"),
        (
            ["ensemble=sweep", "sweep.optimizer.lr=[0.1,0.2]", "ensemble.template.stages.train.optimizer.lr=0.3"],
            "sweep below sweep.stages.<stage>",
        ),
    ],
)
def test_compose_of_a_mistake_names_it_in_one_line(overrides, words):
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_compose_value_wins_over_member_defaults_in_order_of_nearness():
    config = compose(
        [
            "optimizer.lr=0.1",
            "ensemble.stages.finetune.optimizer.lr=0.2",
            "ensemble.members.pretrained2.optimizer.lr=0.3",
            "ensemble.members.pretrained2.stages.finetune.optimizer.lr=0.4",
        ]
    )

    def rate(member: str, stage: str) -> float:
        return config.members[member].stages[stage].settings.optimizer.lr

    assert rate("base1", "train") == 0.1
    assert rate("pretrained1", "finetune") == 0.2
    assert rate("pretrained2", "pretrain") == 0.3
    assert rate("pretrained2", "finetune") == 0.4


def test_compose_stage_epochs_override_the_schedule_s():
    config = compose(["schedule.epochs=7", "ensemble.members.base2.stages.train.epochs=3"])
    assert config.members["base1"].stages["train"].settings.schedule.epochs == 7
    assert config.members["base2"].stages["train"].settings.schedule.epochs == 3


def test_compose_member_schedule_overrides_shared_stage_epochs():
    config = compose(["ensemble.stages.train.epochs=3", "ensemble.members.base2.schedule.epochs=5"])
    assert config.members["base1"].stages["train"].settings.schedule.epochs == 3
    assert config.members["base2"].stages["train"].settings.schedule.epochs == 5


def test_compose_accepts_new_members_datasets_and_deletions():
    config = compose(
        [
            "dataset@datasets.extra=folder",
            "datasets.extra.root=images",
            "ensemble.members.mine.stages.warm.dataset=extra",
            "ensemble.members.mine.stages.train.dataset=target",
            "ensemble.members.mine.stages.train.init_from=warm",
            "ensemble.members.mine.stages.train.reset=[fc8]",
            "ensemble.members.mine.stages.train.lr_scale.conv1=0.1",
            "~ensemble.members.base5",
        ]
    )
    assert config.datasets["extra"].source is Source.folder
    assert config.datasets["extra"].root == str(Path("images").absolute())
    assert list(config.members["mine"].stages) == ["warm", "train"]
    assert config.members["mine"].stages["train"].lr_scale == (("conv1", 0.1),)
    assert "base5" not in config.members


def test_compose_command_line_group_wins_over_the_experiment_s():
    config = compose(["experiment=tiny_imagenet", "model=alexnet", "init=gaussian", "schedule=fixed"])
    settings = config.members["base1"].stages["train"].settings
    assert (settings.model.input_size, settings.model.width) == (224, 1.0)
    assert settings.init.scheme is InitScheme.gaussian
    assert settings.schedule.decay is Decay.fixed


def test_rate_changes_are_laid_over_one_another_by_name():
    late = "schedule.rate_changes.conv1_frozen"
    config = compose(
        [
            "schedule=release",
            f"ensemble.stages.pretrain.{late}.after_share=0.5",
            "ensemble.stages.finetune.schedule.rate_changes.faster={after_updates: 300, layers: {fc8: 10}}",
            f"ensemble.members.base1.{late}.layers={{}}",
        ]
    )

    def changes(member: str, stage: str) -> dict[str, RateChange]:
        return dict(config.members[member].stages[stage].settings.schedule.rate_changes)

    frozen = RateChange(0, 0.79120879, {"conv1": 0.0})
    assert changes("base2", "train") == {"conv1_frozen": frozen}
    assert changes("base1", "train") == {"conv1_frozen": RateChange(0, 0.79120879, {})}
    assert changes("pretrained1", "pretrain") == {"conv1_frozen": RateChange(0, 0.5, {"conv1": 0.0})}
    assert changes("pretrained1", "finetune") == {"conv1_frozen": frozen, "faster": RateChange(300, 0.0, {"fc8": 10.0})}


def test_release_chain_has_the_published_rates_and_cuts():
    config = compose(["experiment=ilsvrc2012_release"])
    chain = config.members["pretrained1"].stages
    assert dict(chain["fall2009"].lr_scale) == {f"conv{number}": 0.1 for number in range(1, 6)}
    assert [stage.settings.optimizer.lr for stage in chain.values()] == [0.01, 0.01, 0.001]
    assert [stage.settings.schedule.epochs for stage in chain.values()] == [7, 8, 54]
    assert [stage.settings.model.bottleneck for stage in chain.values()] == [0, 2048, 0]
    finetune = config.members["pretrained3"].stages["finetune"]
    assert dict(finetune.lr_scale) == {"conv1": 0.1}
    (phase,) = later_phases(
        outline(finetune.settings.model, 1000), dict(finetune.lr_scale), finetune.settings.schedule, 1000
    )
    assert phase.begin == 300
    assert phase.factors == {"conv1": 0.1, "fc8": 10.0}
    for stage, cuts, colour in (
        (config.members["base4"].stages["train"], [25, 51, 79], 67),
        (finetune, [9, 22, 42], 38),
    ):
        schedule, state, made = stage.settings.schedule, ScheduleState(), []
        for _ in range(schedule.epochs):
            state = after_epoch(state, 0.1, schedule, learnt_below=0.9)
            made.append(state.cuts)
        assert [made.index(number) + 1 for number in (1, 2, 3)] == cuts
        assert whole_epochs(stage.settings.augmentation.colour_until, schedule.epochs) == colour


def test_release_cuts_after_epochs_25_51_and_79_and_freezes_conv1_after_72():
    settings = compose(["schedule=release", "schedule.epochs=91"]).members["base1"].stages["train"].settings.schedule
    state, cuts = ScheduleState(), []
    for _ in range(settings.epochs):
        state = after_epoch(state, 0.1, settings, learnt_below=0.9)
        cuts.append(state.cuts)
    assert [cuts.index(number) + 1 for number in (1, 2, 3)] == [25, 51, 79]
    (phase,) = later_phases(outline(ModelSettings(), 10), {}, settings, updates_per_epoch=10)
    assert (phase.begin, phase.factors) == (720, {"conv1": 0.0})


def test_release_shifts_colours_for_67_of_91_epochs():
    composed = compose(["augmentation=release", "schedule.epochs=91"]).members["base1"].stages["train"].settings
    assert whole_epochs(composed.augmentation.colour_until, composed.schedule.epochs) == 67


def test_augmentation_readings_differ_where_their_sources_do():
    def reading(name: str) -> AugmentationSettings:
        return compose([f"augmentation={name}"]).members["base1"].stages["train"].settings.augmentation

    article, paper, release = reading("article"), reading("paper"), reading("release")
    assert article == AugmentationSettings(normalisation=Normalisation.imagenet)
    assert paper == AugmentationSettings(normalisation=Normalisation.mean_image, colour_scale=ColourScale.eigenvalue)
    assert replace(release, colour_until=1.0) == AugmentationSettings(normalisation=Normalisation.mean_image)


def test_release_optimizer_leaves_biases_undecayed_at_twice_the_rate():
    optimizer = compose(["optimizer=release"]).members["base1"].stages["train"].settings.optimizer
    assert (optimizer.decay_biases, optimizer.bias_lr_scale, optimizer.velocity) == (False, 2.0, Velocity.scaled)


def test_sweep_makes_the_product_with_safe_names():
    config = compose(["ensemble=sweep", "sweep.seed=[0,1,2]", "sweep.optimizer.lr=[0.01,0.02]"])
    assert len(config.members) == 6
    assert "lr-0.02_seed-1" in config.members
    member = config.members["lr-0.02_seed-1"]
    assert (member.seed, member.stages["train"].settings.optimizer.lr) == (1, 0.02)


def test_sweep_names_do_not_depend_on_the_order_of_axes_or_on_other_values():
    few = compose(["ensemble=sweep", "sweep.seed=[0]", "sweep.optimizer.lr=[0.01]"])
    more = compose(["ensemble=sweep", "sweep.optimizer.lr=[0.02,0.01]", "sweep.seed=[3,0]"])
    assert set(few.members) < set(more.members)


def test_sweep_over_a_stage_s_setting_and_a_single_value():
    config = compose(["ensemble=sweep", "sweep.stages.train.epochs=[3,4]", "sweep.seed=5"])
    epochs = [member.stages["train"].settings.schedule.epochs for member in config.members.values()]
    assert sorted(epochs) == [3, 4]
    assert {member.seed for member in config.members.values()} == {5}


def test_sweep_over_lists_and_many_axes_keeps_names_short_and_apart():
    config = compose(
        [
            "ensemble=sweep",
            "sweep.schedule.latest=[[0.5,0.7,0.9],[0.6,0.8,0.9]]",
            "sweep.optimizer.weight_decay=[0.00050001,0.00050002]",
            "sweep.model.dropout=[0.12345678,0.12345679]",
            "sweep.optimizer.momentum=[0.91111,0.92222]",
        ]
    )
    assert len(config.members) == 16
    assert all(len(name) <= 64 for name in config.members)


def test_tracking_uri_explicit_then_environment_then_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert compose([]).tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert compose([]).tracking.uri == "http://localhost:5000"
    assert compose(["tracking.uri=sqlite:///my.db"]).tracking.uri == f"sqlite:///{tmp_path}/my.db"
    assert compose(["tracking.uri=sqlite:////var/my.db"]).tracking.uri == "sqlite:////var/my.db"
    assert compose(["tracking.uri=runs/ml"]).tracking.uri == f"{tmp_path}/runs/ml"
    assert compose(["tracking.uri='file:ml'"]).tracking.uri == f"file://{tmp_path}/ml"


def test_paths_are_absolute_and_the_store_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    config = compose(["dataset@datasets.target=folder", "datasets.target.root=a", "datasets.target.classes=~/b"])
    assert config.store == tmp_path / "me/.cache/septet"
    assert config.datasets["target"].root == str(tmp_path / "a")
    assert config.datasets["target"].classes == str(tmp_path / "me/b")


def test_addresses_in_object_stores_are_kept_as_they_are_and_read_back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    chosen = ["dataset@datasets.target=webdataset", "datasets.target.root=s3://bucket/a", "ensemble=five"]
    config = compose([*chosen, "datasets.target.class_names=names.txt"])
    assert config.datasets["target"].source is Source.webdataset
    assert config.datasets["target"].root == "s3://bucket/a"
    assert config.datasets["target"].class_names == str(tmp_path / "names.txt")
    monkeypatch.chdir("/")
    assert reopen(config.yaml) == config


@pytest.mark.parametrize(
    "root",
    [
        "ftp://me:hush@host/images",
        "s3://KEY:hu/hush+x@bucket/images",
        "zip://a::https://me:hush@host/images.zip",
        "https://host/images?sig=hush",
    ],
)
def test_root_with_a_password_is_refused_and_the_password_not_repeated(root):
    with pytest.raises(ConfigError) as caught:
        compose(["dataset@datasets.target=folder", f"datasets.target.root='{root}'"])
    assert str(caught.value).startswith("datasets.target.root: holds a password")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("key", ["run_dir", "datasets.target.root", "datasets.target.classes", "submission.template"])
def test_home_of_nobody_is_told_in_one_line(key):
    with pytest.raises(ConfigError, match="~nobody-here/x: no user of this machine"):
        compose(["dataset@datasets.target=folder", f"{key}=~nobody-here/x"])


@pytest.mark.parametrize(
    "root", ["http://host:9000/images@2x", "s3://bucket/a:b", "/data/me:x@y", "abfs://box@account/x"]
)
def test_root_with_a_port_or_odd_names_holds_no_password(root):
    config = compose(["dataset@datasets.target=folder", f"datasets.target.root='{root}'"])
    assert config.datasets["target"].root == root


@pytest.mark.parametrize("source", ["csv", "webdataset", "parquet"])
def test_files_of_other_sources_compose(source):
    config = compose([f"dataset@datasets.target={source}", "datasets.target.root=/x", "ensemble=five"])
    assert config.datasets["target"].source == source


def test_yaml_keeps_references_and_reads_back_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("SEPTET_TEST_SECRET", "http://me:hush@localhost")
    config = compose(["tracking.uri=${oc.env:SEPTET_TEST_SECRET}", "datasets.target.val_fraction=0.2"])
    assert config.tracking.uri == "http://me:hush@localhost"
    text = config.yaml
    assert "hush" not in text
    assert "${oc.env:SEPTET_TEST_SECRET}" in text
    monkeypatch.chdir(tmp_path)
    assert reopen(text) == config


def test_yaml_leaves_the_environment_s_tracking_uri_out(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@localhost")
    assert "hush" not in compose([]).yaml


def test_reopen_changes_combination_and_submission():
    text = compose(["ensemble=sweep", "sweep.seed=[0,1]", "submission.template=a.csv"]).yaml
    config = reopen(text, ["combine=weighted", "submission=kaggle_loc", "submission.class_ids=/ids"])
    assert config.combine.method is CombineMethod.weighted
    assert config.submission.format is SubmissionFormat.kaggle_loc
    assert (config.submission.template, config.submission.class_ids) == (None, "/ids")
    assert list(config.members) == ["seed-0", "seed-1"]


@pytest.mark.parametrize("order", [1, -1])
def test_reopen_keeps_a_value_wherever_its_group_is_chosen(order):
    text = compose([]).yaml
    config = reopen(text, ["submission.template=/sample.csv", "submission=kaggle_loc"][::order])
    assert config.submission.format is SubmissionFormat.kaggle_loc
    assert config.submission.template == "/sample.csv"


@pytest.mark.parametrize(
    "override", ["combine=weigthed", "experiment=digits", "combine.methd=mean", "~ensemble.members.base1"]
)
def test_reopen_refuses_a_mistake_and_what_a_run_has_settled(override):
    with pytest.raises(ConfigError):
        reopen(compose([]).yaml, [override])


def test_config_dir_adds_options_and_refuses_a_missing_folder(tmp_path):
    folder = tmp_path / "my conf'"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "optimizer" / "slow.yaml").write_text("lr: 0.0001\n")
    config = compose(["experiment=ilsvrc2012", "optimizer=slow"], config_dir=folder)
    assert config.members["base1"].stages["train"].settings.optimizer.lr == 0.0001
    with pytest.raises(ConfigError, match=r"known: cifar_18pct, cifar_80s, release, sgd, slow"):
        compose(["optimizer=slw"], config_dir=folder)
    with pytest.raises(ConfigError, match="no such folder"):
        compose([], config_dir=tmp_path / "absent")


def test_default_run_dir_names_experiment_and_plan():
    assert default_run_dir("digits", "0123456789abcdef") == Path("runs/digits-01234567")
