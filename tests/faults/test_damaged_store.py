"""Pixels of the prepared dataset change on disk: no member trains on them, and the shard is packed again."""

import shutil

import pytest
from command_line import ask
from listed import flip
from oracle import expect_end_in_order, expect_line, expect_recovered
from run_artefacts import artefacts

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def place(new_place, store, tmp_path):
    """A launch with a store of its own: the others' must stay whole."""
    shutil.copytree(store, tmp_path / "store")
    found = new_place("damaged", in_process=True)
    found.store = tmp_path / "store"
    return found


def damage(place):
    """Rot in every shard that members train on, which neither size nor time shows."""
    shards = list(place.store.glob("*/train-*.images.npy"))
    assert len(shards) >= 2
    for shard in shards:
        flip(shard)


@pytest.mark.soak
def test_damage_while_members_train_ends_with_the_shard_s_name_and_the_next_launch_packs_it(undisturbed, place, family):
    process = place.start(moment="training 2")
    damage(place)
    place.let_go()
    expect_line(place.ended(process), 7, "train-00000.images.npy: image ", "of this shard is damaged")
    expect_end_in_order(place, family)
    expect_recovered(place, undisturbed, family)


@pytest.mark.soak
def test_damage_before_a_launch_is_packed_again_and_verify_tells_it(undisturbed, place, capsys):
    damage(place)
    launched = place.launch("datasets.verify=always")
    assert launched.code == 0, launched.err
    assert "train-00000.images.npy: damaged; packing it again from" in launched.err
    assert artefacts(place.paths) == artefacts(undisturbed.paths)
    assert ask(capsys, "verify", place.paths.root).code == 0
    damage(place)
    told = ask(capsys, "verify", place.paths.root)
    assert told.code == 8
    assert "train-00000.images.npy: damaged (datasets.target)" in told.out
