"""A run of two members that is long enough to be met in the midst of, and whose members are worth one loss each."""

from contextlib import contextmanager

from oracle import placed, wait_for
from run_artefacts import artefacts

from orchestrator.run.ledger import read_ledger
from workers.training.metrics import read_step

MEMBERS = ("one", "two")
_LONG = (
    *("ensemble=plain", "checkpoint_updates=4", "precision=fp32", "optimizer.batch_size=400", "model.width=0.1"),
    *("model.fc_units=32", "cluster.cpus_per_member=1", "cluster.max_losses=1"),
)
_GROUP = "members:\n" + "".join(f"  {name}: {{stages: {{train: {{dataset: target}}}}}}\n" for name in MEMBERS)


def make_long(place, epochs=240):
    (place.root / "groups" / "ensemble" / "plain.yaml").write_text(_GROUP)
    place.overrides = (*_LONG, f"ensemble.stages.train.epochs={epochs}")
    return place


@contextmanager
def undisturbed_long(folder, store, give_up_s, epochs=240):
    """A place where nothing befell that run."""
    with placed(folder, store, in_process=True) as place:
        assert make_long(place, epochs).launch(give_up_s=give_up_s).code == 0
        yield place


def wait_until_trains(place, process, more_than=10):
    """Returns when both members are well under way."""
    wait_for(lambda: all(step_of(place, name) > more_than for name in MEMBERS) or process.poll() is not None)
    assert process.poll() is None, place.ended(process)


def step_of(place, member):
    return read_step(place.paths.members / member / "train" / "step.txt")


def entry_of(place, member):
    """The ledger's entry of the member's training."""
    return read_ledger(place.paths.ledger).stages[f"{member}/train"]


def trained(place):
    """The ledger's entries of the members' training."""
    return [entry for name, entry in read_ledger(place.paths.ledger).stages.items() if name.endswith("/train")]


def expect_same_end(place, undisturbed):
    """The undisturbed run's bytes, and nothing temporary or half told."""
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
    assert not list(place.paths.root.rglob(".tmp-*")) and place.running_in_mlflow() == []
