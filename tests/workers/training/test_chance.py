"""A stage whose net names the largest class for every image is at chance, and does not wait for a better error yet."""

from dataclasses import replace

import pytest
from pictures import write_tree
from stages import never

from workers.data.store import prepare
from workers.settings import DatasetSettings, OptimizerSettings, ScheduleSettings, Source
from workers.storage import newest_checkpoint
from workers.training import run_stage


@pytest.fixture(scope="module")
def ten_to_one(tmp_path_factory):
    """440 images of noise, from which nothing can be learnt but that one class has 400 of them."""
    folder = tmp_path_factory.mktemp("images")
    names = [f"train/{'many' if number < 400 else 'few'}/{number}.png" for number in range(440)]
    settings = DatasetSettings(source=Source.folder, root=str(write_tree(folder, names)), size=10)
    return prepare(settings, tmp_path_factory.mktemp("store"))


def test_net_that_names_the_largest_class_is_at_chance_and_its_rate_is_not_cut(ten_to_one, tiny_spec):
    model = replace(tiny_spec.recipe.model, input_size=10, pool_size=2)
    recipe = replace(
        tiny_spec.recipe,
        model=model,
        optimizer=OptimizerSettings(lr=0.01, batch_size=128),
        schedule=ScheduleSettings(epochs=6, patience=1, latest=()),
    )
    spec = replace(tiny_spec, store=ten_to_one, recipe=recipe)
    result = run_stage(spec, never)
    # A tenth of val and of dev is of the other class, far below 1 − 1/2.
    assert result.val_error < 0.15 and result.dev_error < 0.15
    assert result.at_chance
    saved = newest_checkpoint(spec.stage_dir / "checkpoints")
    assert saved is not None and saved.state["train"]["schedule"]["cuts"] == 0
