"""Measures candidates as they would run: one process for each member, all at the same time.

The rates are stored beside the datasets, so that a machine measures once and always makes the same choice.
"""

import hashlib
import json
import logging
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator.placement.choice import HOPELESS, MOST_STEP_WORK, Candidate, is_hopeless, macs
from orchestrator.plan import Stage
from workers.errors import StorageError
from workers.protocol import COMPILE_MODES, Numerics
from workers.storage import parse_json, write_json
from workers.throughput import Request

_SECONDS = 0.6
_TURNS = 2
_MODE_TIMEOUT_S = 300
_ASK_GPU = "from workers.throughput.measure import gpu_precision; print(gpu_precision())"
_GPU_TIMEOUT_S = 120

_log = logging.getLogger(__name__)
_Process = subprocess.Popen[bytes]


def measure(
    stage: Stage, candidates: Sequence[Candidate], numerics: Numerics, note: Callable[[str], None]
) -> dict[Candidate, float]:
    """Times training steps of `stage` for every candidate that is not hopeless; takes a few seconds for small nets.

    Candidates take turns, and the better of two turns counts, since other work on the machine only slows them. The
    first candidate is the default and always gets both turns. `numerics` gives device and kernels. `note` is called
    with a line before each turn.

    Returns:
        Images per second of all members together. A candidate whose processes die, say of too little memory, has none.
    """
    batch_size = max(1, min(stage.recipe.optimizer.most_at_once, int(MOST_STEP_WORK / macs(stage))))
    best: dict[Candidate, float] = {}
    processes: list[_Process] = []
    try:
        for turn in range(_TURNS):
            for candidate in candidates:
                behind = best.get(candidate, 0.0) * HOPELESS <= max(best.values(), default=0.0)
                if is_hopeless(candidate, best) or (turn and candidate != candidates[0] and behind):
                    continue
                note(f"measuring {candidate} ({turn + 1} of {_TURNS})")
                processes += [_start() for _ in range(candidate.members - len(processes))]
                asked = replace(numerics, threads=candidate.threads, precision=candidate.precision)
                request = Request(stage.recipe, stage.num_classes, asked, batch_size, _SECONDS)
                rate = _rate(processes[: candidate.members], request)
                if rate is None:
                    # The cause may have ended others too; ending the rest frees their memory.
                    _end(processes)
                    processes = []
                else:
                    best[candidate] = max(rate, best.get(candidate, 0.0))
    finally:
        _end(processes)
    return best


def measure_modes(stage: Stage, numerics: Numerics, note: Callable[[str], None]) -> dict[str, float]:
    """Times training steps of `stage` on a GPU for each of `COMPILE_MODES`, each in a process of its own.

    A step is that of the most images that go through the net at once; graphs are left out where a batch goes through it
    in pieces, since training has none there.

    Returns:
        Images per second of one member alone. A mode whose process ends, or takes minutes, has none.
    """
    rates: dict[str, float] = {}
    optimizer = stage.recipe.optimizer
    modes = [mode for mode in COMPILE_MODES if mode != "graphs" or optimizer.most_at_once == optimizer.batch_size]
    for mode in modes:
        note(f"measuring compile={mode} on a GPU")
        asked = replace(numerics, compile=mode)
        process = _start()
        limit = threading.Timer(_MODE_TIMEOUT_S, process.kill)
        limit.start()
        try:
            request = Request(stage.recipe, stage.num_classes, asked, optimizer.most_at_once, _SECONDS)
            rate = _rate([process], request)
        finally:
            limit.cancel()
            _end([process])
        if rate is not None:
            rates[mode] = rate
    return rates


def ask_gpu() -> str:
    """Returns the GPU's half precision; asks in another process, so that this one holds no GPU memory."""
    command = [sys.executable, "-P", "-c", _ASK_GPU]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return "fp32"
    return asked.stdout.strip()


def _start() -> _Process:
    # Each request sets its own thread count, so this process's is not inherited.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, "-P", "-m", "workers.throughput.process"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=environment)


def _end(processes: Iterable[_Process]) -> None:
    for process in processes:
        process.kill()
        process.communicate()


def _rate(processes: Sequence[_Process], request: Request) -> float | None:
    """Returns the images per second of all processes together, or None if one has ended."""
    try:
        ready = _ask(processes, pickle.dumps(request))
        rates = _ask(processes, b"\n") if all(ready) else []
    except BrokenPipeError:
        return None
    return sum(map(float, rates)) if rates and all(rates) else None


def _ask(processes: Sequence[_Process], message: bytes) -> list[bytes]:
    """Sends `message` to all, then reads one line from each; the line of a process that has ended is empty."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(message)
        process.stdin.flush()
    return [process.stdout.readline() for process in processes if process.stdout is not None]


def rates_file(store: Path, about: Mapping[str, Any]) -> Path:
    """Returns the file for the rates measured of `about`: a JSON value of all that they depend on."""
    return store / "placement" / f"{hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]}.json"


def read_rates(store: Path, about: Mapping[str, Any]) -> dict[Candidate, float]:
    """Returns the stored rates of `about`; none if the file is absent or damaged, so that they are measured again."""
    path = rates_file(store, about)
    try:
        entries = parse_json(path.read_text())["figures"]
        rates = {Candidate(**entry["candidate"]): float(entry["images_per_second"]) for entry in entries}
        if not all(0 < rate < math.inf for rate in rates.values()):
            raise ValueError("a rate is not a positive number")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s: cannot be read (%s); measuring again", path, error)
        return {}
    return rates


def write_rates(store: Path, about: Mapping[str, Any], rates: Mapping[Candidate, float]) -> None:
    """Stores the rates of `about`; if the folder is not writable, they are measured again next time."""
    figures = [{"candidate": asdict(candidate), "images_per_second": rate} for candidate, rate in rates.items()]
    try:
        write_json(rates_file(store, about), {"about": about, "figures": figures})
    except (StorageError, OSError) as error:
        _log.warning("%s: rates not stored (%s)", store, error)
