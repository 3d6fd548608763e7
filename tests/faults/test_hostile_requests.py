"""What MLflow's UI answers to pages of other sites, whatever the environment says of its protection."""

import http.client
import urllib.parse

import pytest

from orchestrator.tracking import ui
from orchestrator.tracking.ui import serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    from orchestrator.tracking.mlflow_store import Store

    folder = tmp_path_factory.mktemp("ui")
    store = Store(f"sqlite:///{folder}/mlflow.db", "digits", "run-uuid")
    store.open()
    return store.uri


def _status(address, method, headers):
    place = urllib.parse.urlsplit(address)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=30)
    body = '{"max_results": 1}'
    path = "/api/2.0/mlflow/experiments/search" + ("?max_results=1" if method == "GET" else "")
    connection.request(
        method, path, body if method == "POST" else None, {"Content-Type": "application/json", **headers}
    )
    return connection.getresponse().status


def test_page_of_another_site_is_answered_nothing(uri, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE", "true")
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "marker"
    for name in ("mlflow.py", "uvicorn.py", "fastapi.py"):
        (tmp_path / name).write_text(f"import os\nos.makedirs({str(marker)!r}, exist_ok=True)\n")
    with serving(uri) as server:
        port = urllib.parse.urlsplit(server.address).port
        assert server.address.startswith("http://127.0.0.1:")
        assert _status(server.address, "GET", {}) == 200
        for own in (f"localhost:{port}", "localhost:8080", "localhost"):
            # 8080: through a forwarded port.
            assert _status(server.address, "GET", {"Host": own}) == 200, own
        for rebound in ("evil.example", f"evil.example:{port}", "10.0.0.1:5000", f"192.168.1.1:{port}"):
            assert _status(server.address, "GET", {"Host": rebound}) == 403, rebound
        assert _status(server.address, "POST", {"Origin": "https://evil.example"}) == 403
        assert _status(server.address, "POST", {}) == 200
    assert not marker.exists(), "a module of the working directory was imported"


@pytest.mark.soak
def test_page_of_another_site_is_answered_without_the_protection(uri, monkeypatch):
    careful = ui._environment

    def careless(*given):
        return careful(*given) | {"MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE": "true"}

    monkeypatch.setattr(ui, "_environment", careless)
    with serving(uri) as server:
        assert _status(server.address, "GET", {"Host": "evil.example"}) == 200
        assert _status(server.address, "POST", {"Origin": "https://evil.example"}) == 200
