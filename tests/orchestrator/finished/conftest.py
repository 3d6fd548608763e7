"""The finished run that tests of its uses share; they leave it as it was. And a port."""

import socket

import pytest
from noise_run import finished_run, write_noise

from workers.settings.dataset import Keep
from workers.settings.training import Crops


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def run(images, tmp_path_factory):
    """A finished run of two members, combined geometrically."""
    return finished_run(images, tmp_path_factory, Keep.centre, Crops.ten)


@pytest.fixture
def unused_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
