"""Wrong input: one clear line, the exit code of the interface, and nothing on disk that was not there before."""

import hashlib

import command_line
import pytest
from pictures import write_photos

from orchestrator.cli.program import main
from orchestrator.config.composition import compose
from orchestrator.inputs import survey_all
from orchestrator.plan.build import make_plan
from orchestrator.plan.model import plan_to_json
from orchestrator.run.holder import lock
from orchestrator.run.paths import RunPaths
from orchestrator.run.record import RunRecord, write_record
from workers.numerics import code_digest
from workers.protocol import Numerics


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory and an empty home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def ask(here, capsys):
    """Runs a command that must fail: no result on stdout, no file changed; gives its last line on stderr."""

    def run(*words):
        before = _snapshot(here)
        answer = command_line.ask(capsys, *words)
        assert answer.out == ""
        assert answer.err.endswith(f"{answer.line}\n")
        assert "Traceback" not in answer.err
        assert _snapshot(here) == before
        return answer

    return run


def _snapshot(folder):
    """Every path below `folder`, with the hash of each file's content, but for what a lock says of who held it last."""

    def content(path):
        return "" if path.is_dir() or path.name == ".lock" else hashlib.sha256(path.read_bytes()).hexdigest()

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


@pytest.fixture
def images(here):
    """Two classes of ten training and three validation images, and two test images."""
    root = here / "images"
    for name in ("cat", "dog"):
        write_photos(root / "train" / name, 10)
        write_photos(root / "val" / name, 3)
    write_photos(root / "test", 2)
    return root


def _on(root, source="folder"):
    size = ["datasets.target.size=32"] * (source == "folder")
    return ["ensemble=five", f"dataset@datasets.target={source}", f"datasets.target.root={root}", *size]


def _spoil(images, how):
    """Spoils the images; gives what has to be named."""
    if how == "missing root":
        images.rename(images.with_name("elsewhere"))
        return str(images)
    if how == "empty class":
        (images / "train" / "emu").mkdir()
        return "emu"
    if how == "class of val alone":
        write_photos(images / "val" / "emu", 1)
        return "emu"
    bad = images / "train" / "dog" / "broken.png"
    bad.write_bytes((images / "train" / "dog" / "0.png").read_bytes()[:200])
    return "train/dog/broken.png"


@pytest.mark.parametrize("verb", ["launch", "prepare"])
@pytest.mark.parametrize("how", ["missing root", "empty class", "class of val alone", "unreadable image"])
def test_spoilt_images_exit_3_and_are_named(verb, how, images, ask):
    named = _spoil(images, how)
    answer = ask(verb, *_on(images))
    assert answer.code == 3
    assert named in answer.line


@pytest.mark.parametrize("verb", ["launch", "plan", "prepare"])
@pytest.mark.parametrize("source", ["csv", "webdataset", "parquet"])
def test_root_of_another_kind_of_files_exits_3_and_says_what_is_sought(source, verb, images, ask):
    answer = ask(verb, *_on(images, source))
    assert answer.code == 3
    assert str(images) in answer.line and "datasets.target.train" in answer.line


@pytest.mark.parametrize(
    ("verb", "override", "said"),
    [
        *((verb, "optimizer.momentun=0.9", "optimizer.momentum") for verb in ("launch", "plan", "prepare", "doctor")),
        ("launch", "experiment=tiny_imagnet", "tiny_imagenet"),
        ("launch", "optimiser=sgd", "optimizer"),
        ("launch", "schedule.epochs=many", "epochs"),
        ("launch", "cluster.cpus_per_member=9999", "cluster.cpus_per_member"),
        ("launch", "cluster.gpus_per_member=9999", "cluster.gpus_per_member"),
        ("launch", "submission.template=sample.csv", "sample.csv"),
        ("launch", "num_members=3", "ensemble=sweep 'sweep.seed=[0,1,2]'"),
        ("launch", "root=/photos", "experiment=photos datasets.target.root=/photos"),
        ("plan", "datasets.superset.root=/nonexistent", "only source=csv or folder or"),
        ("launch", "cluster.address=nonsense://127.0.0.1:1", "nonsense"),
    ],
)
def test_wrong_override_exits_2_and_names_the_key(verb, override, said, ask):
    answer = ask(verb, override)
    assert answer.code == 2
    assert said in answer.line


@pytest.mark.parametrize("verb", ["launch", "plan"])
def test_crop_of_a_fragment_exits_2_and_says_which_size_suits(verb, images, ask):
    answer = ask(verb, "ensemble=five", "dataset@datasets.target=folder", f"datasets.target.root={images}")
    assert (answer.code, "set datasets.target.size=32, or" in answer.line) == (2, True)


@pytest.mark.parametrize("verb", ["launch", "plan"])
def test_superset_that_nobody_gave_exits_3_and_says_how_to_do_without(verb, images, ask):
    answer = ask(verb, "experiment=tiny_imagenet", f"datasets.target.root={images}")
    assert (answer.code, answer.line.endswith("or do without it: ensemble=five")) == (3, True)


def _recorded_run(root, overrides):
    """A run directory as a launch with `overrides` leaves it at its start."""
    plan = make_plan(config := compose(overrides), survey_all(config))
    paths = RunPaths(root)
    found = (plan.experiment, plan_to_json(plan), plan.hash)
    write_record(paths, RunRecord("an id", *found, 0.0, {}, code_digest(), Numerics()))
    return paths


def test_run_directory_in_use_exits_5_and_names_holder(images, here, ask):
    paths = _recorded_run(here / "run", _on(images))
    with lock(paths):
        answer = ask("launch", *_on(images), f"run_dir={paths.root}")
    assert answer.code == 5
    assert str(paths.root) in answer.line and "process" in answer.line


def test_template_of_other_images_exits_2(images, here, ask, capsys):
    paths = _recorded_run(here / "run", _on(images))
    paths.config_yaml.write_text("what it was launched with")
    with lock(paths):
        assert main(["prepare", *_on(images)]) == 0
    capsys.readouterr()
    (here / "sample.csv").write_text("id,label\nanother.png,cat\n")
    template = f"submission.template={here / 'sample.csv'}"
    answer = ask("launch", *_on(images), f"run_dir={paths.root}", "submission=labels", template)
    assert answer.code == 2
    assert "another.png" in answer.line


@pytest.mark.parametrize("place", ["/proc/there/run", f"/tmp/{'long' * 100}"])
def test_run_directory_that_cannot_be_is_a_storage_error(place, ask):
    answer = ask("launch", f"run_dir={place}")
    assert (answer.code, answer.line.startswith(f"septet: run_dir={place}: cannot be used (")) == (7, True)


def test_out_that_lies_in_a_run_directory_is_refused(ask, here):
    (here / "run").mkdir()
    (here / "run" / "run.json").write_text("{}")
    (here / "run" / "report").mkdir()
    for name in ("run.json", "report/new.csv"):
        answer = ask("predict", here / "run", here / "x.png", "--out", here / "run" / name)
        assert (answer.code, "lies in the run directory" in answer.line) == (2, True)
