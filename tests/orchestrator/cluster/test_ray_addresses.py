"""Addresses that no launch can join by: each gets one line that says what to give instead."""

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.exceptions import AuthenticationError, RpcError

from orchestrator.cluster import ray_session
from orchestrator.cluster.ray_session import _find, _storage, shipped
from workers.errors import ConfigError

_ENSURE = "ray._private.authentication.authentication_token_setup.ensure_token_if_auth_enabled"


@pytest.fixture
def raylet(tmp_path):
    """The socket of a node's Ray."""
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "raylet"))
        yield tmp_path / "raylet"


@pytest.fixture
def ray_parts(monkeypatch, raylet):
    """What the session asks of Ray, as on a node of a cluster that lets it in."""
    monkeypatch.setattr(ray_session, "_NODE_STARTS_S", 0.0)
    monkeypatch.setattr(_ENSURE, lambda *_, **__: None)
    monkeypatch.setattr("ray._private.services._find_address_from_flag", lambda flag: {str(raylet)})
    monkeypatch.setattr(
        "ray._raylet.GcsClient", lambda address: SimpleNamespace(internal_kv_get=lambda *_, **__: b"memory")
    )
    return monkeypatch


@pytest.mark.parametrize(
    ("address", "environment", "named"),
    [
        ("ray://head:10001", "", "cluster.address=ray://head:10001:"),
        ("auto", "http://head:8265", "cluster.address=auto (RAY_ADDRESS=http://head:8265):"),
    ],
)
def test_ray_client_s_and_the_dashboard_s_addresses_are_refused_and_what_to_do_is_said(
    monkeypatch, address, environment, named
):
    monkeypatch.setenv("RAY_ADDRESS", environment)
    with pytest.raises(ConfigError, match=r"give the head's HOST:6379, or auto.*ray job submit") as caught:
        _find(address)
    assert str(caught.value).startswith(named)


@pytest.mark.parametrize("address", ["", "local", "10.0.0.1", "10.0.0.1:port"])
def test_what_is_no_address_is_refused_and_ray_does_not_look_for_another_cluster(address):
    with pytest.raises(ConfigError, match=r"give the head's HOST:6379, or auto; or leave it out") as caught:
        _find(address)
    assert str(caught.value).startswith(f"cluster.address={address}: ")


def test_head_that_does_not_answer_a_question_in_time_is_told_in_one_line(ray_parts):
    def refuse(*_, **__):
        raise RpcError("Deadline exceeded\nhalf a page")

    ray_parts.setattr("ray._raylet.GcsClient", lambda address: SimpleNamespace(internal_kv_get=refuse))
    with pytest.raises(ConfigError, match=r"^there: no Ray cluster answers there \(Deadline exceeded\)$"):
        _storage("there", "10.0.0.1:6379")


def test_machine_without_a_node_is_told_to_start_one_or_to_submit(ray_parts):
    assert _storage("there", "10.0.0.1:6379") == b"memory"
    ray_parts.setattr("ray._private.services._find_address_from_flag", lambda flag: set())
    with pytest.raises(ConfigError, match=r"no node of that cluster.*ray start --address=10\.0\.0\.1:6379.*ray job"):
        _storage("there", "10.0.0.1:6379")


def test_machine_whose_container_runs_a_node_is_no_node_itself(ray_parts, raylet):
    raylet.unlink()
    with pytest.raises(ConfigError, match="no node of that cluster"):
        _storage("there", "10.0.0.1:6379")


def test_token_that_is_refused_names_the_variables_in_one_line(ray_parts):
    def refuse(address):
        raise AuthenticationError("half\na page")

    ray_parts.setattr("ray._raylet.GcsClient", refuse)
    with pytest.raises(ConfigError, match=r"RAY_AUTH_TOKEN_PATH to a file.*RAY_AUTH_TOKEN to the token") as caught:
        _storage("there", "10.0.0.1:6379")
    assert "page" not in str(caught.value)


def test_token_mode_without_a_token_is_told_before_ray_is_asked(ray_parts):
    def refuse(*_, **__):
        raise AuthenticationError("no token was found")

    ray_parts.setattr(_ENSURE, refuse)
    with pytest.raises(ConfigError, match="RAY_AUTH_TOKEN_PATH"):
        _storage("there", "10.0.0.1:6379")


def test_shipped_packages_are_folders_with_their_compiled_kernels_and_no_wheel():
    modules = [Path(path) for path in shipped()["py_modules"]]
    assert [path.name for path in modules] == ["orchestrator", "workers", "conf", "septet.py"]
    assert all(path.is_dir() or path.name == "septet.py" for path in modules)
    assert (modules[1] / "numerics.py").is_file()
