"""Composing the recipes of 2012: what article, paper and release say, key by key."""

from dataclasses import replace

import pytest

from orchestrator.config.composition import compose
from orchestrator.inputs import survey_all
from orchestrator.plan.build import make_plan
from orchestrator.plan.checks import remarks
from workers.errors import ConfigError
from workers.models.outlines import outline
from workers.settings.dataset import Source
from workers.settings.model import ModelSettings
from workers.settings.training import AugmentationSettings, ColourScale, Decay, Normalisation, Velocity
from workers.training.layer_rates import later_phases
from workers.training.schedule import ScheduleState, after_epoch, whole_epochs


def whole_plan(*overrides):
    """The plan on the declared counts, where the images are absent."""
    config = compose(overrides)
    return make_plan(config, survey_all(config, allow_absent=True))


def test_ilsvrc2012_is_the_published_recipe():
    config = compose(["experiment=ilsvrc2012", "datasets.target.root=/x", "datasets.superset.root=/y"])
    settings = config.members["base1"].stages["train"]
    assert (settings.model.input_size, settings.model.width, settings.model.fc_units) == (224, 1.0, 4096)
    assert (settings.optimizer.lr, settings.optimizer.batch_size) == (0.01, 128)
    assert (settings.schedule.epochs, settings.schedule.cuts) == (90, 3)
    assert config.datasets["target"].declared_train == 1_281_167
    assert config.datasets["superset"].declared_classes == 21_843


@pytest.mark.parametrize("experiment", ["ilsvrc2012", "ilsvrc2012_release"])
def test_experiments_of_2012_read_class_folders_or_the_challenge_s_own_files(experiment):
    assert compose([f"experiment={experiment}"]).datasets["target"].source is Source.folder
    own = compose([f"experiment={experiment}", "dataset@datasets.target=ilsvrc"]).datasets["target"]
    counts = (own.declared_classes, own.declared_train, own.declared_val, own.declared_test)
    assert (own.source, counts) == (Source.ilsvrc, (1000, 1_281_167, 50_000, 100_000))


def test_reading_lies_over_the_experiment_and_under_the_command_line():
    plain = compose(["experiment=tiny_imagenet"]).members["base1"].stages["train"]
    article = compose(["experiment=tiny_imagenet", "reading=article"]).members["base1"].stages["train"]
    assert (plain.init.scheme, article.init.scheme) == ("he", "gaussian")
    assert (article.init.std, article.init.bias) == (0.01, 1.0)
    assert article.model == plain.model
    assert article.augmentation.normalisation == "imagenet"
    typed = compose(["reading=article", "init.bias=0.1"]).members["base1"].stages["train"]
    assert typed.init.bias == 0.1


def test_readings_of_paper_and_release_name_what_the_sources_tell_differently():
    of = {name: compose([f"reading={name}"]).members["base1"].stages["train"] for name in ("paper", "release")}
    paper, release = of["paper"], of["release"]
    assert (paper.model.lrn_alpha_over_size, release.model.lrn_alpha_over_size) == (False, True)
    assert not paper.model.lrn_across_halves and not release.model.lrn_across_halves
    assert (release.model.conv1_padding, release.model.conv1_padding_end) == (0, 3)
    assert (paper.model.lrn1_before_relu, release.model.lrn1_before_relu) == (False, True)
    assert (paper.augmentation.colour_scale, release.augmentation.colour_scale) == ("eigenvalue", "root")
    assert paper.augmentation.normalisation == release.augmentation.normalisation == "mean_image"
    assert (release.optimizer.bias_lr_scale, release.optimizer.decay_biases) == (2.0, False)
    assert release.optimizer.velocity is Velocity.scaled
    assert release.init.layer_std["conv4"] == 0.03


@pytest.mark.parametrize("reading", ["article", "paper", "release"])
def test_reading_trains_on_the_entire_sets_with_fixed_cuts_where_nothing_is_left_to_look_at(reading):
    plan = whole_plan("experiment=ilsvrc2012", f"reading={reading}")
    counts = {dataset.name: dict(dataset.counts) for dataset in plan.datasets}
    assert counts["target"] == {"train": 1_281_167, "dev": 0, "val": 50_000, "test": 100_000}
    assert counts["superset"] == {"train": 15_000_000, "dev": 0, "val": 0, "test": 0}
    decays = {str(stage.ref): stage.recipe.schedule.decay for stage in plan.stages}
    assert (decays["base1/train"], decays["pretrained1/finetune"]) == (Decay.plateau, Decay.plateau)
    assert decays["pretrained1/pretrain"] is Decay.fixed
    (line,) = remarks(plan)
    assert line.startswith("pretrained1/pretrain and 1 more: trains on all of superset and looks at no other image")
    assert line.endswith("; the rate is cut at 60%, 80%, 95% of the epochs")


def test_reading_of_the_release_trains_on_both_supersets_entirely_and_no_reading_on_less():
    images = {str(stage.ref): stage.num_images for stage in whole_plan("experiment=ilsvrc2012").stages}
    assert images["pretrained1/pretrain"] == 12_150_000
    chain = whole_plan("experiment=ilsvrc2012_release", "reading=release")
    images = {str(stage.ref): stage.num_images for stage in chain.stages}
    assert (images["pretrained1/fall2009"], images["pretrained1/fall2011"]) == (8_900_000, 15_000_000)


def test_reading_keeps_what_is_typed_and_what_a_plateau_can_still_look_at():
    typed = compose(["reading=paper", "datasets.superset.dev_fraction=0.1"]).datasets
    assert [(one.val_fraction, one.dev_fraction) for one in typed.values()] == [(0.1, 0.0), (0.0, 0.1)]
    looked = whole_plan("experiment=ilsvrc2012", "reading=paper", "datasets.superset.dev_fraction=0.1")
    assert {stage.recipe.schedule.decay for stage in looked.stages} == {Decay.plateau}
    off = compose(["reading=paper", "datasets.entire=false"]).datasets
    assert {(one.val_fraction, one.dev_fraction) for one in off.values()} == {(0.1, 0.1)}


def test_reading_with_a_plateau_that_has_no_latest_cuts_is_refused():
    cutless = ("schedule.latest=[]",)
    with pytest.raises(
        ConfigError, match=r"pretrain\.schedule\.decay=plateau: looks at dev or val, and superset holds"
    ):
        whole_plan("experiment=ilsvrc2012", "reading=paper", *cutless)


def test_each_cifar_net_has_its_published_decay_of_single_layers():
    for net, decay in (("cifar_80s", {"fc64": 0.03, "fc10": 0.03}), ("cifar_18pct", {"fc10": 1.0})):
        stage = compose(["experiment=cifar10", f"model={net}", f"optimizer={net}"]).members["base1"].stages["train"]
        assert (stage.optimizer.weight_decay, dict(stage.optimizer.layer_decay)) == (0.004, decay)


def test_release_chain_has_the_published_rates_and_cuts():
    config = compose(["experiment=ilsvrc2012_release"])
    chain = config.members["pretrained1"].stages
    assert dict(chain["fall2009"].lr_scale) == {f"conv{number}": 0.1 for number in range(1, 6)}
    assert [stage.optimizer.lr for stage in chain.values()] == [0.01, 0.01, 0.001]
    assert [stage.schedule.epochs for stage in chain.values()] == [7, 8, 54]
    assert [stage.model.bottleneck for stage in chain.values()] == [0, 2048, 0]
    finetune = config.members["pretrained3"].stages["finetune"]
    assert finetune.lr_scale == {"conv1": 0.1}
    (phase,) = later_phases(outline(finetune.model, 1000), finetune.lr_scale, finetune.schedule, 1000)
    assert phase.begin == 300
    assert phase.factors == {"conv1": 0.1, "fc8": 10.0}
    for stage, cuts, colour in (
        (config.members["base4"].stages["train"], [25, 51, 79], 67),
        (finetune, [9, 22, 42], 38),
    ):
        schedule, state, made = stage.schedule, ScheduleState(), []
        for _ in range(schedule.epochs):
            state = after_epoch(state, 0.1, schedule, learnt_below=0.9)
            made.append(state.cuts)
        assert [made.index(number) + 1 for number in (1, 2, 3)] == cuts
        assert whole_epochs(stage.augmentation.colour_until, schedule.epochs) == colour


def test_release_of_91_epochs_cuts_freezes_conv1_and_shifts_colours_when_it_did():
    stage = compose(["schedule=release", "augmentation=release", "schedule.epochs=91"]).members["base1"].stages["train"]
    state, cuts = ScheduleState(), []
    for _ in range(91):
        state = after_epoch(state, 0.1, stage.schedule, learnt_below=0.9)
        cuts.append(state.cuts)
    assert [cuts.index(number) + 1 for number in (1, 2, 3)] == [25, 51, 79]
    (phase,) = later_phases(outline(ModelSettings(), 10), {}, stage.schedule, updates_per_epoch=10)
    assert (phase.begin, phase.factors) == (720, {"conv1": 0.0})
    assert whole_epochs(stage.augmentation.colour_until, 91) == 67


def test_augmentation_readings_differ_where_their_sources_do():
    def reading(name):
        return compose([f"augmentation={name}"]).members["base1"].stages["train"].augmentation

    article, paper, release = reading("article"), reading("paper"), reading("release")
    assert article == AugmentationSettings(normalisation=Normalisation.imagenet)
    assert paper == AugmentationSettings(normalisation=Normalisation.mean_image, colour_scale=ColourScale.eigenvalue)
    assert replace(release, colour_until=1.0) == AugmentationSettings(normalisation=Normalisation.mean_image)
