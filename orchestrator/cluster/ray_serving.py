"""Answers HTTP with several copies of an application, as replicas of Ray Serve."""

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orchestrator.cluster.preflight import Needs
from orchestrator.cluster.ray_nodes import living_nodes, slots_of, usable_nodes
from orchestrator.cluster.ray_preflight import Preflight
from orchestrator.cluster.ray_session import attached, local
from orchestrator.text import counted
from workers.errors import ConfigError

if TYPE_CHECKING:
    from orchestrator.config import ClusterConfig

# Requests that a replica has at once, of which it refuses those that it has no memory for; the others wait outside it.
_AT_ONCE, _WAITING = 512, 512


def serve_replicas(
    settings: "ClusterConfig",
    needs: Needs,
    build: Callable[[], Any],
    num_replicas: int,
    address: tuple[str, int],
    request_s: float,
    ready: Callable[[], None],
) -> None:
    """Serves `num_replicas` of the ASGI application that `build` returns, at a host and port, until a signal raises.

    Every answer takes at most `request_s`. Calls `ready` when all can answer.

    Raises:
        ConfigError: Ray Serve is not installed or runs there already, or there is no room for that many.
    """
    with local() if settings.address is None else attached(settings):
        # Not before: Ray reads the environment as it is imported.
        try:
            from ray import serve
        except ModuleNotFoundError as error:
            raise ConfigError(f"--replicas: Ray Serve needs {error.name}: pip install 'septet[serve]'") from error
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        preflight = Preflight(needs)
        slots = sum(slots_of(node, *needs.room) for node in preflight.require(living_nodes()))
        if slots < num_replicas:
            raise ConfigError(f"--replicas {num_replicas}: there is room for {counted(slots, 'replica')} there")
        if serve.status().proxies:
            raise ConfigError("--replicas: Ray Serve runs on that cluster already, with a port of its own")
        asked = usable_nodes(preflight.left_out) | dict(zip(("num_cpus", "num_gpus"), needs.room, strict=True))
        # Ray Serve has its own.
        del asked["scheduling_strategy"]
        application = serve.deployment(
            num_replicas=num_replicas,
            ray_actor_options=asked,
            max_ongoing_requests=_AT_ONCE,
            max_queued_requests=_WAITING,
            max_constructor_retry_count=1,
        )(serve.ingress(_on_loopback(build))())
        host, port = address
        try:
            serve.start("HeadOnly", {"host": host, "port": port, "request_timeout_s": request_s})
            serve.run(application.bind(), logging_config={"log_level": "ERROR", "enable_access_log": False})
            ready()
            threading.Event().wait()
        finally:
            shutdown: Any = serve.shutdown
            shutdown()


def _on_loopback(build: Callable[[], Any]) -> Callable[[], Any]:
    """Returns `build` for a replica that listens to its machine alone."""

    def built() -> Any:
        from ray.serve._private import replica

        # Otherwise a replica unpickles what anybody sends to a port of every interface (2.60).
        module: Any = replica
        add_port = module.add_port_to_grpc_server
        module.add_port_to_grpc_server = lambda server, _: add_port(server, "127.0.0.1:0")
        return build()

    return built
