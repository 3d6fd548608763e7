"""Plan hashes of every shipped experiment, and every configuration key with its default, as they were recorded.

A plan's hash names its run directory and decides whether a run resumes: one that moves orphans every run that exists.
The list of keys makes each new setting visible in review. Both files are written by hand-run
`python tests/orchestrator/plan/test_pinned.py`; a change that moves a hash says so in CHANGELOG.md.
"""

import dataclasses
import json
from pathlib import Path

import pytest

import conf
from orchestrator.config.composition import compose
from orchestrator.config.schema import EnsembleLayer, MemberLayer, RootLayer, StageLayer
from orchestrator.plan.build import make_plan, used_datasets
from orchestrator.plan.model import changed, plain
from workers.data.survey import Survey
from workers.settings.dataset import DatasetSettings
from workers.settings.training import OptimizerSettings, RateChange, Recipe

HASHES = Path(__file__).with_name("plan_hashes.json")
KEYS = Path(__file__).with_name("configuration_keys.txt")
EXPERIMENTS = sorted(path.stem for path in (Path(str(conf.__file__)).parent / "experiment").glob("*.yaml"))
CLASSES = tuple(f"class{number}" for number in range(10))
SURVEY = Survey(CLASSES, 10, {"train": 9000, "dev": 1000, "val": 1000, "test": 0}, declared=False)


def plan_hash(experiment):
    """The hash on ten fixed classes, so that it depends on the configuration alone."""
    config = compose([f"experiment={experiment}"])
    return make_plan(config, dict.fromkeys(used_datasets(config), SURVEY)).hash


def keys():
    schemas = {
        "": RootLayer,
        "datasets.<name>.": DatasetSettings,
        "ensemble.": EnsembleLayer,
        "ensemble.members.<name>.": MemberLayer,
        "ensemble.members.<name>.stages.<stage>.": StageLayer,
        "schedule.rate_changes.<name>.": RateChange,
    }
    return sorted(line for prefix, schema in schemas.items() for line in _leaves(prefix, schema()))


def _leaves(prefix, value):
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from _leaves(f"{prefix}{field.name}.", inner)
        else:
            yield f"{prefix}{field.name} = {json.dumps(plain(inner))}"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_plan_hash_of_a_shipped_experiment_is_the_recorded_one(experiment):
    assert plan_hash(experiment) == json.loads(HASHES.read_text())[experiment]


def test_configuration_keys_and_defaults_are_the_recorded_ones():
    assert keys() == KEYS.read_text().splitlines()


@dataclasses.dataclass(frozen=True)
class _Later(OptimizerSettings):
    """The optimizer's settings as a later version may have them."""

    betas: tuple[float, ...] = (0.9, 0.999)


def test_new_setting_moves_a_hash_only_where_it_is_used():
    now = Recipe(dataset="target", optimizer=OptimizerSettings(lr=0.02))
    later = dataclasses.replace(now, optimizer=_Later(lr=0.02))
    used = dataclasses.replace(now, optimizer=_Later(lr=0.02, betas=(0.8,)))
    assert changed(later) == changed(now) == {"dataset": "target", "optimizer": {"lr": 0.02}}
    assert changed(used) != changed(now)


if __name__ == "__main__":
    HASHES.write_text(json.dumps({name: plan_hash(name) for name in EXPERIMENTS}, indent=1) + "\n")
    KEYS.write_text("".join(f"{line}\n" for line in keys()))
