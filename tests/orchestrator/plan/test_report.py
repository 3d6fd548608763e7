"""What `septet plan` says, over the real ILSVRC-2012 configuration and the default one."""

import json
from dataclasses import replace

import pytest

from orchestrator.config.composition import compose
from orchestrator.plan.build import make_plan, used_datasets
from orchestrator.plan.report import disk_estimate, make_report
from workers.data.survey import survey
from workers.settings.training import Decay, KeptCheckpoint


def plan_of(*overrides):
    config = compose(overrides)
    return make_plan(config, {name: survey(config.datasets[name], allow_absent=True) for name in used_datasets(config)})


@pytest.fixture(scope="module")
def published():
    plan = plan_of("experiment=ilsvrc2012", "datasets.target.root=/absent/x", "datasets.superset.root=/absent/y")
    return make_report(plan, compose([]).cluster, 7)


@pytest.fixture(scope="module")
def digits():
    return plan_of()


def stages_of(report):
    return {
        f"{stage['member']}/{stage['stage']}": stage for stage in json.loads(json.dumps(report.to_json()))["stages"]
    }


def test_report_of_ilsvrc2012_without_images_has_nine_stages_at_published_sizes(published):
    document = json.loads(json.dumps(published.to_json()))
    assert set(document) >= {"plan_hash", "stages", "makespan_s", "lower_bound_s", "disk_bytes"}
    assert document["declared"] == ["target", "superset"]
    stages = stages_of(published)
    assert len(stages) == 9
    train, finetune = stages["base1/train"], stages["pretrained2/finetune"]
    assert (train["num_parameters"], train["num_macs"]) == (60_965_224, 724_406_816)
    assert train["num_neurons"] == 659_272
    assert "659,272" in published.to_text()
    assert finetune["num_parameters"] == 61_555_304
    assert (train["init_from"], finetune["init_from"]) == (None, "pretrain")
    assert stages["pretrained1/pretrain"]["num_classes"] == 21_843
    assert train["num_updates"] == 90 * -(-train["num_images"] // 128)
    assert document["makespan_s"] is None


def test_report_of_the_release_without_images_is_a_chain_with_shared_ancestors():
    roots = (f"datasets.{name}.root=/absent/{name}" for name in ("target", "superset2009", "superset"))
    plan = plan_of("experiment=ilsvrc2012_release", *roots)
    report = make_report(plan, compose([]).cluster, 7)
    stages = stages_of(report)
    assert set(report.to_json()["declared"]) == {"superset2009", "target", "superset"}
    assert {name: stage["init_from"] for name, stage in stages.items() if stage["init_from"]} == {
        "pretrained1/fall2009": "base1.train",
        "pretrained1/fall2011": "fall2009",
        "pretrained1/finetune": "fall2011",
        "pretrained2/finetune": "pretrained1.fall2011",
        "pretrained3/finetune": "pretrained1.fall2011",
    }
    assert len(stages) == 9
    first, second = stages["pretrained1/fall2009"], stages["pretrained1/fall2011"]
    assert (first["num_classes"], first["num_parameters"]) == (10_184, 57_458_304 + 4097 * 10_184)
    assert (second["num_classes"], second["num_parameters"]) == (21_843, 110_605_267)
    assert stages["pretrained2/finetune"]["num_parameters"] == 61_555_304
    assert plan.base_members() == ("base1", "base2", "base3", "base4")
    assert plan.pretrained_members() == ("pretrained1", "pretrained2", "pretrained3")


def test_report_text_names_stages_dependencies_and_declared_counts(published):
    text = published.to_text()
    table = [line for line in text.splitlines() if "/" in line.split(" ")[0]]
    assert len(table) == 9
    assert table[-1].split()[:3] == ["pretrained2/finetune", "pretrained2/pretrain", "target"]
    assert "60,965,224" in table[0]
    assert text.count("declared counts") == 2
    assert "7 members at once" in text
    assert all(len(line) < 160 for line in text.splitlines())


def test_report_time_is_between_its_bound_and_the_sum(digits):
    report = make_report(digits, compose([]).cluster, 2, {stage.ref: 100.0 for stage in digits.stages})
    total = sum(stage.num_images * stage.recipe.schedule.epochs / 100 for stage in digits.stages)
    assert total / 2 <= report.time.lower_bound_s <= report.time.makespan_s <= total
    assert "no schedule beats" in report.to_text()
    assert report.to_json()["makespan_s"] == report.time.makespan_s
    assert report.to_json()["declared"] == []


def test_report_time_of_stages_that_may_stall_is_an_upper_bound():
    plan = plan_of("schedule.stop_when_stalled=true")
    report = make_report(plan, compose([]).cluster, 2, {stage.ref: 100.0 for stage in plan.stages})
    assert "training: at most about" in report.to_text()
    assert all(stage["may_end_early"] for stage in report.to_json()["stages"])


def test_report_disk_is_checkpoints_predictions_and_stores(digits):
    report = make_report(digits, compose([]).cluster, 2)
    weights = sum(stage.num_parameters for stage in report.stages)
    assert report.disk.checkpoints == weights * 8 * 3
    target = digits.target.counts
    assert report.disk.predictions == 7 * 10 * 4 * (target["dev"] + target["val"] + target["test"])
    images = sum(sum(dataset.counts.values()) for dataset in digits.datasets)
    assert report.disk.stores == images * 32 * 32 * 3
    assert report.to_json()["disk_bytes"] == report.disk.checkpoints + report.disk.predictions + report.disk.stores
    # A launch that continues asks for what has not begun.
    first = digits.stages_of("base1")
    left = disk_estimate(digits, begun=[stage.ref for stage in digits.stages if stage not in first])
    assert left.checkpoints == sum(one.num_parameters for one in report.stages if one.stage in first) * 8 * 3
    assert left.predictions * 7 == report.disk.predictions


@pytest.mark.parametrize(("keep", "numbers"), [("best", 2 * 3), ("ema", 3 * 3), ("swa", 3 * 3), ("soup", 2 * (3 + 5))])
def test_report_disk_has_room_for_the_averages_of_weights(keep, numbers):
    plan = plan_of("ensemble=five", "averaging.soup_checkpoints=5", "predict.checkpoint=soup")
    report = make_report(plan, compose([]).cluster, 2, keep=KeptCheckpoint(keep))
    assert report.disk.checkpoints == sum(stage.num_parameters for stage in report.stages) * 4 * numbers


def test_snapshots_are_a_chain_of_cycles_on_the_target_that_counts_as_no_pre_training():
    one, cycles = plan_of("ensemble=five", "schedule.epochs=10"), plan_of("ensemble=snapshots", "schedule.epochs=2")
    stages = stages_of(make_report(cycles, compose([]).cluster, 2))
    names = [f"snapshot{number}" for number in range(1, 6)]
    assert list(stages) == [f"{name}/train" for name in names]
    assert [stage["init_from"] for stage in stages.values()] == [None, *(f"{name}.train" for name in names[:-1])]
    assert cycles.base_members() == tuple(names) and cycles.pretrained_members() == ()
    assert {stage.recipe.schedule.decay for stage in cycles.stages} == {Decay.cosine}
    assert sum(stage.num_updates for stage in cycles.stages) == one.stages[0].num_updates
    assert len({stage.seed for stage in cycles.stages}) == len(names)


def test_report_of_transfer_shows_how_little_is_trained_beside_training_from_scratch():
    plan = plan_of("ensemble=transfer")
    rates = {stage.ref: 300.0 if stage.recipe.freeze else 100.0 for stage in plan.stages}
    report = make_report(plan, compose([]).cluster, 1, rates)
    stages = stages_of(report)
    scratch, transfer = stages["scratch/train"], stages["transferred/transfer"]
    assert scratch["num_trained_parameters"] == scratch["num_parameters"] == transfer["num_parameters"]
    assert transfer["num_trained_parameters"] == 256 * 10 + 10
    lines = report.to_text().splitlines()
    heading = next(line for line in lines if line.startswith("stage "))
    assert heading.split()[-3:] == ["trained", "images/s", "time"]
    row = next(line for line in lines if line.startswith("transferred/transfer"))
    assert row.split()[10:12] == ["2,570", "300"]


def test_report_without_frozen_layers_has_no_column_for_what_is_trained(published):
    assert "trained" not in published.to_text().splitlines()[2].split()
    assert all(stage["num_trained_parameters"] == stage["num_parameters"] for stage in published.to_json()["stages"])


def test_report_disk_of_a_jpeg_store_is_about_a_tenth(digits):
    datasets = tuple(
        replace(each, options={**each.options, "store_format": "jpeg", "jpeg_quality": 90}) for each in digits.datasets
    )
    disks = [
        make_report(replace(digits, datasets=each), compose([]).cluster, 2).disk for each in (digits.datasets, datasets)
    ]
    assert 0.1 < disks[1].stores / disks[0].stores < 0.2


def test_warm_up_that_takes_much_of_a_stage_is_said_with_numbers_and_what_to_change():
    long = make_report(plan_of("schedule.epochs=2", "ensemble=five"), compose([]).cluster, 1)
    line = "base1/train and 4 more: 50 updates of warm-up for 38 in all: the rate ends at 76% of optimizer.lr; give "
    assert long.to_json()["warnings"] == [f"{line}schedule.warmup_updates=3, or more epochs"]
    assert long.to_text().endswith(f"{line}schedule.warmup_updates=3, or more epochs\n")
    by_share = make_report(plan_of("schedule=cosine", "schedule.warmup_share=0.5"), compose([]).cluster, 1)
    about_it = [line for line in by_share.to_json()["warnings"] if "of warm-up" in line]
    assert about_it and all(line.endswith("; give schedule.warmup_share=0.1") for line in about_it)
    assert by_share.to_json()["warnings"]
    for enough in ("schedule.epochs=20", "schedule.warmup_updates=3"):
        assert (
            make_report(plan_of("schedule.epochs=2", enough, "ensemble=five"), compose([]).cluster, 1).to_json()[
                "warnings"
            ]
            == []
        )
