"""Plans of small nets on two data sets that exist only as surveys."""

import json
from dataclasses import replace
from types import MappingProxyType

from orchestrator.config.composition import compose
from orchestrator.config.schema import MemberConfig
from orchestrator.plan.build import make_plan
from orchestrator.plan.model import plan_from_json, plan_to_json
from workers.data.survey import Survey
from workers.settings.dataset import DatasetSettings
from workers.settings.model import ModelSettings
from workers.settings.training import (
    OptimizerSettings,
    Recipe,
    ScheduleSettings,
)

SHIPPED = compose([])
SMALL = ModelSettings(input_size=128, width=0.25, conv1_kernel=5, conv1_stride=2, fc_units=64)
ALL_LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
SIX = replace(SMALL, num_convs=6)
CLASSES = {"target": ("cat", "dog"), "superset": ("cat", "dog", "eel")}
SURVEYS = {
    name: Survey(classes, len(classes), MappingProxyType({"train": 300, "dev": 30, "val": 30, "test": 30}), False)
    for name, classes in CLASSES.items()
}


def stage(dataset="target", init_from=None, **changes):
    optimizer = {name: changes.pop(name) for name in ("lr", "layer_decay") if name in changes}
    schedule = {name: changes.pop(name) for name in ("epochs", "rate_changes") if name in changes}
    return Recipe(
        dataset=dataset,
        init_from=init_from,
        optimizer=OptimizerSettings(**{"lr": 0.01, **optimizer}),
        schedule=ScheduleSettings(**{"epochs": 4, **schedule}),
        **{"model": SMALL, "reset": ("fc8",) if init_from else (), **changes},
    )


def member(name, seed=None, **stages):
    return MemberConfig(name, seed, stages)


def base(name, **changes):
    return member(name, train=stage(**changes))


def pretrained(name):
    return member(name, pretrain=stage("superset", model=SIX), finetune=stage(init_from="pretrain", model=SIX))


def config(*members, **changes):
    datasets = {name: DatasetSettings(root=f"/data/{name}") for name in CLASSES}
    given = {"datasets": datasets, "members": {one.name: one for one in members}, **changes}
    return replace(SHIPPED, **given)


def planned(*members, surveys=SURVEYS, **changes):
    return make_plan(config(*members, **changes), surveys)


def again(plan):
    return plan_from_json(json.loads(json.dumps(plan_to_json(plan), sort_keys=True)))
