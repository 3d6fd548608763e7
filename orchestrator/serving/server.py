"""Runs the HTTP application until a signal: in this process, or as replicas of Ray Serve."""

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from orchestrator.cluster import serve_replicas
from orchestrator.run import RunPaths
from orchestrator.serving.application import Limits, application
from workers.errors import ConfigError

_LAST_REQUESTS_S = 30


class _Punctual(H11Protocol):
    """Closes a connection that sends no whole header in time, of which no application hears."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(Limits().body_s, self._close_without_header)

    def _close_without_header(self) -> None:
        if self.cycle is None:
            self.transport.close()


def serve(
    paths: RunPaths, say: Callable[[str], Any], host: str, port: int, replicas: int = 0, *, trust_code: bool = False
) -> None:
    """Answers images with a run's ensemble until SIGTERM or Ctrl-C, and then the requests that have begun.

    Args:
        paths: the run directory.
        say: called with the address once the nets are loaded.
        host: the address of this machine to listen on.
        port: 0 takes any free one.
        replicas: processes of Ray Serve; 0: this process alone.
        trust_code: runs the code of nets that the run keeps.

    Raises:
        ConfigError: the port is taken or not allowed, or there are fewer cores than replicas.
        SeptetError: as `application`.
    """
    build = partial(application, paths.root.absolute(), trust_code=trust_code)
    with _listening(host, port) as listener:
        port = listener.getsockname()[1]
        told = partial(say, f"serving http://{f'[{host}]' if ':' in host else host}:{port}")
        if not replicas:
            own: dict[str, Any] = {"http": _Punctual, "ws": "none", "lifespan": "off", "server_header": False}
            own |= {"log_level": "warning", "access_log": False, "limit_concurrency": Limits().connections}
            server = uvicorn.Server(uvicorn.Config(build(), timeout_graceful_shutdown=_LAST_REQUESTS_S, **own))
            told()
            return server.run([listener])
    # Ray Serve's proxy listens itself.
    return serve_replicas(build, replicas, host, port, told)


def _listening(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}; give another, or --port 0") from error
