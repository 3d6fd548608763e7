"""Composing conf/: what comes out, and what is refused with which words."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

import conf
from orchestrator.config.composition import compose, reopen
from orchestrator.config.schema import GROUPS, Compile, Precision, default_run_dir
from workers.errors import ConfigError
from workers.settings.dataset import Source
from workers.settings.model import InitScheme
from workers.settings.training import Decay, RateChange

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
    assert finetune.model.num_convs == 6
    assert config.members["base1"].stages["train"].model.num_convs == 5
    assert not finetune.augmentation.reflect


@pytest.mark.slow
@pytest.mark.parametrize("experiment", OPTIONS["experiment"])
def test_compose_every_experiment_with_five_members(experiment):
    config = compose([f"experiment={experiment}", "ensemble=five"])
    assert (config.experiment, list(config.members)) == (experiment, SEVEN[:5])


@pytest.mark.slow
def test_compose_every_option_of_every_group():
    options = {group: names for group, names in OPTIONS.items() if group not in ("experiment", "dataset", "ensemble")}
    for index in range(max(len(names) for names in options.values())):
        chosen = {group: names[index % len(names)] for group, names in options.items()}
        config = compose([f"{group}={name}" for group, name in chosen.items()])
        assert config.submission.format == options["submission"][index % len(options["submission"])]


def test_groups_are_the_folders_of_conf():
    folder = Path(str(conf.__file__)).parent
    assert {path.parent.name for path in folder.glob("*/*.yaml")} == set(GROUPS)


def test_experiments_open_with_a_comment_on_cost():
    for path in (Path(str(conf.__file__)).parent / "experiment").glob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[0] == "# @package _global_"
        assert any(line.startswith("# Cost and score:") for line in lines), path


@pytest.fixture(scope="module")
def composed():
    """The default configuration as text: reading it again is quick, composing takes a fifth of a second."""
    return compose([]).yaml


# Every bound that a setting has: the value just outside it.
BOUNDS = """
optimizer.lr=-1 optimizer.bias_lr_scale=0 optimizer.weight_decay=-0.1 optimizer.layer_decay.fc8=-1
optimizer.clip_norm=-1 optimizer.layer_lr_decay=0 optimizer.layer_lr_decay=1.1
schedule.cuts=2 schedule.factor=0 schedule.factor=-0.1 schedule.patience=0
schedule.warmup_updates=-1 schedule.warmup_share=1.1 schedule.final_lr_share=-0.1 schedule.step_epochs=0
schedule.at_chance_after=1.1 schedule.at_chance_after=-0.1
schedule.rate_changes.late.after_share=1.5 schedule.rate_changes.late.after_updates=-1
schedule.rate_changes.late.layers.conv1=-1 init.std=-0.1 augmentation.colour_std=-0.1 augmentation.colour_until=1.1
augmentation.num_ops=0 augmentation.magnitude=31 augmentation.magnitude=-1 augmentation.brightness=-0.1
augmentation.hue=0.6 augmentation.rotation_degrees=181 augmentation.random_erasing=1.1
augmentation.crop_scale=[0.5,0.1] augmentation.crop_scale=[0.5,1.1] augmentation.crop_ratio=[0,1]
model.input_size=0 model.groups=0 model.conv1_kernel=0 model.conv1_stride=0 model.conv1_padding=-1 model.fc_units=0
model.lrn_size=0 model.lrn_size=4 model.lrn_k=0 model.lrn_alpha=-1 model.lrn_beta=-1
ensemble.members.base1.model.fc_units=0 ensemble.members.base1.stages.train.lr_scale.conv1=-1
ensemble.members.base1.seed=-1 datasets.target.declared_train=-1 checkpoint_updates=0 cluster.max_failures=-1
cluster.workers_per_member=[0,1] cluster.workers_per_member=[2,1] cluster.workers_per_member=[1]
cluster.workers_per_member=[1,2,3] cluster.workers_per_member=2
cluster.max_losses=-1 cluster.cpus_per_member=0 cluster.gpus_per_member=1.5 seed=-1
combine.coverage=0 combine.coverage=1 combine.coverage=-0.5
"""


@pytest.mark.parametrize("override", BOUNDS.split())
def test_value_out_of_bounds_is_named_with_what_to_give(composed, override):
    key = override.split("=")[0].replace("schedule.cuts", "schedule.latest")
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)}=\S+( \S+)*: give [^\n]+$"):
        reopen(composed, [override])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lrr=3", "optimizer.lrr: no such key; did you mean optimizer.lr?"),
        ("lr=3", "lr=3: no such key; give optimizer.lr=3"),
        (
            "schedule.decay=linear",
            "schedule.decay=linear: no such value; known: cosine, fixed, one_cycle, plateau, step",
        ),
        (
            "schedule.decay=platou",
            "schedule.decay=platou: no such value; did you mean plateau? (known: cosine, fixed, one_cycle,",
        ),
        ("optimizer.lr=fast", "optimizer.lr=fast: give a number"),
        ("optimizer.lr=nan", "optimizer.lr=nan: give a number"),
        ("schedule.epochs=1.5", "schedule.epochs=1.5: give a whole number"),
        ("model.lrn=1", "model.lrn=1: give true or false"),
        ("precision=tf32", "precision=tf32: only NVIDIA GPUs have it; give fp32, or cluster.gpus_per_member=1"),
        ("precision=fp16", "precision=fp16: only NVIDIA GPUs have it; give fp32, or cluster.gpus_per_member=1"),
        ("precision=off", "precision=off: no such value"),
        ("compile=fused", "compile=fused: no such value; known: auto, off"),
        ("schedule.latest=0.5", "schedule.latest=0.5: give a list"),
        ("schedule.latest=[a]", "schedule.latest[0]=a: give a number"),
        ("schedule.rate_changes.late=3", "schedule.rate_changes.late=3: give keys below"),
        ("model.width={a:1}", "model.width"),
        ("cluster.kernels=C", "cluster.kernels=C: no such value; known: auto, compiled, plain"),
        ("cluster.cpus_per_member=aut", "cluster.cpus_per_member=aut: give a whole number or auto"),
        ("datasets.target.images=x", "datasets.target.images=x: only source=csv reads it, not digits"),
        ("datasets.target.id_column=x", "only source=csv or parquet reads it, not digits"),
        ("optimizer.lr=0.1,0.2", "sweep.optimizer.lr=[a,b]"),
        ("foo", "foo: not an override; write key=value"),
        ("a=[b", "a=[b: not an override"),
        ("ensemble.members.base1._target_=os.system", "ensemble.members.base1._target_: classes cannot be named"),
        ("ensemble.members.bas1.optimizer.lr=0.1", "did you mean base1?"),
        ("ensemble.members.base1.stages.trian.epochs=3", "trian.dataset: missing; did you mean the stage train?"),
        ("ensemble.members.base1.stages.predictions.dataset=target", "stages.predictions: this folder name is taken"),
        ("ensemble.members.a b.stages.train.dataset=target", "ensemble.members.a b"),
        ("ensemble.members.a.stages._b.dataset=target", "ensemble.members.a.stages._b: a stage's name"),
        ("datasets.target.root=${oc.env:SEPTET_NO_SUCH}", "datasets.target.root: "),
        ("sweep.seed=[0,1]", "sweep.seed: a sweep needs a template"),
    ],
)
def test_value_that_is_mistaken_is_named_in_one_line(composed, override, words):
    with pytest.raises(ConfigError, match=rf"^[^\n]*{re.escape(words)}[^\n]*$"):
        reopen(composed, [override])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["+foo=1"], "foo: no such key"),
        (["ensemble=sweep", "sweep.epochs=[1]"], "did you mean sweep.schedule.epochs?"),
        (["optimizer=sgdd"], "optimizer=sgdd: no such optimizer; did you mean sgd?"),
        (["datset@datasets.target=folder"], "datset@datasets.target: no such group; did you mean dataset?"),
        (["dataset=folder"], "dataset@datasets.target=folder"),
        (["optimizer=null"], "optimizer=null: no such optimizer; known: adamw, cifar_18pct, cifar_80s, release, sgd"),
        (["optimizer=sgd", "optimizer.lr.x=1"], "optimizer.lr"),
        (["hydra.run.dir=x"], "Hydra's own settings"),
        (["datasets.targt.root=/x"], "datasets.targt: no stage uses it; did you mean target?"),
        (["~datasets.target"], "datasets.target: missing"),
        (["averaging.ema_decay=1.0"], "averaging.ema_decay=1.0: give a share between 0 and 1"),
        (["averaging.swa_from=2"], "averaging.swa_from=2.0: give a share in"),
        (["averaging.soup_checkpoints=0"], "averaging.soup_checkpoints=0"),
        (["combine.calibration=platt"], "combine.calibration=platt: no such value"),
        (["combine.sets=lac"], "combine.sets=lac: no such value"),
        (["averaging.soup=worst"], "averaging.soup=worst: no such value"),
        (
            ["ensemble=five", "predict.checkpoint=swa", "schedule.stop_when_stalled=true"],
            "ensemble.members.base1.stages.train.schedule.stop_when_stalled=true: a stage that stalls may end before",
        ),
        (["ensemble.members={}", "ensemble=five", "~ensemble.members"], "ensemble.members: there is no member"),
        (["ensemble.stages.pretrian.epochs=3"], "no member has such a stage; did you mean pretrain?"),
        (["ensemble=sweep"], "sweep: there is nothing to sweep over; give values, as in ensemble=sweep"),
        (["ensemble=sweep", "sweep.seed=[]"], "sweep.seed=[]: give at least one value"),
        (["ensemble=sweep", "sweep.seed=[0,0]"], "two members would have the name seed-0"),
        (["ensemble=sweep", "sweep.optimizer.lr=[1,1.0]"], "would be the same"),
        (["ensemble=sweep", "sweep.stages.trian.epochs=[1]"], "sweep.stages.trian: no such stage; did you mean train?"),
        (
            ["ensemble=sweep", "sweep.optimizer.lr=[0.1,0.2]", "ensemble.template.stages.train.optimizer.lr=0.3"],
            "sweep it below sweep.stages.<stage>",
        ),
    ],
)
def test_compose_of_a_mistake_names_it_in_one_line(overrides, words):
    with pytest.raises(ConfigError, match=rf"^[^\n]*{re.escape(words)}[^\n]*$"):
        compose(overrides)


def test_compose_value_wins_over_member_defaults_in_order_of_nearness():
    config = compose(
        [
            "optimizer.lr=0.1",
            "ensemble.stages.finetune.optimizer.lr=0.2",
            "ensemble.members.pretrained2.optimizer.lr=0.3",
            "ensemble.members.pretrained2.stages.finetune.optimizer.lr=0.4",
        ]
    )

    def rate(member, stage):
        return config.members[member].stages[stage].optimizer.lr

    assert rate("base1", "train") == 0.1
    assert rate("pretrained1", "finetune") == 0.2
    assert rate("pretrained2", "pretrain") == 0.3
    assert rate("pretrained2", "finetune") == 0.4


def test_compose_epochs_of_a_stage_or_member_win_over_what_is_shared():
    config = compose(
        [
            "schedule.epochs=7",
            "ensemble.members.base2.stages.train.epochs=3",
            "ensemble.members.base3.schedule.epochs=5",
        ]
    )
    assert [config.members[f"base{n}"].stages["train"].schedule.epochs for n in (1, 2, 3)] == [7, 3, 5]
    config = compose(["ensemble.stages.train.epochs=3", "ensemble.members.base2.schedule.epochs=5"])
    assert [config.members[f"base{n}"].stages["train"].schedule.epochs for n in (1, 2)] == [3, 5]


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
    assert config.members["mine"].stages["train"].lr_scale == {"conv1": 0.1}
    assert "base5" not in config.members


def test_compose_command_line_group_wins_over_the_experiment_s():
    config = compose(["experiment=tiny_imagenet", "model=alexnet", "init=gaussian", "schedule=fixed"])
    settings = config.members["base1"].stages["train"]
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

    def changes(member, stage):
        return dict(config.members[member].stages[stage].schedule.rate_changes)

    frozen = RateChange(0, 0.79120879, {"conv1": 0.0})
    assert changes("base2", "train") == {"conv1_frozen": frozen}
    assert changes("base1", "train") == {"conv1_frozen": RateChange(0, 0.79120879, {})}
    assert changes("pretrained1", "pretrain") == {"conv1_frozen": RateChange(0, 0.5, {"conv1": 0.0})}
    assert changes("pretrained1", "finetune") == {"conv1_frozen": frozen, "faster": RateChange(300, 0.0, {"fc8": 10.0})}


def test_sweep_makes_the_product_with_safe_names_whatever_the_order_of_axes_or_other_values():
    config = compose(["ensemble=sweep", "sweep.seed=[0,1,2]", "sweep.optimizer.lr=[0.01,0.02]"])
    assert len(config.members) == 6
    member = config.members["lr-0.02_seed-1"]
    assert (member.seed, member.stages["train"].optimizer.lr) == (1, 0.02)
    few = compose(["ensemble=sweep", "sweep.optimizer.lr=[0.01]", "sweep.seed=[0]"])
    assert set(few.members) < set(config.members)


def test_sweep_over_a_stage_s_setting_and_a_single_value():
    config = compose(["ensemble=sweep", "sweep.stages.train.epochs=[3,4]", "sweep.seed=5"])
    epochs = [member.stages["train"].schedule.epochs for member in config.members.values()]
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


def test_fp16_is_refused_for_a_stage_whose_optimizer_would_wait_for_the_gpu():
    own = ["cluster.gpus_per_member=1", "ensemble=five", "ensemble.members.base2.stages.train.optimizer.name=rmsprop"]
    line = (
        "^precision=fp16: ensemble.members.base2.stages.train has optimizer.name=rmsprop; give precision=fp32, or one "
    )
    with pytest.raises(ConfigError, match=f"{line}of adagrad, adam, adamw, sgd$"):
        compose([*own, "precision=fp16"])
    assert compose([*own[:2], "precision=fp16"]).precision is Precision.fp16


def test_arithmetic_of_gpus_is_taken_with_a_gpu_and_off_is_off_in_a_file_too(tmp_path):
    with pytest.raises(ConfigError, match=r"^cluster\.kernels=plain: only members on CPUs use them"):
        compose(["cluster.kernels=plain", "cluster.gpus_per_member=1"])
    config = compose(["precision=tf32", "cluster.gpus_per_member=0.5", "compile=off"])
    assert (config.precision, config.compile) == (Precision.tf32, Compile.off)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "own.yaml").write_text("# @package _global_\n# Costs nothing.\ncompile: off\n")
    assert compose(["experiment=own"], tmp_path).compile is Compile.off
    assert compose([]).compile is Compile.auto


def test_refit_has_the_settings_of_the_stage_that_it_names_and_its_own_over_them():
    config = compose(["ensemble=refit", "ensemble.stages.train.epochs=7", "ensemble.stages.refit.optimizer.lr=0.5"])
    train, refit = config.members["base3"].stages.values()
    assert (train.refit, refit.refit, refit.dataset, refit.schedule.epochs) == (None, "train", "target", 7)
    assert replace(refit, refit=None, optimizer=train.optimizer) == train
    assert refit.optimizer == replace(train.optimizer, lr=0.5)
    with pytest.raises(ConfigError, match=r"base1\.stages\.refit\.refit=trian: no such stage; did you mean train\?"):
        compose(["ensemble=refit", "ensemble.members.base1.stages.refit.refit=trian"])


@pytest.mark.slow
@pytest.mark.parametrize("key", ["run_dir", "datasets.store", "datasets.local_copy"])
@pytest.mark.parametrize("address", ["s3://bucket/a", "gs://b", "hdfs://name/a"])
def test_folder_in_an_object_store_is_refused_and_mounts_are_named(key, address):
    with pytest.raises(ConfigError, match=rf"^{key}={address}: is no path.*rename, lock or append; .*NFS") as caught:
        compose([f"{key}={address}"])
    assert "\n" not in str(caught.value)


def test_settings_of_a_cluster_at_an_address_are_refused_without_one_and_wait_is_no_negative_time():
    for word in ("cluster.wait_s=10", "cluster.ship_code=true"):
        with pytest.raises(ConfigError, match=f"{word.split('=')[0]}=.*: only a cluster at an address reads it"):
            compose([word])
    with pytest.raises(ConfigError, match=r"cluster\.wait_s=-1.*null to wait for ever"):
        compose(["cluster.address=auto", "cluster.wait_s=-1"])
    assert compose(["cluster.address=auto", "cluster.wait_s=10"]).cluster.wait_s == 10.0


def test_ray_job_joins_its_cluster_and_keeps_its_run_beside_the_store(monkeypatch, tmp_path):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    config = compose([f"datasets.store={tmp_path}/store"])
    assert config.cluster.address == "auto"
    assert default_run_dir("a", "0123456789", config.runs) == tmp_path / "septet-runs" / "a-01234567"
    assert config.tracking.uri == f"sqlite:///{tmp_path}/septet-runs/mlflow.db"
    assert f"cluster.address=auto, and without run_dir it is below {tmp_path}/septet-runs" in config.notes[-1]
    assert compose(["cluster.wait_s=10", "cluster.ship_code=true"]).cluster.wait_s == 10.0
    given = compose(["cluster.address=10.0.0.1:6379", "tracking.uri=http://h:5000"])
    assert (given.cluster.address, given.tracking.uri, given.notes) == ("10.0.0.1:6379", "http://h:5000", ())
