"""What each verb does: asks the rooms, prints results to stdout, shows progress on stderr, gives the exit code.

Imports are inside the verbs: `septet status` must not wait for Ray, MLflow or Hydra to load.
"""

import json
import time
from collections.abc import Callable
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


def status(request: Request, streams: Streams) -> int:
    """One line a stage; with `--watch` until the run ends."""
    from orchestrator.run_dir import RunPaths
    from orchestrator.status import read_status, to_json, to_lines

    paths = RunPaths(_given(request.run_dir))
    if request.watch:
        if request.json:
            raise ConfigError("--watch and --json do not go together; ask again and again for --json instead")
        return _watch(paths.root, streams.out)
    now = read_status(paths)
    if request.json:
        _print_json(streams.out, to_json(now))
    else:
        streams.out.write("\n".join(to_lines(now)) + "\n")
    return _OK


def doctor(request: Request, streams: Streams) -> int:
    """Every check, a line each; 2 if one failed."""
    from orchestrator import doctor as judge
    from orchestrator.config import compose
    from orchestrator.machine import gather

    checks = judge.examine(gather(compose(request.overrides, request.config_dir)))
    if request.json:
        _print_json(streams.out, [asdict(check) for check in checks])
    else:
        streams.out.write("\n".join(judge.to_lines(checks)) + "\n")
    return _DOCTOR_FAILED if judge.has_failed(checks) else _OK


def _watch(run_dir: Path, out: IO[str], pause: Callable[[float], None] = time.sleep) -> int:
    from orchestrator.progress import Display
    from orchestrator.run_dir import RunPaths
    from orchestrator.status import State, read_status, to_lines

    display = Display(out)
    try:
        while (now := read_status(RunPaths(run_dir))).state is State.running:
            display.show(now)
            pause(_REFRESH_S)
    finally:
        display.close()
    out.write("\n".join(to_lines(now)) + "\n")
    return _OK


def _given(path: Path | None) -> Path:
    assert path is not None, "the parser lets no such request through"
    return path


def _print_json(out: IO[str], document: Any) -> None:
    out.write(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
