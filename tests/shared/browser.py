"""Chromium without a window, driven over DevTools: what a page looks like at a width and in a colour scheme."""

import base64
import contextlib
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_START_S, _LOAD_S, _POLL_S = 60.0, 60.0, 0.05
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0")


class Browser:
    """One tab. Every answer is JSON; an error that JavaScript raises is an AssertionError here."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.call("Page.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Calls a method of DevTools and returns its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv(timeout=_LOAD_S))
            if said.get("id") == self._number:
                assert "error" not in said, f"{method}: {said}"
                return said["result"]

    def look(self, width: int, height: int = 900, *, dark: bool = False, paper: bool = False) -> None:
        """Sets width and height in pixels, which a window's own size cannot be below 500, colours and medium."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="print" if paper else "", features=[scheme])

    def show(self, page: Path | str) -> None:
        """Opens a file or an address, and returns when it is loaded."""
        self.call("Page.navigate", url=page.absolute().as_uri() if isinstance(page, Path) else page)
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    def evaluate(self, expression: str) -> Any:
        """Returns what a JavaScript expression is, as JSON's types; a promise is waited for."""
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait_for(self, condition: str, seconds: float = _LOAD_S) -> None:
        """Returns when a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(f"Boolean({condition})"):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}"
            time.sleep(_POLL_S)

    def press(self, key: str) -> None:
        """Presses a key, such as Tab, and lets it go."""
        codes = {"Tab": 9, "Enter": 13}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])

    def screenshot(self, path: Path) -> None:
        """Writes a PNG of the whole page."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """Yields a browser; skips the test where no chromium is installed."""
    program = next(filter(None, map(shutil.which, _NAMES)), None)
    if program is None:
        pytest.skip("no chromium is installed here: `apt-get install chromium` adds it")
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(Path(folder), process), max_size=None) as socket:
                yield Browser(socket)
        finally:
            process.kill()
            process.wait()


def _address(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    """Waits until the browser has said on which port it listens, and returns the address of its tab."""
    end, file = time.monotonic() + _START_S, folder / "DevToolsActivePort"
    while time.monotonic() < end:
        assert process.poll() is None, f"{process.args} ended with {process.returncode}"
        with contextlib.suppress(OSError, ValueError, IndexError, StopIteration):
            port = int(file.read_text().splitlines()[0])
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                return next(tab["webSocketDebuggerUrl"] for tab in json.load(answer) if tab["type"] == "page")
        time.sleep(_POLL_S)
    raise AssertionError(f"{process.args}: no tab after {_START_S} s")
