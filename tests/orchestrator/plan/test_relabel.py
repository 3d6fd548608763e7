"""Corrected labels are in the hashes of the stages that see them, and in no other; without any nothing changes."""

from dataclasses import replace

import pytest
from fake_stages import make_record
from small_plans import CLASSES, SURVEYS, again, base, config, planned, pretrained

from orchestrator.config.folds import fold_members
from orchestrator.config.schema import FoldsConfig
from orchestrator.inputs import affected_by_labels
from orchestrator.plan import affected, compare, plan_from_json, plan_to_json, remarks
from orchestrator.run import RunPaths
from orchestrator.run.record import write_record
from workers.data.relabel import Relabelling
from workers.settings import DatasetSettings

CHANGES = {"a/0.png": "dog", "a/1.png": "dog", "b/2.png": "-"}


def surveys(name="target", changes=CHANGES, num_same=1):
    return SURVEYS | {name: replace(SURVEYS[name], relabelling=Relabelling("relabel=x.csv", changes, num_same))}


def hashes(plan):
    return {str(stage.ref): stage.hash for stage in plan.stages}


def changed(before, after):
    return {ref for ref, value in hashes(after).items() if hashes(before)[ref] != value}


def test_stages_on_the_dataset_and_those_that_start_from_them_change():
    members = (base("one"), pretrained("deep"))
    plain = planned(*members)
    assert changed(plain, planned(*members, surveys=surveys())) == {"one/train", "deep/finetune"}
    assert changed(plain, planned(*members, surveys=surveys("superset"))) == {"deep/pretrain", "deep/finetune"}


def test_hash_follows_what_changes_and_not_the_path_and_a_file_that_changes_nothing_changes_no_hash():
    plain, one = planned(base("one")), planned(base("one"), surveys=surveys())
    datasets = {name: DatasetSettings(root=f"/data/{name}", relabel="elsewhere.csv") for name in CLASSES}
    assert planned(base("one"), surveys=surveys(num_same=5), datasets=datasets).hash == one.hash
    assert planned(base("one"), surveys=surveys(changes={**CHANGES, "a/3.png": "dog"})).hash != one.hash
    assert planned(base("one"), surveys=surveys(changes={}), datasets=datasets).hash == plain.hash
    assert again(one) == one


@pytest.mark.parametrize("leaves_out", [True, False])
def test_superset_in_folds_changes_only_if_the_target_leaves_images_out(leaves_out):
    """Such an image is in no fold, so that copies of it in the superset are no longer left out."""
    members = fold_members(config(pretrained("deep")).members, FoldsConfig(k=2)).values()
    answers = CHANGES if leaves_out else {"a/0.png": "dog"}
    found = changed(planned(*members), planned(*members, surveys=surveys(changes=answers)))
    finetuned = {"deep-f0/finetune", "deep-f1/finetune"}
    assert found == (finetuned | {"deep-f0/pretrain", "deep-f1/pretrain"} if leaves_out else finetuned)


def test_plan_tells_what_changes_and_a_launch_in_the_old_run_is_refused_by_it():
    plain, wanted = planned(base("one")), planned(base("one"), surveys=surveys())
    assert remarks(plain) == []
    line = "datasets.target: relabel: 2 labels changed, 1 image left out, 1 row as in the dataset"
    assert remarks(wanted) == [line]
    change = compare(plain, wanted)
    assert change.kind == "differs" and change.lines[0].startswith("datasets.target.relabel: null → ")


def test_images_that_are_absent_leave_the_file_unread():
    absent = {name: replace(one, declared=True) for name, one in SURVEYS.items()}
    datasets = {name: DatasetSettings(root=f"/data/{name}", relabel="mine.csv") for name in CLASSES}
    plan = planned(base("one"), surveys=absent, datasets=datasets)
    assert remarks(plan) == ["datasets.target: relabel: not read, since the images are absent"]
    assert plan.hash == planned(base("one"), surveys=absent).hash


def test_affected_names_stages_by_their_hashes():
    members = (base("one"), pretrained("deep"))
    line = affected(planned(*members), planned(*members, surveys=surveys()))
    assert line == "these stages would be trained again: one/train, deep/finetune; these stay: deep/pretrain"


def test_plan_names_the_run_or_else_the_plan_that_it_is_compared_with(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked, found = config(base("one"), pretrained("deep")), surveys()
    wanted = planned(base("one"), pretrained("deep"), surveys=found)
    line = "these stages would be trained again: one/train, deep/finetune; these stay: deep/pretrain"
    before = planned(base("one"), pretrained("deep"))
    assert affected_by_labels(asked, SURVEYS, ({}, {}), before) == []
    assert affected_by_labels(asked, found, ({}, {}), wanted) == [f"beside the plan without relabel, {line}"]
    default = tmp_path / "runs" / f"{asked.name}-{before.hash[:8]}"
    default.mkdir(parents=True)
    assert affected_by_labels(asked, found, ({}, {}), wanted) == [f"beside runs/{default.name}, {line}"]
    write_record(RunPaths(tmp_path / "mine"), make_record(planned(base("one"))))
    given = replace(asked, run_dir="mine")
    every = "these stages would be trained again: one/train, deep/pretrain, deep/finetune"
    assert affected_by_labels(given, found, ({}, {}), wanted) == [f"beside mine, {every}"]


def test_record_of_an_earlier_release_lacks_the_new_fields():
    plan = planned(base("one"))
    document = plan_to_json(plan)
    for entry in document["datasets"]:
        del entry["relabelled"], entry["left_out"]
    assert plan_from_json(document) == plan
