"""Facts about this machine: asked without changing anything, and told rather than raised when they are bad."""

import pytest

from orchestrator.config.composition import compose
from orchestrator.doctor import facts
from orchestrator.doctor.checks import Answer
from orchestrator.doctor.facts import ask_dataset, ask_decoder, cpu_quota, place
from workers.data.decoding.decoder import FORMATS
from workers.errors import ConfigError, DataError


def test_place_that_does_not_exist_yet_is_judged_by_its_nearest_parent_and_not_made(tmp_path):
    wanted = tmp_path / "a" / "b"
    found = place("store", wanted)
    assert found.path == str(wanted)
    assert found.writable and 0 < found.free_bytes <= found.total_bytes
    assert list(tmp_path.iterdir()) == []


def test_place_below_a_file_is_not_writable(tmp_path):
    (tmp_path / "file").write_text("")
    assert not place("store", tmp_path / "file" / "store").writable


@pytest.mark.parametrize(("text", "cpus"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None)])
def test_cpu_quota_of_a_container_is_in_cpus(text, cpus, tmp_path):
    assert cpu_quota(tmp_path / "cpu.max") is None, "there are no cgroups"
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "cpu.max") == cpus


@pytest.mark.parametrize("name", FORMATS)
def test_decoder_of_every_accepted_format_works_here(name):
    assert not ask_decoder(name).problem
    assert ask_decoder("XYZ").problem


def test_dataset_that_is_there_is_described_and_one_whose_root_is_missing_names_it(tmp_path):
    assert ask_dataset(compose([]), "target").startswith("10 classes, ")
    config = compose(["experiment=tiny_imagenet", f"datasets.target.root={tmp_path / 'gone'}"])
    with pytest.raises(DataError, match=r"^datasets\.target: .*gone"):
        ask_dataset(config, "target")
    with pytest.raises(DataError, match=r"^datasets\.superset: no root: .*, or do without it: ensemble=five$"):
        ask_dataset(config, "superset")


def test_dataset_that_no_stage_reads_is_not_asked_for(monkeypatch):
    monkeypatch.setattr(facts, "ask_torch", lambda: Answer(problem="not asked here"))
    monkeypatch.setattr(facts, "ask_ray", lambda *_: "")
    monkeypatch.setattr(facts.tracking, "probe", lambda _: "")
    monkeypatch.setattr(facts, "ask_dataset", lambda _, name: name)
    experiment = ["experiment=tiny_imagenet", "datasets.target.root=/x"]
    asked = [set(facts.gather(compose([*experiment, *more]), print).datasets) for more in ([], ["ensemble=five"])]
    assert asked == [{"target", "superset"}, {"target"}]


def test_cluster_that_no_launch_could_start_on_is_no_success(monkeypatch):
    def refuse(settings):
        raise ConfigError("no node has more")

    monkeypatch.setattr(facts.cluster, "survey_nodes", lambda _: (0, "waits for a node"))
    monkeypatch.setattr(facts.cluster, "check_resources", refuse)
    config = compose(["cluster.address=head:6379"])
    with pytest.raises(ConfigError, match="no node has more"):
        facts.ask_ray(config, None)
    monkeypatch.setattr(facts.cluster, "check_resources", lambda _: 0)
    assert facts.ask_ray(config, None) == "waits for a node"
