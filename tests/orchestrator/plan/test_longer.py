"""More epochs extend a plan only where the first epochs of the longer stage are those of the shorter one."""

import pytest

from orchestrator.config.composition import compose
from orchestrator.plan.build import make_plan, used_datasets
from orchestrator.plan.diff import ChangeKind, compare
from workers.data.survey import Survey

SURVEY = Survey(tuple(f"class{number}" for number in range(10)), 10, {"train": 900, "val": 100}, declared=False)


def change(epochs, *words):
    """What 3 epochs become with the given number."""

    def plan(number):
        given = [word.format(number) for word in words]
        config = compose(["ensemble=five", "schedule=constant", f"schedule.epochs={number}", *given])
        return make_plan(config, dict.fromkeys(used_datasets(config), SURVEY))

    return compare(plan(3), plan(epochs))


def test_more_epochs_of_a_constant_rate_extend_every_stage():
    found = change(5)
    assert found.kind is ChangeKind.extends
    assert [str(ref) for ref in found.lengthened] == [f"base{number}/train" for number in range(1, 6)]


def test_more_epochs_of_a_plateau_without_latest_cuts_extend():
    assert change(5, "schedule=plateau", "schedule.latest=[]").kind is ChangeKind.extends


def test_more_epochs_of_steps_at_fixed_epochs_extend():
    assert change(5, "schedule=step", "schedule.step_epochs=2").kind is ChangeKind.extends


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["schedule=plateau"], "schedule.latest cuts the rate at shares of all epochs"),
        (["schedule=fixed"], "schedule.latest cuts the rate at shares of all epochs"),
        (["schedule=cosine"], "schedule.decay or schedule.warmup_share follows the number of all updates"),
        (["schedule=one_cycle"], "schedule.decay or schedule.warmup_share follows the number of all updates"),
        (["schedule=step", "schedule.warmup_share=0.1"], "schedule.decay or schedule.warmup_share follows"),
        (["augmentation.colour_until=0.5"], "augmentation.colour_until"),
        (["schedule.rate_changes.late={{after_share: 0.5, layers: {{conv1: 0.1}}}}"], "schedule.rate_changes"),
        (["ensemble=pair", "ensemble.stages.pretrain.epochs={}"], "pretrained1/finetune starts from it"),
    ],
)
def test_more_epochs_are_refused_where_the_first_ones_would_change(words, why):
    found = change(5, *words)
    assert found.kind is ChangeKind.differs
    assert "cannot be trained for longer, since" in found.lines[0] and any(why in line for line in found.lines)


def test_fewer_epochs_or_another_change_beside_them_differ():
    assert change(2).kind is ChangeKind.differs
    found = change(5)
    assert found.kind is ChangeKind.extends
    config = [
        compose(["ensemble=five", "schedule=constant", f"schedule.epochs={n}", f"optimizer.lr={lr}"])
        for n, lr in ((3, 0.1), (5, 0.2))
    ]
    plans = [make_plan(one, dict.fromkeys(used_datasets(one), SURVEY)) for one in config]
    assert compare(*plans).kind is ChangeKind.differs
