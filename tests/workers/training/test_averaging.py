"""Averages of weights: made of the right ones, in a checkpoint of their own, scored, and started from."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from stages import never, trained, weights
from stored import read_checkpoint
from synchronisations import synchronisations
from tiny_stage import TINY, make_spec
from torch import nn

from workers.data.loading import centre_batches, pixel_statistics
from workers.data.store import open_store
from workers.errors import Diverged, StorageError
from workers.inference import load_member
from workers.models import parts_of
from workers.settings import KeptCheckpoint, ModelSettings, OptimizerSettings
from workers.settings.averaging import AveragingSettings, Soup
from workers.storage import keep_weights, layout, read_finished, read_weights, verify_checkpoint, write_checkpoint
from workers.training import averaging, run_stage
from workers.training.averaging import Average, ema_share, next_soup, swa_share
from workers.training.evaluation import evaluate

EPOCHS = TINY.schedule.epochs
NORMED = ModelSettings(name="torchvision/shufflenet_v2_x0_5", input_size=16)


def set_up(spec, folder, keep, **averaging):
    recipe = replace(spec.recipe, averaging=AveragingSettings(**averaging))
    return replace(spec, recipe=recipe, keep=keep, stage_dir=folder)


def points(spec):
    return [json.loads(line) for line in (spec.stage_dir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def every_epoch(digits_store, tmp_path_factory):
    """The weights at each epoch's end, and its dev error; a soup of all epochs keeps them."""
    folder = tmp_path_factory.mktemp("every")
    adam = OptimizerSettings(name="adamw", lr=0.01, batch_size=120)
    recipe = replace(TINY, optimizer=adam, averaging=AveragingSettings(soup_checkpoints=EPOCHS))
    spec = trained(replace(make_spec(digits_store, folder, recipe, checkpoint_updates=100), keep=KeptCheckpoint.soup))
    steps = sorted(layout.step_of(entry.name) for entry in (folder / "checkpoints").glob("step-*"))
    ends = {step: read_checkpoint(folder / "checkpoints" / layout.checkpoint(step)).model for step in steps}
    return spec, ends, {p["step"]: p["metrics"]["dev/top1_error"] for p in points(spec) if "lr" in p["metrics"]}


def mean(of):
    return {name: np.mean([one[name].astype(np.float64) for one in of], axis=0) for name in of[0]}


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_soup_is_the_mean_of_the_last_or_the_best_epochs(every_epoch, tmp_path):
    spec, ends, errors = every_epoch
    assert list(ends) == list(errors) and len(set(errors.values())) == EPOCHS
    last = list(ends)[-2:]
    best = sorted(ends, key=lambda step: errors[step])[:2]
    for soup, steps in ((Soup.last, last), (Soup.best, best)):
        own = set_up(spec, tmp_path / soup, KeptCheckpoint.soup, soup=soup, soup_checkpoints=2)
        assert_close(weights(trained(own)), mean([ends[step] for step in steps]))
    assert_close(weights(spec), mean(list(ends.values())))


@pytest.mark.parametrize(("swa_from", "first"), [(0.5, 1), (0.75, 2), (0.0, 0), (1.0, 3)])
def test_swa_is_the_mean_of_epochs_ends_from_its_share_on(every_epoch, tmp_path, swa_from, first):
    spec, ends, _ = every_epoch
    own = trained(set_up(spec, tmp_path, KeptCheckpoint.swa, swa_from=swa_from))
    assert_close(weights(own), mean(list(ends.values())[first:]))


def test_soup_keeps_no_more_checkpoints_than_it_needs(every_epoch, tmp_path):
    spec, _, _ = every_epoch
    own = set_up(spec, tmp_path, KeptCheckpoint.soup, soup=Soup.best, soup_checkpoints=1)
    trained(replace(own, checkpoint_updates=1))
    assert len(list((tmp_path / "checkpoints").glob("step-*"))) <= 3


def test_best_soup_takes_the_earlier_of_equal_epochs_and_the_last_soup_the_latest():
    grown: dict = {Soup.best: (), Soup.last: ()}
    for epoch in ((4, 0.5), (8, 0.2), (12, 0.5), (16, 0.2), (20, 0.2)):
        grown = {soup: next_soup(so_far, epoch, 2, is_last=soup is Soup.last) for soup, so_far in grown.items()}
    assert grown == {Soup.best: ((8, 0.2), (16, 0.2)), Soup.last: ((16, 0.2), (20, 0.2))}


def test_shares_of_the_averages_are_those_of_their_formulas(every_epoch):
    assert [ema_share(0.9, step) for step in (0, 1, 1000)] == [1.0, 1 - 2 / 11, 1 - 0.9]
    recipe = replace(every_epoch[0].recipe, averaging=AveragingSettings(swa_from=0.5))
    spec = replace(every_epoch[0], recipe=recipe)
    for whole in (spec, replace(spec, until=3)):
        assert [swa_share(whole, epochs) for epochs in (1, 2, 3, 4)] == [0.0, 1.0, 0.5, 1 / 3], "a pause is no end"
    refit = replace(spec, recipe=replace(recipe, refit="train"), until=2)
    assert [swa_share(refit, epochs) for epochs in (1, 2)] == [1.0, 0.5]


@pytest.mark.slow
@pytest.mark.parametrize("keep", [KeptCheckpoint.ema, KeptCheckpoint.swa, KeptCheckpoint.soup])
def test_refit_that_looks_at_nothing_averages_its_last_epochs(every_epoch, tmp_path, keep):
    spec = set_up(every_epoch[0], tmp_path, keep, soup=Soup.best, soup_checkpoints=2)
    constant = replace(spec.recipe.schedule, cuts=0, latest=())
    spec = replace(spec, recipe=replace(spec.recipe, refit="train", schedule=constant), until=3)
    result = run_stage(spec, never)
    assert result.checkpoint == layout.averaged(result.num_updates) and result.dev_error is result.val_error is None
    if keep is KeptCheckpoint.soup:
        state = json.loads((tmp_path / "checkpoints" / result.checkpoint / "state.json").read_text())["train"]
        assert [step for step, _ in state["soup"]] == [result.num_updates * 2 // 3, result.num_updates]


@pytest.mark.slow
@pytest.mark.parametrize("keep", [KeptCheckpoint.ema, KeptCheckpoint.swa, KeptCheckpoint.soup])
def test_done_names_the_averaged_checkpoint_whose_errors_it_reports(every_epoch, tmp_path, keep):
    spec = trained(set_up(every_epoch[0], tmp_path, keep, ema_decay=0.9))
    done = read_finished(tmp_path)
    assert done.checkpoint == layout.averaged(done.num_updates)
    folder = tmp_path / "checkpoints" / done.checkpoint
    assert sorted(path.name for path in folder.iterdir()) == ["MANIFEST.json", "model.safetensors", "state.json"]
    member, store = load_member(tmp_path, spec.store, spec.recipe, spec.numerics), open_store(spec.store)
    statistics = pixel_statistics(store, spec.recipe.augmentation)
    found = evaluate(member.model, centre_batches(store, "val", statistics, 16), spec.numerics)
    assert found.top1_error == done.val_error
    last, before = points(spec)[-1], points(spec)[-2]
    assert last["metrics"]["val/top1_error"] == done.val_error and last["metrics"]["averaged"] == 1.0
    assert last["step"] == before["step"] == done.num_updates and "averaged" not in before["metrics"]
    raw = read_weights(folder.with_name(layout.checkpoint(done.num_updates))).model
    assert any(not np.array_equal(raw[name], value) for name, value in weights(spec).items())


def test_later_stage_starts_from_the_averaged_weights(every_epoch, tmp_path):
    ancestor, _, _ = every_epoch
    recipe = replace(ancestor.recipe, freeze=("body",))
    later = replace(ancestor, recipe=recipe, stage_dir=tmp_path, init_dir=ancestor.stage_dir, keep=KeptCheckpoint.last)
    before, after = weights(ancestor), weights(trained(later))
    assert {name for name in after if not np.array_equal(after[name], before[name])} == {"fc8.weight", "fc8.bias"}


@pytest.mark.parametrize("lost", ["averaged folder", "weights changed", "nothing"])
def test_stage_run_again_after_its_end_makes_the_same_average_and_point(every_epoch, tmp_path, lost):
    spec, _, _ = every_epoch
    own = replace(spec, stage_dir=tmp_path / "again")
    shutil.copytree(spec.stage_dir, own.stage_dir)
    folder = own.stage_dir / "checkpoints" / read_finished(own.stage_dir).checkpoint
    if lost == "averaged folder":
        shutil.rmtree(folder)
    elif lost == "weights changed":
        whole = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        with pytest.raises(StorageError, match=r"model\.safetensors differs from its sha256"):
            verify_checkpoint(folder)
    result = run_stage(own, never)
    assert result.checkpoint_sha256 == read_finished(spec.stage_dir).checkpoint_sha256
    assert (result.checkpoint, result.resumed_from) == (folder.name, result.num_updates)
    marked = [{name: value for name, value in p.items() if name != "time"} for p in points(own)]
    assert marked == [{name: value for name, value in p.items() if name != "time"} for p in points(spec)]


def test_soup_whose_checkpoint_is_damaged_is_refused(every_epoch, tmp_path):
    spec, ends, _ = every_epoch
    own = replace(spec, stage_dir=tmp_path / "again")
    shutil.copytree(spec.stage_dir, own.stage_dir)
    (own.stage_dir / "checkpoints" / layout.checkpoint(min(ends)) / "model.safetensors").unlink()
    with pytest.raises(StorageError, match="delete its stage's folder"):
        run_stage(own, never)


def test_cleaning_leaves_the_averaged_weights_alone(every_epoch, tmp_path):
    spec, _, _ = every_epoch
    shutil.copytree(spec.stage_dir / "checkpoints", tmp_path / "checkpoints")
    name = read_finished(spec.stage_dir).checkpoint
    # Of a stage that was shorter.
    write_checkpoint(tmp_path / "checkpoints", 1, {"w": np.ones(2, np.float32)}, None, {}, {"stage_hash": "h"})
    assert (tmp_path / "checkpoints" / "averaged-00000001").is_dir()
    assert keep_weights(tmp_path / "checkpoints", name) > 0
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == [name]
    verify_checkpoint(tmp_path / "checkpoints" / name)


def test_average_that_is_not_finite_is_a_divergence(tmp_path):
    bad = {"w": np.array([np.inf], np.float32)}
    with pytest.raises(Diverged, match="the weights of w"):
        write_checkpoint(tmp_path, 3, bad, None, {}, {"stage_hash": "h"})
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_frozen_norms_keep_their_statistics_and_others_are_renewed(tiny_spec, tmp_path):
    spec = replace(tiny_spec, recipe=replace(tiny_spec.recipe, model=NORMED))
    before = weights(trained(spec))
    averages = {}
    for freeze in ((), ("body",)):
        recipe = replace(spec.recipe, freeze=freeze)
        folder = tmp_path / f"freeze-{len(freeze)}"
        own = replace(spec, recipe=recipe, init_dir=spec.stage_dir, stage_dir=folder, keep=KeptCheckpoint.ema)
        averages[freeze] = weights(trained(own))
    running = [name for name in before if "running" in name or name.endswith("tracked")]
    assert all(np.array_equal(averages["body",][name], before[name]) for name in running)
    # One pass over the same batches, from zero.
    assert all(averages[()][name] == before[name] for name in running if name.endswith("tracked"))
    assert all(not np.array_equal(averages[()][name], before[name]) for name in running if name.endswith("mean"))


def test_renewal_looks_at_no_more_batches_than_hold_enough_images(tiny_spec, monkeypatch):
    monkeypatch.setattr(averaging, "_RENEWING_IMAGES", 401)
    spec = replace(tiny_spec, keep=KeptCheckpoint.ema, recipe=replace(tiny_spec.recipe, model=NORMED))
    assert weights(trained(spec))["conv1.1.num_batches_tracked"] == 2


def test_average_waits_for_no_device():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    average = Average(parts_of(net))
    with synchronisations() as found:
        for share in (1.0, 0.5):
            average.take_in(share)
    assert found.count == 0
    assert all(torch.equal(*pair) for pair in zip(average.parts["average/0.weight"], [net[0].weight], strict=True))
