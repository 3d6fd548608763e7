"""Answers images over HTTP with a finished ensemble (`septet serve`); a request holds images, never a path or a URL."""

import asyncio
import base64
import io
import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from uvicorn.protocols.http.h11_impl import H11Protocol
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

from orchestrator.config import ClusterConfig
from orchestrator.finished.ensemble import LoadedEnsemble, Prediction
from orchestrator.run import RunPaths
from orchestrator.submission import read_manifest
from workers.errors import ConfigError, DataError
from workers.storage import parse_json

_FORMS = 'an image (image/*), files (multipart/form-data) or {"images": [base64, …]} (application/json)'
# How long an idle thread waits for more to predict, in seconds: clients that were just answered ask again in this time.
_WINDOW_S = 0.002
_DECODERS, _LAST_REQUESTS_S = 2, 30
# An image counts as so many bytes until it is answered, so that images that compress well cannot fill memory.
IMAGE_BYTES = 1 << 19


@dataclass(frozen=True)
class Limits:
    """What is refused: more than this."""

    body_bytes: int = 16 << 20  # of a request: 413
    body_s: float = 30.0  # until a request has arrived whole: 408
    images: int = 32  # of a request: 422
    pixels: int = 50_000_000  # of an image: 422
    held_bytes: int = 128 << 20  # of all requests that are not answered yet: 503
    connections: int = 4096  # 503


@dataclass
class _Asked:
    """Name and pixels of each image of a request, how many classes are wanted of it, and the answer."""

    images: Sequence[tuple[str, np.ndarray]]
    top: int
    found: Sequence[Prediction] = ()


class _Service:
    """Answers requests: two threads decode, one predicts, and the rest is the event loop's."""

    def __init__(self, ensemble: LoadedEnsemble, limits: Limits) -> None:
        rules = replace(ensemble.rules, max_pixels=min(limits.pixels, ensemble.rules.max_pixels))
        self._ensemble, self._limits, self._held = replace(ensemble, rules=rules), limits, 0
        self._decoders, self._predictor = (ThreadPoolExecutor(count) for count in (_DECODERS, 1))
        self._waiting, self._turn = list[_Asked](), asyncio.Lock()
        # The first prediction loads the nets, so it is nobody's.
        ensemble.predict([np.zeros((ensemble.size, ensemble.size, 3), np.uint8)])

    async def predict(self, request: Request) -> JSONResponse:
        top, body, held = request.query_params.get("top", "5")[:9], bytearray(), 0
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if not kind.startswith("image/") and kind not in ("multipart/form-data", "application/json"):
            raise HTTPException(415, f"content type {kind or 'missing'}: send {_FORMS}")
        if not top.isdecimal() or not int(top):
            raise HTTPException(422, f"top={top}: give a number of classes")
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for chunk in request.stream():
                    held += self._hold(len(chunk))
                    body += chunk
            held += self._hold(IMAGE_BYTES)
            loop = asyncio.get_running_loop()
            images = await loop.run_in_executor(self._decoders, self._read, kind, options, bytes(body))
            held += self._hold(sum(pixels.nbytes for _, pixels in images))
            await self._answer(asked := _Asked(images, int(top)))
        except TimeoutError:
            raise HTTPException(408, "the request did not arrive in time", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPException(400, "the request was cut off") from None
        finally:
            self._held -= held
        documents = (one.to_json(asked.top) for one in asked.found)
        return JSONResponse({"predictions": [{**one, **one["top"][0]} for one in documents]})

    def _hold(self, added: int) -> int:
        """Counts bytes as held, and returns them; refuses those for which there is no room."""
        if self._held + added > self._limits.held_bytes:
            raise HTTPException(503, "too many requests at once", {"Retry-After": "1"})
        self._held += added
        return added

    def _read(self, kind: str, options: Mapping[str, str], body: bytes) -> list[tuple[str, np.ndarray]]:
        """Returns name and pixels of each image in a body of content type `kind`."""
        images, most = [("image", body)], self._limits.images
        try:
            if kind == "multipart/form-data":
                parser = MultiPartParser(lambda *_, **__: io.BytesIO(), max_form_parts=most)
                _, files = parser.parse(io.BytesIO(body), options.get("boundary", "").encode(), len(body))
                images = [(one.filename or name, one.stream.read()) for name, one in files.items(multi=True)]
            elif kind == "application/json":
                # A JSON of commas would become values of many times its size.
                document = parse_json(body) if body.count(b",") < 2 * most else None
                if not isinstance(document, dict) or not isinstance(given := document.get("images"), list):
                    raise ValueError("no list of images")
                images = [(f"image {place}", base64.b64decode(one, validate=True)) for place, one in enumerate(given)]
            if not 0 < len(images) <= most:
                raise ValueError(f"{len(images)} images: send 1 to {most}")
            return [(name, self._ensemble.read(content, name)) for name, content in images]
        except (DataError, ValueError, TypeError, RequestEntityTooLarge) as error:
            raise HTTPException(422, f"{error}; send {_FORMS}") from error

    async def _answer(self, asked: _Asked) -> None:
        """Waits for the answer to `asked`. Whoever's turn comes asks for all that wait by then, as one batch."""
        self._waiting.append(asked)
        async with self._turn:
            # If the batch that it was in failed, it is asked again with newer ones.
            if not asked.found:
                await asyncio.sleep(_WINDOW_S)
                batch, self._waiting = [asked, *(one for one in self._waiting if one is not asked)], []
                await asyncio.get_running_loop().run_in_executor(self._predictor, self._predict, batch)

    def _predict(self, batch: Sequence[_Asked]) -> None:
        names, images = zip(*(image for asked in batch for image in asked.images), strict=True)
        combined = self._ensemble.predict(images)
        found = iter(self._ensemble.describe(combined, names, max(asked.top for asked in batch)))
        for asked in batch:
            asked.found = [next(found) for _ in asked.images]


def application(root: Path, *, trust_code: bool = False, limits: Limits | None = None) -> Starlette:
    """Loads a finished run's ensemble and returns the ASGI application that answers with it, or raises SeptetError."""
    limits, ensemble = limits or Limits(), LoadedEnsemble.open(RunPaths(root), trust_code=trust_code)
    members = [asdict(one) for one in read_manifest(ensemble.paths).members]
    run = {"experiment": ensemble.plan.experiment, "data_digest": ensemble.store.digest, "members": members}
    about = run | {"classes": ensemble.classes, "size": ensemble.size, "takes": _FORMS, "limits": asdict(limits)}
    # There is no application before its nets are loaded, so it is healthy.
    routes = [Route("/", lambda _: JSONResponse(about)), Route("/health", lambda _: JSONResponse({"status": "ready"}))]
    predict = _Service(ensemble, limits).predict
    return Starlette(routes=[*routes, Route("/predict", predict, methods=["POST"], max_body_size=limits.body_bytes)])


class _Punctual(H11Protocol):
    """Closes a connection that sends no whole header in time, of which no application hears."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(Limits().body_s, lambda: transport.close() if self.cycle is None else None)


def serve(
    paths: RunPaths,
    stream: IO[str],
    host: str,
    port: int,
    *,
    trust_code: bool = False,
    replicas: int | None = None,
    cluster: str | None = None,
) -> None:
    """Answers images with a run's ensemble until SIGTERM or Ctrl-C, and then the requests that have begun.

    Writes the address once the nets are loaded; port 0 takes a free one, and one that is taken is a ConfigError. With
    `replicas` or the address of a Ray cluster, so many processes of Ray Serve answer, there or here.
    """
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}; give another, or --port 0") from error
    port, build = listener.getsockname()[1], partial(application, paths.root.absolute(), trust_code=trust_code)

    def say() -> None:
        stream.write(f"serving http://{f'[{host}]' if ':' in host else host}:{port}\n")
        stream.flush()

    with listener:
        if replicas is None and cluster is None:
            options: dict[str, Any] = {"http": _Punctual, "ws": "none", "lifespan": "off", "server_header": False}
            options |= {"log_level": "warning", "access_log": False, "limit_concurrency": Limits().connections}
            server = uvicorn.Server(uvicorn.Config(build(), timeout_graceful_shutdown=_LAST_REQUESTS_S, **options))
            say()
            server.run([listener])
            return
    from orchestrator.cluster import serve_replicas

    opened, request_s = LoadedEnsemble.open(paths, trust_code=trust_code), Limits().body_s + _LAST_REQUESTS_S
    serve_replicas(ClusterConfig(cluster), opened.needs, build, replicas or 1, (host, port), request_s, say)
