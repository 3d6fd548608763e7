"""`ensemble=folds` makes a member of each recipe for each fold, with ancestors of its own fold."""

import pytest

from orchestrator.config.composition import compose
from workers.errors import ConfigError
from workers.settings import Fold


def test_folds_are_members_of_one_recipe_without_a_val_that_is_cut():
    config = compose(["ensemble=folds", "folds.k=3", "folds.repeats=2"])
    names = ["base1-f0", "base1-f1", "base1-f2", "base1-r1-f0", "base1-r1-f1", "base1-r1-f2"]
    assert list(config.members) == names
    folds = [member.stages["train"].fold for member in config.members.values()]
    assert folds == [Fold(3, number, repeat) for repeat in (0, 1) for number in range(3)]
    assert {name: one.val_fraction for name, one in config.datasets.items()} == {"target": 0.0, "superset": 0.0}
    assert config.datasets["target"].dev_fraction == 0.1


def test_val_that_was_asked_for_stays():
    config = compose(["ensemble=folds", "datasets.target.val_fraction=0.2"])
    assert config.datasets["target"].val_fraction == 0.2


def test_any_ensemble_can_be_folded_and_ancestors_are_of_the_same_fold():
    chain = ("experiment=ilsvrc2012_release", "ensemble.folded=true", "folds.k=2")
    members = compose(chain).members
    for number in (0, 1):
        fine = members[f"pretrained2-f{number}"].stages["finetune"]
        assert fine.init_from == f"pretrained1-f{number}.fall2011"
        own = members[f"pretrained1-f{number}"].stages
        assert (own["fall2009"].init_from, own["fall2011"].init_from) == (f"base1-f{number}.train", "fall2009")
        assert {stage.fold.number for stage in own.values()} == {number}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["folds.k=3"], r"folds.k=3: only ensemble=folds \(or ensemble.folded=true\) reads it; remove it"),
        (["folds.repeats=2"], r"folds.repeats=2: only ensemble=folds .* reads it"),
        (["folds.groups=patient"], r"folds.groups=patient: only ensemble=folds .* reads it"),
        (["folds.file=f.csv"], r"folds.file=.*f.csv: only ensemble=folds .* reads it"),
        (["ensemble=folds", "folds.k=1"], r"folds.k=1: give 2 … 1000 folds"),
        (["ensemble=folds", "folds.repeats=0"], r"folds.repeats=0: give 1 … 100"),
        (
            ["ensemble=folds", "folds.groups=g", "folds.file=f"],
            r"folds.file=.*f: has one division into folds; leave out folds.groups",
        ),
        (
            ["ensemble=folds", "folds.repeats=2", "folds.file=f"],
            r"folds.file=.*f: has one division into folds; leave out .* folds.repeats",
        ),
        (
            ["ensemble=folds", "ensemble.members.base1-f0={predictions: {test: p.npy}}"],
            r"ensemble.members.base1-f0: two members would have this name; rename one of them",
        ),
        (
            ["ensemble=folds", "folds.repeats=2", "ensemble.members.base1-r1={stages: {train: {dataset: target}}}"],
            r"ensemble.members.base1-r1-f0: two members would have this name",
        ),
        (
            ["ensemble=refit", "ensemble.folded=true"],
            r"base1.stages.refit.refit=train: a member of a fold never trains",
        ),
        (
            ["ensemble=folds", "ensemble.members.base1.stages.train.fold.k=2"],
            r"ensemble.members.base1.stages.train.fold: ensemble=folds gives it",
        ),
        (
            ["ensemble=sweep", "sweep.seed=[0,1]", "ensemble.folded=true", "sweep_stop=halving"],
            r"sweep_stop=halving: compares points by dev",
        ),
        (["n_splits=7"], r"n_splits=7: no such key; give ensemble=folds folds.k=7"),
    ],
)
def test_folds_that_cannot_be_are_refused_in_one_line(words, why):
    with pytest.raises(ConfigError, match=why) as caught:
        compose(words)
    assert "\n" not in str(caught.value)
