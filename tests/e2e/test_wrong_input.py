"""Wrong input: one clear line, the exit code of the interface, and nothing on disk that was not there before."""

import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pictures import write_tree

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


@dataclass(frozen=True)
class Answer:
    """What a command said on stderr, and its exit code."""

    code: int
    line: str


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and an empty home of its own."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


@pytest.fixture
def ask(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Runs a command that must fail: no result on stdout, no file changed; gives its last line on stderr."""

    def run(*words: str) -> Answer:
        before = _snapshot(here)
        code = main(list(words))
        said = capsys.readouterr()
        assert said.out == ""
        complaints = [line for line in said.err.splitlines() if line.startswith("septet: ")]
        assert len(complaints) == 1 and said.err.endswith(f"{complaints[0]}\n")
        assert "Traceback" not in said.err
        assert _snapshot(here) == before
        return Answer(code, complaints[0])

    return run


def _snapshot(folder: Path) -> dict[str, str]:
    """Every path below `folder`, with the hash of each file's content, but for what a lock says of who held it last."""

    def content(path: Path) -> str:
        return "" if path.is_dir() or path.name == ".lock" else hashlib.sha256(path.read_bytes()).hexdigest()

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


@pytest.fixture
def images(here: Path) -> Path:
    """Two classes of ten training and three validation images, and two test images."""
    root = here / "images"
    for name in ("train/cat", "train/dog"):
        _write_images(root / name, 10)
    for name in ("val/cat", "val/dog"):
        _write_images(root / name, 3)
    _write_images(root / "test", 2)
    return root


def _write_images(folder: Path, count: int) -> None:
    """Each image unlike those of other folders."""
    seed = int.from_bytes(hashlib.sha256(f"{folder.parent.name}/{folder.name}".encode()).digest()[:4])
    write_tree(folder, {f"{index}.png": seed + index for index in range(count)}, side=32)


def _on(root: Path) -> list[str]:
    return [
        "ensemble=five",
        "dataset@datasets.target=folder",
        f"datasets.target.root={root}",
        "datasets.target.size=32",
    ]


@pytest.mark.parametrize("verb", ["launch", "plan", "prepare"])
def test_missing_root_exits_3_and_names_it(verb: str, here: Path, ask: Callable[..., Answer]) -> None:
    answer = ask(verb, *_on(here / "nowhere"))
    assert answer.code == 3
    assert str(here / "nowhere") in answer.line


@pytest.mark.parametrize("verb", ["launch", "prepare"])
def test_empty_class_folder_exits_3_and_names_it(verb: str, images: Path, ask: Callable[..., Answer]) -> None:
    (images / "train" / "emu").mkdir()
    answer = ask(verb, *_on(images))
    assert answer.code == 3
    assert "emu" in answer.line


@pytest.mark.parametrize("verb", ["launch", "prepare"])
def test_class_of_val_that_train_lacks_exits_3_and_names_it(
    verb: str, images: Path, ask: Callable[..., Answer]
) -> None:
    _write_images(images / "val" / "emu", 1)
    answer = ask(verb, *_on(images))
    assert answer.code == 3
    assert "emu" in answer.line


@pytest.mark.parametrize("verb", ["launch", "prepare"])
def test_unreadable_training_image_exits_3_and_names_it(verb: str, images: Path, ask: Callable[..., Answer]) -> None:
    bad = images / "train" / "dog" / "broken.png"
    bad.write_bytes((images / "train" / "dog" / "0.png").read_bytes()[:200])
    answer = ask(verb, *_on(images))
    assert answer.code == 3
    assert "train/dog/broken.png" in answer.line


@pytest.mark.parametrize("verb", ["launch", "plan", "prepare"])
@pytest.mark.parametrize("source", ["csv", "webdataset", "parquet"])
def test_root_that_holds_another_kind_of_files_exits_3_and_says_what_is_looked_for(
    source: str, verb: str, images: Path, ask: Callable[..., Answer]
) -> None:
    answer = ask(verb, "ensemble=five", f"dataset@datasets.target={source}", f"datasets.target.root={images}")
    assert answer.code == 3
    assert str(images) in answer.line and "datasets.target.train" in answer.line


@pytest.mark.parametrize("verb", ["launch", "prepare"])
def test_line_of_a_csv_without_its_image_exits_3_and_names_the_line(
    verb: str, images: Path, ask: Callable[..., Answer]
) -> None:
    (images / "train.csv").write_text("id,label\ncat/0.png,cat\ncat/99.png,cat\n")
    answer = ask(verb, "ensemble=five", "dataset@datasets.target=csv", f"datasets.target.root={images}")
    assert answer.code == 3
    assert "train.csv: line 3: no image cat/99.png" in answer.line


@pytest.mark.parametrize("verb", ["launch", "plan", "prepare", "doctor"])
def test_mistyped_key_exits_2_with_the_nearest_right_name(verb: str, ask: Callable[..., Answer]) -> None:
    answer = ask(verb, "optimizer.momentun=0.9")
    assert answer.code == 2
    assert "momentun" in answer.line and "momentum" in answer.line.replace("momentun", "")


def test_mistyped_group_option_exits_2_with_the_nearest_right_name(ask: Callable[..., Answer]) -> None:
    answer = ask("launch", "experiment=tiny_imagnet")
    assert answer.code == 2
    assert "tiny_imagenet" in answer.line


def test_mistyped_group_exits_2_with_the_nearest_right_name(ask: Callable[..., Answer]) -> None:
    answer = ask("launch", "optimiser=sgd")
    assert answer.code == 2
    assert "optimizer" in answer.line


def test_value_of_another_type_exits_2_and_names_the_key(ask: Callable[..., Answer]) -> None:
    answer = ask("launch", "schedule.epochs=many")
    assert answer.code == 2
    assert "epochs" in answer.line


@pytest.mark.parametrize("resource", ["cpus", "gpus"])
def test_more_of_a_resource_than_there_is_exits_2_and_says_how_much_there_is(
    resource: str, ask: Callable[..., Answer]
) -> None:
    answer = ask("launch", f"cluster.{resource}_per_member=9999")
    assert answer.code == 2
    assert "9999" in answer.line and f"cluster.{resource}_per_member" in answer.line


def _recorded_run(root: Path, overrides: list[str]) -> RunPaths:
    """A run directory as a launch with `overrides` leaves it at its start."""
    plan = make_plan(config := compose(overrides), survey_all(config))
    paths = RunPaths(root)
    record = RunRecord(
        run_id="00000000-0000-0000-0000-000000000000",
        experiment=plan.experiment,
        plan=plan_to_json(plan),
        plan_hash=plan.hash,
        created=0.0,
        versions={},
        code_digest=code_digest(),
        numerics=Numerics(),
    )
    write_record(paths, record)
    return paths


def test_run_directory_in_use_exits_5_and_names_holder(images: Path, here: Path, ask: Callable[..., Answer]) -> None:
    paths = _recorded_run(here / "run", _on(images))
    with lock(paths):
        answer = ask("launch", *_on(images), f"run_dir={paths.root}")
    assert answer.code == 5
    assert str(paths.root) in answer.line and "process" in answer.line


def test_run_directory_with_another_plan_exits_6_and_says_what_differs(
    images: Path, here: Path, ask: Callable[..., Answer]
) -> None:
    paths = _recorded_run(here / "run", _on(images))
    answer = ask("launch", *_on(images), f"run_dir={paths.root}", "optimizer.lr=0.5")
    assert answer.code == 6
    assert "lr" in answer.line and "0.5" in answer.line


def test_run_directory_with_other_files_exits_2_and_keeps_them(here: Path, ask: Callable[..., Answer]) -> None:
    (here / "run").mkdir()
    (here / "run" / "thesis.tex").write_text("precious")
    answer = ask("launch", f"run_dir={here / 'run'}")
    assert answer.code == 2
    assert "thesis.tex" in answer.line


def test_tracking_store_where_nobody_listens_exits_2_and_names_its_address(
    images: Path, ask: Callable[..., Answer]
) -> None:
    with socket.socket() as taken:
        # Bound and not listening: nobody else can take the port meanwhile.
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        answer = ask("launch", *_on(images), f"tracking.uri={address}")
    assert answer.code == 2
    assert address in answer.line


def test_sample_submission_that_is_missing_exits_2_and_names_it(here: Path, ask: Callable[..., Answer]) -> None:
    answer = ask("launch", f"submission.template={here / 'sample.csv'}")
    assert answer.code == 2
    assert "sample.csv" in answer.line


def test_sample_submission_of_other_images_exits_2_and_leaves_the_run_as_it_was(
    images: Path, here: Path, ask: Callable[..., Answer], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = _recorded_run(here / "run", _on(images))
    paths.config_yaml.write_text("what it was launched with")
    with lock(paths):
        assert main(["prepare", *_on(images)]) == 0
    capsys.readouterr()
    (here / "sample.csv").write_text("id,label\nanother.png,cat\n")
    answer = ask(
        "launch",
        *_on(images),
        f"run_dir={paths.root}",
        "submission=labels",
        f"submission.template={here / 'sample.csv'}",
    )
    assert answer.code == 2
    assert "another.png" in answer.line


def test_cluster_address_where_nobody_listens_exits_2_and_names_it(ask: Callable[..., Answer]) -> None:
    answer = ask("launch", "cluster.address=nonsense://127.0.0.1:1")
    assert answer.code == 2
    assert "nonsense" in answer.line
