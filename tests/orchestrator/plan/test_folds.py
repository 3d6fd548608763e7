"""Folds are in the hashes of all stages that see other images for them, and in no other plan."""

from dataclasses import replace

import pytest
from small_plans import again, base, config, planned, pretrained

from orchestrator.combine import Missing, without
from orchestrator.config.folds import fold_members
from orchestrator.config.schema import FoldsConfig
from orchestrator.plan.build import make_plan
from orchestrator.plan.checks import remarks
from orchestrator.plan.diff import ChangeKind, compare
from orchestrator.plan.model import OutsideFile
from workers.data.survey import Survey
from workers.errors import ConfigError
from workers.settings import Decay, ScheduleSettings


def in_folds(*members, folds=None, surveys=None, **changes):
    asked = folds or FoldsConfig(k=3)
    plain = config(*members)
    made = fold_members(plain.members, asked)
    return planned(*made.values(), folds=asked, **({"surveys": surveys} if surveys else {}), **changes)


def survey(**counts):
    return {"target": Survey(("cat", "dog"), 2, {"train": 300, "dev": 0, "val": 0, "test": 30, **counts}, False)}


def test_stages_of_two_folds_have_other_hashes_and_read_two_thirds_of_the_target():
    plan = in_folds(pretrained("deep"))
    hashes = {str(stage.ref): stage.hash for stage in plan.stages}
    assert len(set(hashes.values())) == len(hashes) == 6
    assert {stage.num_images for stage in plan.stages if stage.recipe.dataset == "target"} == {200}
    assert {stage.num_images for stage in plan.stages if stage.recipe.dataset == "superset"} == {300}
    assert again(plan) == plan


def test_plan_knows_voters_and_whether_all_images_are_covered():
    plan = in_folds(base("base1"), base("base2"), folds=FoldsConfig(k=2, repeats=2))
    assert set(plan.voters.values()) == {"base1", "base2"} and plan.is_covered
    assert not without(plan, [Missing("base2-r1-f1", "")]).is_covered
    gone = [Missing(name, "") for name in plan.members if name.startswith("base2")]
    assert without(plan, gone).is_covered
    assert not planned(base("base1")).is_covered


def test_more_repeats_extend_a_plan_and_another_k_is_another_plan():
    once, twice, fewer = (in_folds(base("a"), folds=one) for one in (
        FoldsConfig(k=3), FoldsConfig(k=3, repeats=2), FoldsConfig(k=2)))  # fmt: skip
    assert compare(once, twice).kind is ChangeKind.extends
    assert compare(once, fewer).kind is ChangeKind.differs


def test_plateau_without_dev_is_refused_and_with_another_schedule_it_says_what_it_trains_on():
    with pytest.raises(ConfigError, match=r"schedule.decay=plateau: looks at dev or val, and target holds out neither"):
        in_folds(base("a"), surveys=survey())
    plain = base("a")
    cosine = ScheduleSettings(epochs=4, decay=Decay.cosine, cuts=0, latest=())
    stages = {"train": replace(plain.stages["train"], schedule=cosine)}
    (line,) = remarks(in_folds(replace(plain, stages=stages), surveys=survey()))
    assert line == "a-f0/train and 2 more: trains on all of target but its fold and looks at no other image"


def test_sha_of_groups_is_in_the_hash():
    plain = config(*fold_members(config(base("a")).members, FoldsConfig(k=2)).values())
    other = {
        name: replace(one, stages={s: replace(r, fold=replace(r.fold, groups="ab")) for s, r in one.stages.items()})
        for name, one in plain.members.items()
    }
    surveys = survey(dev=30)
    assert make_plan(plain, surveys).hash != make_plan(replace(plain, members=other), surveys).hash


def test_member_from_outside_is_a_voter_of_its_own_and_needs_its_file_of_oof():
    plan, file = in_folds(base("a")), OutsideFile("/p.csv", "00")
    for splits, covered in ((("test",), False), (("test", "oof"), True)):
        both = replace(plan, members=(*plan.members, "other"), outside={"other": dict.fromkeys(splits, file)})
        assert both.voters["other"] == "other"
        assert both.is_covered is covered
