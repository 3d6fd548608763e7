"""What a composed configuration keeps and how it is opened again: paths, addresses, passwords, the text."""

from pathlib import Path

import pytest

from orchestrator.config.composition import compose, reopen
from orchestrator.config.schema import CombineMethod, SubmissionConfig, SubmissionFormat, default_run_dir
from workers.errors import ConfigError
from workers.settings.dataset import Source


def test_tracking_uri_explicit_then_environment_then_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert compose([]).tracking.uri == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert compose([]).tracking.uri == "http://localhost:5000"
    assert compose(["tracking.uri=sqlite:///my.db"]).tracking.uri == f"sqlite:///{tmp_path}/my.db"
    assert compose(["tracking.uri=sqlite:////var/my.db"]).tracking.uri == "sqlite:////var/my.db"
    assert compose(["tracking.uri=runs/ml"]).tracking.uri == f"{tmp_path}/runs/ml"
    assert compose(["tracking.uri='file:ml'"]).tracking.uri == f"file://{tmp_path}/ml"


def test_paths_are_absolute_and_the_store_is_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    target = ("root=a", "classes=~/b", "relabel=review.csv")
    config = compose(["dataset@datasets.target=folder", *(f"datasets.target.{word}" for word in target)])
    assert config.store == tmp_path / "me/.cache/septet"
    assert config.datasets["target"].root == str(tmp_path / "a")
    assert config.datasets["target"].classes == str(tmp_path / "me/b")
    assert config.datasets["target"].relabel == str(tmp_path / "review.csv")


def test_addresses_in_object_stores_are_kept_as_they_are_and_read_back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    chosen = ["dataset@datasets.target=webdataset", "datasets.target.root=s3://bucket/a", "ensemble=five"]
    config = compose([*chosen, "datasets.target.class_names=names.txt"])
    assert config.datasets["target"].source is Source.webdataset
    assert config.datasets["target"].root == "s3://bucket/a"
    assert config.datasets["target"].class_names == str(tmp_path / "names.txt")
    monkeypatch.chdir("/")
    assert reopen(config.yaml) == config


@pytest.fixture(scope="module")
def folder():
    """A configuration with a folder as its target, as text: reading it again is quicker than composing."""
    return compose(["dataset@datasets.target=folder", "datasets.target.root=/x"]).yaml


@pytest.mark.parametrize(
    "scheme", ["ftp://me:hush@", "s3://KEY:hu/hush+x@", "zip://a::https://me:hush@", "https://h?sig=hush"]
)
def test_root_with_a_password_is_refused_and_the_password_not_repeated(folder, scheme):
    with pytest.raises(ConfigError, match=r"^datasets\.target\.root: contains a password") as caught:
        reopen(folder, [f"datasets.target.root='{scheme}host/images'"])
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    "root", ["http://host:9000/images@2x", "s3://bucket/a:b", "/data/me:x@y", "abfs://box@account/x"]
)
def test_root_with_a_port_or_odd_names_holds_no_password(folder, root):
    assert reopen(folder, [f"datasets.target.root='{root}'"]).datasets["target"].root == root


@pytest.mark.parametrize("key", ["run_dir", "datasets.target.root", "datasets.target.classes", "submission.template"])
def test_home_of_nobody_is_told_in_one_line(folder, key):
    with pytest.raises(ConfigError, match="~nobody-here/x: this machine has no user with that home folder"):
        reopen(folder, [f"{key}=~nobody-here/x"])


@pytest.mark.parametrize("source", ["csv", "webdataset", "parquet"])
def test_files_of_other_sources_compose(source):
    config = compose([f"dataset@datasets.target={source}", "datasets.target.root=/x", "ensemble=five"])
    assert config.datasets["target"].source == source


def test_yaml_keeps_references_and_reads_back_the_same(monkeypatch, tmp_path):
    monkeypatch.setenv("SEPTET_TEST_SECRET", "http://me:hush@localhost")
    config = compose(["tracking.uri=${oc.env:SEPTET_TEST_SECRET}", "datasets.target.val_fraction=0.2"])
    assert config.tracking.uri == "http://me:hush@localhost"
    text = config.yaml
    assert "hush" not in text
    assert "${oc.env:SEPTET_TEST_SECRET}" in text
    monkeypatch.chdir(tmp_path)
    assert reopen(text) == config


def test_yaml_leaves_the_environment_s_tracking_uri_out(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:hush@localhost")
    assert "hush" not in compose([]).yaml


def test_reopen_with_another_format_keeps_template_ids_and_min_members_that_are_not_overridden():
    kept = ["submission.template=/a.csv", "submission.class_ids=/old", "submission.min_members=2"]
    text = compose(["ensemble=sweep", "sweep.seed=[0,1]", *kept]).yaml
    config = reopen(text, ["combine=weighted", "submission=kaggle_loc", "submission.class_ids=/ids"])
    assert config.combine.method is CombineMethod.weighted
    assert config.submission == SubmissionConfig(SubmissionFormat.kaggle_loc, "/a.csv", "/ids", 2)
    assert list(config.members) == ["seed-0", "seed-1"]
    config = reopen(text, ["submission.template=null", "submission=probabilities"])
    assert config.submission == SubmissionConfig(SubmissionFormat.probabilities, None, "/old", 2)


@pytest.mark.parametrize("order", [1, -1])
def test_reopen_keeps_a_value_wherever_its_group_is_chosen(folder, order):
    config = reopen(folder, ["submission.template=/sample.csv", "submission=kaggle_loc"][::order])
    assert (config.submission.format, config.submission.template) == (SubmissionFormat.kaggle_loc, "/sample.csv")


@pytest.mark.parametrize(
    "override", ["combine=weigthed", "experiment=digits", "combine.methd=mean", "~ensemble.members.base1"]
)
def test_reopen_refuses_a_mistake_and_what_a_run_has_settled(folder, override):
    with pytest.raises(ConfigError):
        reopen(folder, [override])


def test_config_dir_adds_options_and_refuses_a_missing_folder(tmp_path):
    folder = tmp_path / "my conf'"
    (folder / "optimizer").mkdir(parents=True)
    (folder / "optimizer" / "slow.yaml").write_text("lr: 0.0001\n")
    config = compose(["experiment=ilsvrc2012", "optimizer=slow"], config_dir=folder)
    assert config.members["base1"].stages["train"].optimizer.lr == 0.0001
    with pytest.raises(ConfigError, match=r"known: adamw, cifar_18pct, cifar_80s, release, sgd, slow"):
        compose(["optimizer=slw"], config_dir=folder)
    with pytest.raises(ConfigError, match="no such folder"):
        compose([], config_dir=tmp_path / "absent")


def test_default_run_dir_names_experiment_and_plan():
    assert default_run_dir("digits", "0123456789abcdef") == Path("runs/digits-01234567")
