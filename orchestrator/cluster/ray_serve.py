"""Answers HTTP requests by several processes of Ray Serve, on a Ray of this machine."""

import threading
from collections.abc import Callable
from typing import Any

from orchestrator.cluster.ray_session import available_cpus, local
from workers.errors import ConfigError


def serve_replicas(build: Callable[[], Any], replicas: int, host: str, port: int, told: Callable[[], Any]) -> None:
    """Serves the ASGI application that `build` makes in each replica, until a signal; calls `told` once all answer.

    Raises:
        ConfigError: there are fewer cores than replicas.
    """
    if replicas > available_cpus():
        raise ConfigError(f"--replicas {replicas}: each takes a core, and there are {available_cpus()}; give fewer")
    with local():
        from ray import serve

        # Ray Serve calls a function in each replica, and would copy any other object.
        deployed = serve.deployment(num_replicas=replicas, max_ongoing_requests=64)(serve.ingress(lambda: build())())
        serve.start(http_options={"host": host, "port": port})
        try:
            serve.run(deployed.bind(), name="septet")
            told()
            threading.Event().wait()
        finally:
            serve.shutdown()  # type: ignore[no-untyped-call]
