"""What each verb does: asks the rooms, prints results to stdout, shows progress on stderr, gives the exit code.

Imports are inside the verbs: `septet status` must not wait for Ray, MLflow or Hydra to load.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from orchestrator.arguments import Request
from workers.errors import ConfigError

_OK = 0
_DOCTOR_FAILED = 2
_REFRESH_S = 1.0


@dataclass(frozen=True)
class Streams:
    """Where results go, and where progress and complaints go."""

    out: IO[str]
    err: IO[str]

    def results(self, lines: Iterable[str]) -> None:
        """Each line to stdout."""
        self.out.write("".join(f"{line}\n" for line in lines))

    def document(self, value: Any) -> None:
        """One JSON document to stdout."""
        self.out.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")

    def progress(self, line: str) -> None:
        """A line to stderr."""
        self.err.write(f"{line}\n")
        self.err.flush()


def status(request: Request, streams: Streams) -> int:
    """One line a stage; with `--watch` until the run ends."""
    from orchestrator.run_dir import RunPaths
    from orchestrator.status import read_status, to_json, to_lines

    paths = RunPaths(_given(request.run_dir))
    if request.watch and request.json:
        raise ConfigError("--watch and --json do not go together; ask again and again for --json instead")
    if request.watch:
        watch(paths.root, streams)
    now = read_status(paths)
    if request.json:
        streams.document(to_json(now))
    else:
        streams.results(to_lines(now))
    return _OK


def watch(run_dir: Path, streams: Streams, pause: Callable[[float], None] = time.sleep) -> None:
    """Shows how the run gets on, until no process works on it."""
    from orchestrator.progress import Display
    from orchestrator.run_dir import RunPaths
    from orchestrator.status import State, read_status

    display = Display(streams.out)
    try:
        while (now := read_status(RunPaths(run_dir))).state is State.running:
            display.show(now)
            pause(_REFRESH_S)
    finally:
        display.close()


def predict(request: Request, streams: Streams) -> int:
    """The ensemble's best classes for each image."""
    from orchestrator.predict_images import check_out, predict_images, to_json, to_lines, write_out
    from orchestrator.run_dir import RunPaths

    if request.out is not None:
        check_out(request.out)
    found = predict_images(RunPaths(_given(request.run_dir)), request.images, request.top, streams.progress)
    if request.out is not None:
        write_out(request.out, found)
        streams.progress(f"{len(found)} images: {request.out}")
    if request.json:
        streams.document(to_json(found))
    elif request.out is None:
        streams.results(to_lines(found))
    return _OK


def doctor(request: Request, streams: Streams) -> int:
    """Every check, a line each; 2 if one failed."""
    from orchestrator.config import compose
    from orchestrator.doctor import examine, has_failed, to_lines
    from orchestrator.machine import gather

    checks = examine(gather(compose(request.overrides, request.config_dir)))
    if request.json:
        streams.document([asdict(check) for check in checks])
    else:
        streams.results(to_lines(checks))
    return _DOCTOR_FAILED if has_failed(checks) else _OK


def _given(path: Path | None) -> Path:
    assert path is not None, "the parser lets no such request through"
    return path


VERBS: dict[str, Callable[[Request, Streams], int]] = {
    "status": status,
    "predict": predict,
    "doctor": doctor,
}
