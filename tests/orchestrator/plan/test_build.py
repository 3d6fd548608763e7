"""Plans: order, seeds, hashes, what is refused, and how one plan relates to another."""

import re
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest
from small_plans import (
    ALL_LAYERS,
    CLASSES,
    SIX,
    SMALL,
    SURVEYS,
    again,
    base,
    config,
    member,
    planned,
    pretrained,
    stage,
)

from orchestrator.config.schema import ClusterConfig, PredictConfig, TrackingConfig
from orchestrator.plan.build import used_datasets
from orchestrator.plan.diff import ChangeKind, compare
from orchestrator.plan.model import StageRef
from workers.errors import ConfigError
from workers.settings.dataset import DatasetSettings, Exif, Keep, Source, StoreFormat, dataset_options
from workers.settings.training import (
    AugmentationSettings,
    Crops,
    Normalisation,
    OptimizerSettings,
    RateChange,
)


def hashes(plan):
    return {str(one.ref): one.hash for one in plan.stages}


SEVEN = (*(base(f"base{number}") for number in range(1, 6)), pretrained("pretrained1"), pretrained("pretrained2"))


def test_plan_of_the_seven_has_nine_stages_each_after_its_ancestor():
    plan = planned(*SEVEN)
    refs = [one.ref for one in plan.stages]
    assert len(refs) == 9
    assert all(one.init_from is None or refs.index(one.init_from) < refs.index(one.ref) for one in plan.stages)
    assert plan.members == tuple(one.name for one in SEVEN)
    assert plan.pretrained_members() == ("pretrained1", "pretrained2")
    assert plan.base_members() == tuple(f"base{number}" for number in range(1, 6))
    assert plan.last_stage("pretrained1").ref == StageRef("pretrained1", "finetune")
    assert (plan.stages[0].num_images, plan.stages[0].num_updates) == (300, 4 * 3), "the last batch is a part of one"
    seeds = {one.seed for one in plan.stages}
    assert len(seeds) == 9 and all(0 <= seed < 2**63 for seed in seeds)


def test_plan_seed_and_hash_follow_the_name_never_the_position():
    few, more = planned(base("b"), pretrained("c")), planned(base("a"), pretrained("c"), base("b"), base("z"))
    for one in few.stages:
        assert more.stage(one.ref) == one
    renamed = planned(base("b2"), pretrained("c"))
    assert renamed.stage(StageRef("b2", "train")).seed != few.stage(StageRef("b", "train")).seed
    assert hashes(renamed)["c/finetune"] == hashes(few)["c/finetune"]


def test_plan_seed_is_the_member_s_where_it_has_one_else_the_run_s_and_what_it_always_was():
    assert planned(base("a"), seed=3).stages == planned(member("a", 3, train=stage())).stages
    assert planned(base("a"), seed=3).stages[0].seed != planned(base("a")).stages[0].seed
    # Golden: other seeds would be other weights for every run directory there is.
    assert [one.seed for one in planned(pretrained("a")).stages] == [2643042394036793063, 6212153590566463478]


def test_plan_hash_does_not_depend_on_order_on_where_the_run_lies_or_on_counts_of_images():
    plan = planned(*SEVEN)
    roots = {name: DatasetSettings(root=f"/elsewhere/{name}", classes="/a/file") for name in reversed(CLASSES)}
    places = {"datasets": roots, "run_dir": "/somewhere", "store": Path("/other"), "experiment": "renamed"}
    means = {"cluster": ClusterConfig(cpus_per_member=2), "tracking": TrackingConfig("http://x", False)}
    moved = planned(*reversed(SEVEN), **places, **means)
    assert moved.hash == plan.hash
    assert hashes(moved) == hashes(plan)
    assert moved.last_stages == plan.last_stages
    counts = MappingProxyType({"train": 7, "dev": 1, "val": 1, "test": 1})
    fewer = {name: replace(survey, counts=counts) for name, survey in SURVEYS.items()}
    assert planned(*SEVEN, surveys=fewer).hash == plan.hash


def test_plan_hash_and_store_key_take_the_same_options_and_no_others():
    """A field that joins them gives every run another hash and every dataset another store: add it here knowingly."""
    options = {"source": "folder", "size": 256, "val_fraction": 0.1, "dev_fraction": 0.1}
    options |= {"on_bad": "stop", "orientations": 1, "name": None}
    assert list(dataset_options(DatasetSettings()).items()) == list(options.items())
    assert planned(base("a")).target.options == options
    as_jpeg = DatasetSettings(store_format=StoreFormat.jpeg, jpeg_quality=80)
    assert dataset_options(as_jpeg) == options | {"store_format": "jpeg", "jpeg_quality": 80}
    assert dataset_options(DatasetSettings(jpeg_quality=80)) == options, "pixels that are raw have no quality"


def test_what_only_some_sources_read_joins_the_options_where_it_is_given_but_no_places_of_files():
    plain, parquet = (DatasetSettings(source=source) for source in (Source.csv, Source.parquet))
    chosen = replace(plain, label_column="kind", class_names=None, root="/elsewhere")
    assert dataset_options(chosen) == {**dataset_options(plain), "label_column": "kind"}
    assert dataset_options(replace(parquet, class_names="/a/file")) == dataset_options(parquet)
    decoded = replace(plain, exif=Exif.ignore, max_pixels=500)
    assert dataset_options(decoded) == {**dataset_options(plain), "exif": "ignore", "max_pixels": 500}
    with pytest.raises(ValueError, match=r"exif=ignore: only source=csv or folder or .* reads it, not digits"):
        DatasetSettings(source=Source.digits, exif=Exif.ignore)
    with pytest.raises(ValueError, match="max_pixels=0: give 1…1000000000"):
        replace(plain, max_pixels=0)


@pytest.mark.parametrize(
    "changed",
    [
        {"lr": 0.02},
        {"model": replace(SMALL, dropout=0.4)},
        {"rate_changes": {"late": RateChange(after_share=0.5, layers={"conv1": 0.0})}},
    ],
)
def test_plan_hash_depends_on_what_shapes_weights(changed):
    assert planned(base("a", **changed)).hash != planned(base("a")).hash


def test_plan_hash_depends_on_dataset_options_and_classes_where_they_are_read():
    plan = planned(*SEVEN)
    larger = {name: DatasetSettings(size=200 if name == "superset" else 256) for name in CLASSES}
    resized = planned(*SEVEN, datasets=larger)
    renamed = planned(*SEVEN, surveys=SURVEYS | {"superset": replace(SURVEYS["superset"], classes=("a", "b", "c"))})
    for other in (resized, renamed):
        same = {ref for ref, digest in hashes(plan).items() if hashes(other)[ref] == digest}
        assert same == {f"base{number}/train" for number in range(1, 6)}, "descendants of other pixels are others"


def test_plan_shared_ancestor_is_one_stage_and_order_of_writing_is_free():
    first = member("first", finetune=stage(init_from="pretrain"), pretrain=stage("superset"))
    second = member("second", finetune=stage(init_from="first.pretrain"))
    plan = planned(second, first)
    assert [str(one.ref) for one in plan.stages] == ["first/pretrain", "second/finetune", "first/finetune"]
    assert plan.stage(StageRef("second", "finetune")).init_from == StageRef("first", "pretrain")
    assert plan.pretrained_members() == ("second", "first")


def test_plan_side_branch_or_another_s_start_does_not_move_a_last_stage():
    first = member("first", warm=stage(), train=stage())
    second = member("second", train=stage(init_from="first.warm", reset=()))
    assert planned(first, second).last_stages["first"] == StageRef("first", "train")
    plan = planned(base("a"), member("b", more=stage(init_from="a.train", reset=())))
    assert plan.last_stages == {"a": StageRef("a", "train"), "b": StageRef("b", "more")}
    assert plan.base_members() == ("a", "b")


def test_plan_bottleneck_before_a_head_that_is_reset_comes_and_goes_along_a_chain():
    narrow = replace(SIX, bottleneck=8)
    pre = stage("superset", init_from="a.train", model=narrow, reset=("conv6", "fc6", "fc7", "bottleneck", "head"))
    plan = planned(base("a"), member("b", pre=pre, train=stage(init_from="pre", model=SIX, reset=("head",))))
    assert [str(one.ref) for one in plan.ancestors(plan.last_stage("b"))] == ["b/pre", "a/train"]
    for kept in ("conv6", "bottleneck"):
        forgotten = replace(pre, reset=tuple(layer for layer in pre.reset if layer != kept))
        with pytest.raises(ConfigError, match=f"{kept} have another shape in a/train"):
            planned(base("a"), member("b", pre=forgotten, train=stage(init_from="pre", model=SIX, reset=("head",))))


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([base("a", dataset="targt")], "stages.train.dataset=targt: no such dataset; did you mean target?"),
        ([member("a", train=stage(init_from="pree"), pre=stage())], "init_from=pree: no such stage; did you mean pre?"),
        ([member("a", x=stage(init_from="y"), y=stage(init_from="x"))], "a/x → a/y → a/x form a cycle"),
        ([base("a", dataset="superset")], "stages.train.dataset=superset: a member's last stage must be on target"),
        ([member("a", x=stage(), y=stage())], "ensemble.members.a.stages: cannot tell which stage is last (x, y)"),
        (
            [member("a", pre=stage("superset"), train=stage(init_from="pre", reset=()))],
            "a/pre has other classes (3, here 2; only there: eel); add fc8 to ensemble.members.a.stages.train.reset",
        ),
        ([base("a"), member("b", train=stage(init_from="a.train", model=SIX))], "conv6 have another shape in a/train"),
        ([base("a", freeze=("conv9",))], "train.freeze: no layer conv9; did you mean"),
        ([base("a", layer_decay={"fc9": 1.0})], "optimizer.layer_decay: no layer fc9"),
        ([base("a", rate_changes={"late": RateChange(layers={"fc9": 1.0})})], "late.layers: no layer fc9"),
        (
            [base("a", freeze=("conv1",), rate_changes={"late": RateChange(layers={"conv1": 1.0})})],
            "conv1 cannot train, since freeze holds it from start to end; use ensemble.members.a.stages.train.lr_sc",
        ),
        (
            [base("a", rate_changes={"late": RateChange(after_share=0.5, layers=dict.fromkeys(ALL_LAYERS, 0.0))})],
            "stages.train: no layer is left to train from update 6",
        ),
        ([base("a", reset=("fc8",))], "train.reset: has no effect without init_from"),
        ([base("a", model=replace(SMALL, input_size=20))], "input_size=20"),
        ([base("a", model=replace(SMALL, input_size=257))], "input_size=257: larger than its images, datasets.target"),
        (
            [base("a", model=replace(SMALL, input_size=84))],
            "datasets.target.size=256, so the net would see fragments; set datasets.target.size=96, or choose",
        ),
        ([base("a"), member("b", train=stage(init_from="a.train", freeze=("fc8",)))], "fc8 would keep random weights"),
        ([base("a"), member("b", t=stage(init_from="a.train", reset=(), freeze=ALL_LAYERS))], "every layer is frozen"),
    ],
)
def test_plan_that_cannot_be_is_refused_in_one_line(members, words):
    with pytest.raises(ConfigError, match=rf"^[^\n]*{re.escape(words)}[^\n]*$"):
        planned(*members)


def test_mean_image_is_refused_where_images_have_other_shapes_than_it():
    by_image = AugmentationSettings(normalisation=Normalisation.mean_image)
    flagship = base("a", augmentation=by_image)
    datasets = {name: DatasetSettings(root="/data") for name in CLASSES}
    whole = {name: datasets | {name: DatasetSettings(root="/data", keep=Keep.whole)} for name in CLASSES}
    refused = r"^ensemble\.members\.a\.stages\.\w+\.augmentation\.normalisation=mean_image: with {}, [^\n]*; give "
    with pytest.raises(ConfigError, match=refused.format(r"datasets\.target\.keep=whole")):
        planned(flagship, datasets=whole["target"])
    with pytest.raises(ConfigError, match=refused.format(r"predict\.crops=five_scales")):
        planned(flagship, predict=PredictConfig(crops=Crops.five_scales))
    # Neither an unused dataset nor a stage that predicts nothing is in the way.
    assert planned(flagship, datasets=whole["superset"], predict=PredictConfig(crops=Crops.flip)).stages
    assert planned(base("a"), datasets=whole["target"], predict=PredictConfig(crops=Crops.five_scales)).stages
    heir = member("a", pre=stage("superset", augmentation=by_image), train=stage(init_from="pre"))
    with pytest.raises(ConfigError, match=refused.format(r"predict\.crops=five_scales")):
        planned(heir, predict=PredictConfig(crops=Crops.five_scales))
    own = stage(init_from="pre", augmentation=AugmentationSettings(normalisation=Normalisation.dataset))
    tuned = member("a", pre=stage("superset", augmentation=by_image), train=own)
    assert planned(tuned, predict=PredictConfig(crops=Crops.five_scales)).stages
    with pytest.raises(ConfigError, match=refused.format(r"datasets\.superset\.keep=whole")):
        planned(tuned, datasets=whole["superset"])


def test_keep_changes_the_hash_where_it_is_not_the_default():
    datasets = {name: DatasetSettings(root="/data", keep=Keep.whole) for name in CLASSES}
    plain, whole = planned(base("a")), planned(base("a"), datasets=datasets)
    assert plain.hash != whole.hash and "keep" not in plain.target.options
    assert compare(plain, whole).lines == ("datasets.target.keep: null → whole",)


def test_plan_same_count_of_other_classes_needs_a_fresh_last_layer():
    other = {"superset": replace(SURVEYS["superset"], classes=("eel", "fly"), num_classes=2)}
    pair = member("a", pre=stage("superset"), train=stage(init_from="pre", reset=()))
    with pytest.raises(ConfigError, match=r"other classes \(2, here 2; only there: eel, fly; only here: cat, dog\)"):
        planned(pair, surveys=SURVEYS | other)


def test_used_datasets_are_those_of_stages_and_the_target():
    assert used_datasets(config(*SEVEN)) == ("target", "superset")
    assert used_datasets(config(base("a"))) == ("target",)
    assert [one.name for one in planned(base("a"), surveys={"target": SURVEYS["target"]}).datasets] == ["target"]


def test_plan_json_reads_back_the_same_and_changes_of_rates_are_hashed_in_any_order():
    plan = planned(*SEVEN, base("x", lr_scale={"conv1": 0.1, "fc8": 10.0}, freeze=("conv2",)))
    assert again(plan) == plan
    first, then = RateChange(300, 0.0, {"fc8": 10.0}), RateChange(0, 72 / 91, {"conv1": 0.0, "conv2": 0.5})
    plan = planned(base("a", rate_changes={"first": first, "then": then}))
    assert again(plan) == plan
    turned = replace(then, layers={"conv2": 0.5, "conv1": 0.0})
    assert planned(base("a", rate_changes={"then": turned, "first": first})).hash == plan.hash


def test_plan_frozen_layer_may_be_named_by_a_change_that_freezes_it():
    freeze = RateChange(after_share=0.5, layers={"conv1": 0.0})
    assert planned(base("a", freeze=("conv1",), rate_changes={"late": freeze})).stages


def test_compare_with_itself_read_back_is_same():
    assert compare(again(planned(*SEVEN)), planned(*reversed(SEVEN))).kind is ChangeKind.same


def test_compare_with_more_members_and_stages_extends():
    more = (*SEVEN, base("base6"))
    change = compare(planned(*SEVEN), planned(*more))
    assert (change.kind, change.lines) == (ChangeKind.extends, ("new stage base6/train",))
    assert compare(planned(*more), planned(*SEVEN)).lines == ("base6/train: recorded, no longer wanted",)
    longer = member("a", train=stage(), again=stage(init_from="train", reset=()))
    assert compare(planned(base("a")), planned(longer)).kind is ChangeKind.extends


def test_compare_names_each_changed_key_once_with_old_and_new():
    faster = OptimizerSettings(lr=0.5)
    wanted = [
        replace(one, stages={name: replace(part, optimizer=faster) for name, part in one.stages.items()})
        for one in SEVEN
    ]
    change = compare(planned(*SEVEN), planned(*wanted, datasets={name: DatasetSettings(size=199) for name in CLASSES}))
    assert change.kind is ChangeKind.differs
    assert change.lines == (
        "datasets.target.size: 256 → 199",
        "datasets.superset.size: 256 → 199",
        "optimizer.lr: 0.01 → 0.5 (in base1/train, base2/train, base3/train and 6 more)",
    )


def test_compare_names_seed_classes_ancestor_and_changes_of_rates():
    late = RateChange(after_share=0.5, layers={"conv1": 0.0})
    change = compare(planned(base("a")), planned(base("a", rate_changes={"late": late})))
    assert "schedule.rate_changes.late.layers.conv1: null → 0.0 (in a/train)" in change.lines
    assert compare(planned(base("a")), planned(base("a"), seed=5)).lines == ("seed: 0 → 5 (in a/train)",)
    other = {"target": replace(SURVEYS["target"], classes=("cat", "emu"))}
    assert compare(planned(base("a")), planned(base("a"), surveys=SURVEYS | other)).lines == (
        "datasets.target: 2 classes → 2; 1 gone (dog…), 1 new (emu…)",
    )
    chained = member("b", train=stage(init_from="a.train", reset=()))
    change = compare(planned(base("a"), chained), planned(base("a", lr=0.3), chained))
    assert change.lines == ("optimizer.lr: 0.01 → 0.3 (in a/train)",)
