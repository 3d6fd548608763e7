"""What all tests share: an isolated home, one thread, and real images where they are at hand."""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Set before numpy or torch is imported: thread counts are read then, and results depend on them bit for bit.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# Ray reads these once a process, when it is imported. A launch is a process of its own and sets them first; here a test
# that only looks for a cluster may import Ray before the one that starts a local one.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import pytest  # noqa: E402

CHECKOUT = Path(__file__).resolve().parents[1]
IMAGES_ARCHIVE = "tiny-imagenet-40.tar"
PHOTOGRAPHS_ARCHIVE = "imagenet-photos.tar"
# What a developer's shell may hold and no test may follow: a tracking server, a cluster, a launch's own marks.
_FOREIGN = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "RAY_ADDRESS")


@cache
def _soak_note() -> Path | None:
    """The file that says which tests of a soak have passed with this code, so that an interrupted one resumes."""
    folder = os.environ.get("SEPTET_SOAK_DONE")
    if not folder:
        return None
    digest = hashlib.sha256()
    for top in ("orchestrator", "workers", "conf", "tests"):
        for path in sorted((CHECKOUT / top).rglob("*")):
            if path.suffix in (".py", ".c", ".yaml"):
                digest.update(path.read_bytes())
    return Path(folder) / digest.hexdigest()[:16]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    note = _soak_note()
    passed = set(note.read_text().splitlines()) if note and note.exists() else set()
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in passed])
    items[:] = [item for item in items if item.nodeid not in passed]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and "soak" in report.keywords and (note := _soak_note()):
        note.parent.mkdir(exist_ok=True)
        with note.open("a") as file:
            file.write(f"{report.nodeid}\n")


def pytest_sessionfinish(exitstatus: int) -> None:
    if exitstatus == 0 and (note := _soak_note()):
        note.unlink(missing_ok=True)


@pytest.fixture(scope="session", autouse=True)
def isolated_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty HOME for the session and its child processes: nobody's ~/.cache/septet is read or written."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", *_FOREIGN):
            patch.delenv(name, raising=False)
        yield home


@pytest.fixture(scope="session", autouse=True)
def freed_memory_goes_back() -> Iterator[None]:
    """Leaves glibc as it is: freed memory that is kept, as where a member trains, becomes gigabytes in many tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workers.numerics._keep_freed_memory", lambda: None)
        yield


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The top folder of the repository."""
    return CHECKOUT


@pytest.fixture(scope="session")
def real_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 64×64 photographs of 40 classes: `train/<wnid>/`, `val/<wnid>/`, flat `test/`, `target-10.txt`."""
    return _extracted(IMAGES_ARCHIVE, tmp_path_factory)


@pytest.fixture(scope="session")
def real_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flat folder of 200 photographs of as many ImageNet classes, at their full resolution."""
    return _extracted(PHOTOGRAPHS_ARCHIVE, tmp_path_factory)


def _extracted(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Extracts an archive, once a session, from `$SEPTET_DATA`, or from `shared/data` beside the checkout."""
    folder = Path(os.environ.get("SEPTET_DATA", CHECKOUT.parent / "shared" / "data"))
    archive = folder / name
    if not archive.is_file():
        pytest.skip(f"no real images: {archive} is absent; set SEPTET_DATA to the folder that holds it")
    target = tmp_path_factory.mktemp("images")
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    return target / archive.stem
