"""Turns a plan into MLflow's parameters: every setting in use, flat, under its name in the configuration. Pure."""

import re
import shlex
from collections.abc import Mapping
from typing import Any

from orchestrator.config import Config
from orchestrator.plan import Plan, Stage, changed, leaves, plain
from orchestrator.text import without_secrets

# MLflow's own limits; a server refuses names of other characters.
_LONGEST_NAME, _LONGEST_VALUE = 250, 6000
# Stands between the values of members that differ.
DIFFER = " | "
_REFUSED = re.compile(r"[^\w.-]")


def stage_params(stage: Stage) -> dict[str, str]:
    """Returns all settings of a stage, defaults too: two runs can then be compared by any of them."""
    start = {"init_from": stage.init_from or (stage.init_file and stage.init_file.name)}
    counts = {name: getattr(stage, name) for name in ("seed", "num_images", "num_updates", "num_classes")}
    return _flat({**plain(stage.recipe), **plain(start), **counts})


def ensemble_params(config: Config, plan: Plan) -> dict[str, str]:
    """Returns what defines an ensemble: command, data, and the settings of all members, each value once."""
    members = [stage_params(plan.last_stage(member)) for member in plan.trained]
    data = {
        one.name: {**changed(config.datasets[one.name]), "images": one.counts.get("train"), "classes": one.num_classes}
        for one in plan.datasets
    }
    about = {"experiment": config.experiment, "members": len(plan.members), "seed": config.seed, "datasets": data}
    names = dict.fromkeys(name for own in members for name in own)
    recipe = {name: DIFFER.join(dict.fromkeys(own.get(name, "-") for own in members)) for name in names}
    return _flat(recipe) | _flat({**about, "overrides": without_secrets(shlex.join(config.command[2:]))})


def _flat(values: Mapping[str, Any]) -> dict[str, str]:
    return {_REFUSED.sub("_", name)[:_LONGEST_NAME]: text[:_LONGEST_VALUE] for name, text in leaves(values)}
