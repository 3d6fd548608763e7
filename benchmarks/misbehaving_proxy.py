"""Provides a proxy in front of an HTTP server that misbehaves on request, and counts what it did.

One thread with an asyncio loop. Each connection carries one request (`Connection: close`), so a fault affects whole
requests. `serving_badly` returns a `Proxy` that forwards correctly until its `fault` is set.
"""

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

_HEAD_END = b"\r\n\r\n"


class Fault(StrEnum):
    """A way to mishandle a request."""

    none = "none"
    reset = "reset"  # the connection is reset before anything is read
    hang = "hang"  # read, never forwarded, never answered
    error = "error"  # 500 with a page that is not JSON; not forwarded
    absent = "absent"  # 404 with the page of whatever is in front of a server that is being restarted
    slow = "slow"  # forwarded after `delay_s`, even if the client gave up long before
    cut = "cut"  # forwarded; the answer is cut off in the middle
    drop_reply = "drop_reply"  # forwarded; no answer comes


class Proxy:
    """Applies `fault` to requests whose path contains `only`, at most `left` of them (None: all); `injected` counts."""

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self.port = 0
        self.fault = Fault.none
        self.only = ""
        self.left: int | None = None
        self.delay_s = 0.0
        self.injected: Counter[Fault] = Counter()
        self.paths: list[tuple[Fault, str]] = []
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def break_it(self, fault: Fault, only: str = "", left: int | None = None, delay_s: float = 0.0) -> None:
        """Applies a fault to all matching requests from now on."""
        self.only, self.left, self.delay_s = only, left, delay_s
        self.fault = fault

    def restore(self) -> None:
        """Forwards every request from now on."""
        self.fault = Fault.none

    def listen(self) -> None:
        """Listens: the first time on any free port, later on the same port."""
        self._call(self._listen())

    def refuse(self) -> None:
        """Stops listening: the kernel refuses connections."""
        self._call(self._refuse())

    def close(self) -> None:
        self._call(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        others = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await self._handle(reader, writer)
        writer.transport.abort()

    def _choose(self, path: str) -> Fault:
        fault = self.fault
        if fault is Fault.none or self.only not in path or self.left == 0:
            return Fault.none
        if self.left is not None:
            self.left -= 1
        self.injected[fault] += 1
        return fault

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(_HEAD_END)
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        body = await reader.readexactly(length)
        path = head.split(b" ", 2)[1].decode()
        fault = self._choose(path)
        self.paths.append((fault, path))
        match fault:
            case Fault.reset:
                return
            case Fault.hang:
                await asyncio.Event().wait()
            case Fault.error:
                writer.write(_page(b"500 Internal Server Error", b"<h1>worker died</h1>"))
            case Fault.absent:
                writer.write(_page(b"404 Not Found", b"<h1>no such service</h1>"))
            case _:
                if fault is Fault.slow:
                    await asyncio.sleep(self.delay_s)
                answer = await self._forward(head, body)
                if fault is Fault.drop_reply:
                    return
                # The whole head and half of the body: shorter than the announced length.
                end = answer.index(_HEAD_END) + len(_HEAD_END)
                writer.write(answer[: (end + len(answer)) // 2] if fault is Fault.cut else answer)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        kept = [line for line in head[: -len(_HEAD_END)].split(b"\r\n") if not line.lower().startswith(b"connection:")]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream_port)
        writer.write(b"\r\n".join([*kept, b"Connection: close"]) + _HEAD_END + body)
        await writer.drain()
        answer = await reader.read()
        writer.close()
        return answer


def _page(status: bytes, text: bytes) -> bytes:
    return (
        b"HTTP/1.1 " + status + b"\r\nContent-Type: text/html\r\nConnection: close\r\n"
        b"Content-Length: " + str(len(text)).encode() + _HEAD_END + text
    )


def free_port() -> int:
    """Returns a port on which nobody listens at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def serving_badly(upstream_port: int) -> Iterator[Proxy]:
    """Runs a proxy in front of `127.0.0.1:upstream_port`; it listens, and at first forwards everything."""
    proxy = Proxy(upstream_port)
    try:
        proxy.listen()
        yield proxy
    finally:
        proxy.close()
