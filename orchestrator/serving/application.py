"""The HTTP application: images in, classes out. It reads what a request holds, and never a path or an address."""

import asyncio
import base64
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser
from werkzeug.http import parse_options_header

from orchestrator.loaded import LoadedEnsemble
from orchestrator.run import RunPaths
from orchestrator.serving.batches import Asked, Batches
from workers.errors import DataError
from workers.storage import parse_json

_FORMS = 'an image (image/*), files (multipart/form-data) or {"images": [base64, …]} (application/json)'
_DECODERS = 2
# An image counts as so many bytes until it is answered, so that images that compress well cannot fill memory.
_IMAGE_BYTES = 1 << 19
_DECIMALS = 8


@dataclass(frozen=True)
class Limits:
    """What is refused: more than this."""

    body_bytes: int = 16 << 20  # of a request: 413
    body_s: float = 30.0  # until a request has arrived whole: 408
    images: int = 32  # of a request: 422
    pixels: int = 50_000_000  # of an image: 422
    held_bytes: int = 128 << 20  # of all requests that are not answered yet: 503
    connections: int = 4096  # 503


def application(root: Path, *, trust_code: bool = False, limits: Limits | None = None) -> Starlette:
    """Loads a finished run's ensemble and returns the ASGI application that answers with it.

    Raises:
        SeptetError: as `LoadedEnsemble.open` and `load`.
    """
    service = _Service(LoadedEnsemble.open(RunPaths(root), trust_code=trust_code), limits or Limits())
    routes = [Route("/", service.about), Route("/health", service.health)]
    routes.append(Route("/predict", service.predict, methods=["POST"]))
    return Starlette(routes=routes, exception_handlers={HTTPException: _refused})


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


class _Service:
    """Answers requests. Decoders and `Batches` have threads of their own; the rest is the event loop's."""

    def __init__(self, ensemble: LoadedEnsemble, limits: Limits) -> None:
        rules = replace(ensemble.rules, max_pixels=min(limits.pixels, ensemble.rules.max_pixels))
        self._ensemble, self._limits, self._held = replace(ensemble, rules=rules), limits, 0
        self._decoders, self._batches = ThreadPoolExecutor(_DECODERS, "septet-decode"), Batches(self._answer)
        self._checkpoints = ensemble.load()
        # The first prediction takes longer, so it is nobody's.
        ensemble.predict([np.zeros((ensemble.size, ensemble.size, 3), np.uint8)])

    async def health(self, _: Request) -> JSONResponse:
        # There is no application before its nets are loaded.
        return JSONResponse({"status": "ready"})

    async def about(self, _: Request) -> JSONResponse:
        one = self._ensemble
        weights = zip(one.members, one.combination.weights, strict=True)
        members = [
            {"name": name, "weight": weight, "checkpoint_sha256": self._checkpoints[name]} for name, weight in weights
        ]
        run = {"experiment": one.plan.experiment, "plan_hash": one.plan.hash, "data_digest": one.store.digest}
        served = {"classes": one.classes, "size": one.size, "combine": one.combination.method, "members": members}
        return JSONResponse({**run, **served, "takes": _FORMS, "limits": asdict(self._limits)})

    async def predict(self, request: Request) -> JSONResponse:
        top, every = _number(request, "top", 5), _number(request, "probabilities", 0)
        kind, options = parse_options_header(request.headers.get("content-type", ""))
        if not kind.startswith("image/") and kind not in ("multipart/form-data", "application/json"):
            raise HTTPException(415, f"content type {kind or 'missing'}: send {_FORMS}")
        run = partial(asyncio.get_running_loop().run_in_executor, self._decoders)
        with self._holding() as hold:
            body = await self._body(request, hold)
            images = await run(_images_of, kind, options, body, self._limits.images)
            hold(_IMAGE_BYTES * len(images))
            pixels = await run(self._decoded, images)
            wanted = len(self._ensemble.classes) if every else max(1, top)
            found = await self._batches.ask(pixels, [name for name, _ in images], wanted)
        for one in found:
            if every:
                one["probabilities"] = {each["class"]: each["probability"] for each in one["top"]}
            one["top"] = one["top"][:top]
        return JSONResponse({"predictions": found})

    async def _body(self, request: Request, hold: Callable[[int], None]) -> bytes:
        """Reads a request's body; refuses it as soon as it is too large, too late, or too much beside the others."""
        most, body = self._limits.body_bytes, bytearray()
        too_large, said = HTTPException(413, f"more than {most} bytes"), request.headers.get("content-length", "")
        if said.isdecimal() and int(said) > most:
            raise too_large
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for chunk in request.stream():
                    hold(len(chunk))
                    body += chunk
                    if len(body) > most:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, "the request did not arrive in time", {"Connection": "close"}) from None
        except ClientDisconnect:
            raise HTTPException(400, "the request was cut off") from None
        return bytes(body)

    @contextmanager
    def _holding(self) -> Iterator[Callable[[int], None]]:
        """Yields what counts bytes as held until the block ends, and refuses those for which there is no room."""
        own = 0

        def hold(added: int) -> None:
            nonlocal own
            if self._held + added > self._limits.held_bytes:
                raise HTTPException(503, "too many requests at once", {"Retry-After": "1"})
            self._held, own = self._held + added, own + added

        try:
            yield hold
        finally:
            self._held -= own

    def _decoded(self, images: Sequence[tuple[str, bytes]]) -> list[np.ndarray]:
        try:
            return [self._ensemble.read(content, name) for name, content in images]
        except DataError as error:
            raise HTTPException(422, str(error)) from error

    def _answer(self, batch: Sequence[Asked]) -> list[list[dict[str, Any]]]:
        combined = self._ensemble.predict([image for asked in batch for image in asked.images])
        names = [name for asked in batch for name in asked.names]
        found = iter(self._ensemble.describe(combined, names, max(asked.top for asked in batch)))
        return [[_document(next(found).to_json(), asked.top) for _ in asked.images] for asked in batch]


def _document(found: dict[str, Any], top: int) -> dict[str, Any]:
    return {"name": found.pop("path"), **found["top"][0], **found, "top": found["top"][:top]}


def _images_of(kind: str, options: Mapping[str, str], body: bytes, most: int) -> list[tuple[str, bytes]]:
    """Returns name and content of each image in a body of content type `kind`."""
    try:
        if kind.startswith("image/"):
            return [("image", body)]
        if kind == "multipart/form-data":
            parser = MultiPartParser(lambda *_, **__: io.BytesIO(), max_form_parts=most)
            _, files = parser.parse(io.BytesIO(body), options.get("boundary", "").encode(), len(body))
            images = [(one.filename or name, one.stream.read()) for name, one in files.items(multi=True)]
        # A body of commas would become values of many times its size.
        elif body.count(b",") > 2 * most:
            raise ValueError("too many values")
        else:
            given = parse_json(body)["images"]
            images = [(f"image {place}", base64.b64decode(one, validate=True)) for place, one in enumerate(given)]
    except (ValueError, LookupError, TypeError, RequestEntityTooLarge) as error:
        raise HTTPException(400, f"cannot be read as {kind} ({error}): send {_FORMS}") from error
    if not 0 < len(images) <= most:
        raise HTTPException(422, f"{len(images)} images: send 1 to {most}")
    return images


def _number(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, str(default))
    if not given.isdecimal() or len(given) > _DECIMALS:
        raise HTTPException(422, f"{name}={given}: give a whole number")
    return int(given)
