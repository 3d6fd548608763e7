"""Gangs of real processes over gloo: the same weights at every width, whatever happens to a worker."""

import json
import os
import signal
import sys
from dataclasses import replace

import psutil
import pytest
import torch
from gangs import LOOPBACK, run_gang
from stages import stop_after
from tiny_stage import course

from workers.errors import ConfigError, Diverged, PeerLost, Stopped
from workers.models import code_of
from workers.protocol import Numerics, StageResult
from workers.settings import ClassWeights, KeptCheckpoint, LossSettings, ModelSettings, ScheduleSettings
from workers.training import gradients, loop
from workers.training.gang import Gang

# Norms of both kinds of average, dropout, a layer that some shards skip, and one that no shard uses.
NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, counts):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8, momentum=None)
        self.extra, self.norm3 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.unused = nn.Linear(3, 3)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, num_classes)
        self.register_buffer("calls", torch.zeros(()))
        self.counts = counts

    def forward(self, images):
        if self.counts:
            self.calls += 1
        maps = self.norm2(self.conv2(self.norm1(self.conv1(images)).relu())).relu()
        if not self.training or torch.rand(()) < 0.6:
            maps = maps + self.norm3(self.extra(maps))
        return self.head(self.drop(maps.mean((2, 3))))

def build(num_classes, input_size, counts=False):
    return Net(num_classes, counts)
"""

FP32 = Numerics()


@pytest.fixture(scope="module")
def own_net(tmp_path_factory):
    file = tmp_path_factory.mktemp("net") / "net.py"
    file.write_text(NET)

    def model(**args):
        named = ModelSettings(name="net.py:build", file=str(file), input_size=16, args=args)
        return replace(named, code=code_of(named))

    return model


@pytest.fixture
def spec(tiny_spec):
    """Two epochs of five updates; the last of each has six images, fewer than there are shards."""
    optimizer = replace(tiny_spec.recipe.optimizer, batch_size=290, shards=8)
    return replace(
        tiny_spec, recipe=replace(tiny_spec.recipe, optimizer=optimizer, schedule=ScheduleSettings(epochs=2))
    )


def of(spec, name, *, optimizer=(), checkpoint_updates=100, numerics=FP32, keep=KeptCheckpoint.last, **recipe):
    """The stage in a folder of its own."""
    folder = spec.stage_dir.parent.with_name(name) / "train"
    folder.mkdir(parents=True)
    changed = replace(spec.recipe, optimizer=replace(spec.recipe.optimizer, **dict(optimizer)), **recipe)
    how = {"numerics": numerics, "keep": keep, "checkpoint_updates": checkpoint_updates}
    return replace(spec, stage_dir=folder, recipe=changed, **how)


def sha256(ends):
    """Of the final weights of a gang all of whose workers ended well."""
    assert all(isinstance(end, StageResult) for end in ends), ends
    assert {end.num_updates for end in ends} == {ends[0].num_updates}
    return ends[0].checkpoint_sha256


def differing(spec, widths, **changes):
    """Trains the stage once at each width; returns how many different weights and courses there are."""
    specs = {width: of(spec, f"of{width}", **changes) for width in widths}
    found = {sha256(run_gang(own, width)) for width, own in specs.items()}
    return len(found), len({json.dumps(course(own.stage_dir)) for own in specs.values()})


def test_the_last_batch_of_these_stages_has_fewer_images_than_shards(spec, digits_store):
    images = json.loads((digits_store / "manifest.json").read_text())["counts"]["train"]
    assert 1 < images % spec.recipe.optimizer.batch_size < 8


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_weights_and_metrics_of_a_net_with_dropout_do_not_depend_on_the_width(spec, precision):
    assert differing(spec, (1, 2, 4), numerics=Numerics(precision=precision)) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_and_metrics_of_a_net_with_norms_do_not_depend_on_the_width(spec, own_net, precision):
    assert differing(spec, (1, 3, 4), numerics=Numerics(precision=precision), model=own_net()) == (1, 1)


@pytest.mark.slow
def test_plain_all_reduce_gives_other_weights(spec, monkeypatch):
    """The negative control: what the order of the sums is for."""

    def all_reduced(gang, parameters, own):
        total = {parameter: torch.zeros_like(parameter) for parameter in parameters}
        for each in own:
            gradients._add(total, each)
        for gradient in total.values():
            gang._host.allreduce([gradient]).wait()
        return total

    wanted = sha256(run_gang(of(spec, "alone"), 1))
    assert sha256(run_gang(of(spec, "in order"), 4)) == wanted
    monkeypatch.setattr(Gang, "add_up", all_reduced)
    assert sha256(run_gang(of(spec, "all-reduced"), 4)) != wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"freeze": ("conv1", "conv2")},
        {"loss": LossSettings(class_weights=ClassWeights.balanced), "optimizer": {"micro_batch": 20}},
        {"keep": KeptCheckpoint.ema, "optimizer": {"name": "adamw", "clip_norm": 0.5}},
    ],
    ids=["frozen", "class weights in pieces", "average and clipping"],
)
def test_weights_at_width_two_are_those_of_one(spec, own_net, changes):
    model = spec.recipe.model if "freeze" in changes else own_net()
    assert differing(spec, (1, 2), model=model, **changes) == (1, 1)


@pytest.mark.slow
def test_mixing_at_width_two_is_that_of_one(spec):
    assert differing(spec, (1, 2), augmentation=replace(spec.recipe.augmentation, mixup=0.4, cutmix=1.0)) == (1, 1)


def test_one_worker_more_than_shards_is_refused(spec):
    ends = run_gang(of(spec, "wide", optimizer={"shards": 2}), 3)
    assert all(isinstance(end, ConfigError) for end in ends)
    assert "optimizer.shards=2: 3 workers" in str(ends[0])


def test_net_whose_forward_pass_changes_another_buffer_is_refused_in_a_gang_alone(spec, own_net):
    counting = own_net(counts=True)
    assert isinstance(run_gang(of(spec, "alone", model=counting), 1)[0], StageResult)
    ends = run_gang(of(spec, "two", model=counting), 2)
    assert all(isinstance(end, ConfigError) and "its forward pass changes calls" in str(end) for end in ends)


def dying(rank, step):
    """Kills the process of `rank` before it makes update `step`."""

    def before(own):
        make = loop._Update.make

        def dies(update, state):
            if own == rank and state.step == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return make(update, state)

        loop._Update.make = dies

    return before


def test_run_at_widths_one_four_and_two_with_a_kill_between_ends_with_the_same_bits(spec, own_net):
    wanted = sha256(run_gang(of(spec, "straight", model=own_net()), 1))
    own = of(spec, "changing", model=own_net(), checkpoint_updates=1)
    assert isinstance(run_gang(own, 1, stop_after(2))[0], Stopped)
    ends = run_gang(own, 4, before=dying(2, 5))
    assert ends[2] is None
    assert all(isinstance(end, PeerLost) for rank, end in enumerate(ends) if rank != 2), ends
    ends = run_gang(own, 2)
    assert sha256(ends) == wanted
    assert 2 < ends[0].resumed_from <= 5


@pytest.mark.slow
def test_rank_0_alone_stops_and_the_others_end_with_it(spec):
    own = of(spec, "stopped", checkpoint_updates=100)
    first, other = run_gang(own, 2, stop_after(3))
    assert isinstance(first, Stopped)
    assert isinstance(other, PeerLost)
    assert "a worker of the gang is gone" in str(other)
    assert sha256(run_gang(own, 2)) == sha256(run_gang(of(spec, "straight"), 1))


def test_divergence_is_told_alike_by_all_workers(spec):
    def poisoned(own):
        mean_loss = gradients.mean_loss
        gradients.mean_loss = lambda *given: mean_loss(*given) * (float("nan") if own == 1 else 1.0)

    ends = run_gang(of(spec, "diverging"), 2, before=poisoned)
    assert all(isinstance(end, Diverged) and end.step == 0 for end in ends), ends


def test_rank_0_alone_opens_the_stages_files(spec):
    own = of(spec, "files")

    def watched(rank):
        def note(event, args):
            if event == "open" and str(args[0]).startswith(str(own.stage_dir)):
                (own.stage_dir.parent / f"rank {rank}").touch()

        sys.addaudithook(note)

    sha256(run_gang(own, 2, before=watched))
    assert [path.name for path in own.stage_dir.parent.glob("rank *")] == ["rank 0"]


@pytest.mark.slow
def test_workers_of_one_machine_listen_on_loopback_only(spec):
    """Gloo would otherwise choose the address that the host's name has."""
    own = of(spec, "addresses")

    def listening(rank):
        make = loop._Update.make

        def noted(update, state):
            open_now = {each.laddr.ip for each in psutil.Process().net_connections() if each.status == "LISTEN"}
            (own.stage_dir.parent / f"rank {rank}").write_text(" ".join(open_now))
            return make(update, state)

        loop._Update.make = noted

    sha256(run_gang(own, 2, before=listening))
    assert [path.read_text() for path in own.stage_dir.parent.glob("rank *")] == [LOOPBACK] * 2
