"""What fault tests share: one undisturbed run a session, and an eye on every process that a test starts."""

from contextlib import ExitStack

import oracle
import pytest
from in_process_launch import Place as InProcess
from one_slot import one_slot
from oracle import Family, placed
from run_artefacts import artefacts
from tracked_run import REQUEST_S, mlflow_server

from benchmarks.misbehaving_proxy import serving_badly
from orchestrator import cluster


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The prepared digits, shared by all runs of the session."""
    return tmp_path_factory.mktemp("fault-store") / "store"


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, store):
    """The reference: the small run that nothing befell. On threads: Ray gives the same bits, as a test here shows."""
    with placed(tmp_path_factory.mktemp("undisturbed"), store, in_process=True) as place:
        ended = place.launch()
        assert ended.code == 0, ended.err
        # Three files of the submission, three splits of two members, three stages.
        assert len(artefacts(place.paths)) == 3 + 2 * 3 + 3
        yield place


@pytest.fixture(scope="session")
def smallest(tmp_path_factory):
    """The undisturbed launch of one member in the tests' own process."""
    folder = tmp_path_factory.mktemp("smallest")
    place = InProcess(folder / "undisturbed", folder)
    assert place.launch() == 0
    # Three files of the submission, three splits, one stage.
    assert len(artefacts(place.paths)) == 3 + 3 + 1
    return place


@pytest.fixture
def small_place(smallest, tmp_path):
    """A place of the test's own for such a launch, beside the same store."""
    return InProcess(tmp_path / "run", smallest.shared)


@pytest.fixture
def in_threads(monkeypatch):
    """Launches in the test's own process train in its threads, in place of Ray."""
    monkeypatch.setattr(cluster, "open_cluster", one_slot)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of sixteen megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    with oracle.small_disk(folder, "16m"):
        yield folder


@pytest.fixture
def family():
    """Every process that the test starts; what lives at its end is killed."""
    with Family() as found:
        yield found


@pytest.fixture
def new_place(tmp_path, store, undisturbed):
    """Makes places of the test's own: `new_place("name", in_process=True)`."""
    with ExitStack() as stack:

        def make(name, *, in_process=False):
            return stack.enter_context(placed(tmp_path / name, store, in_process=in_process))

        yield make


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with mlflow_server(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def proxy(server):
    with serving_badly(server.port) as started:
        yield started


@pytest.fixture
def impatient(monkeypatch):
    """Gives up a request after a second, and the wait at a launch's end after half of one."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_S))
    monkeypatch.setattr("orchestrator.tracking.tracker.CLOSE_S", 0.5)
    monkeypatch.setattr("orchestrator.tracking.tracker._ANSWER_S", 1.5)
    monkeypatch.setattr("orchestrator.tracking.tracker.REFUSED_S", 0.3)
