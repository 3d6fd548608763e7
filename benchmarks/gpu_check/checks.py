"""Defines what a check takes and returns, and runs checks one after another, each within its budget of time."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

# A check that has less time than this left is not started.
_LEAST_S = 10.0
_STDERR = 2
_CHECKOUT = Path(__file__).parents[2]


class Outcome(StrEnum):
    """How a check ended."""

    ok = "ok"
    failed = "failed"
    skipped = "skipped"
    not_run = "not run"


class Skipped(Exception):
    """The check does not apply to this machine; the text says why."""


@dataclass(frozen=True)
class Target:
    """Where checks run: `device` is "cuda" or "cpu"; `quick` takes tiny sizes; `so_far` holds earlier results."""

    device: str
    quick: bool
    scratch: Path
    so_far: Mapping[str, "Result"] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """What a check found: whether all is well, figures by name for the JSON, and lines for the page."""

    ok: bool
    figures: Mapping[str, Any]
    lines: Sequence[str]


@dataclass(frozen=True)
class Result:
    """One check's outcome; `reason` says why it failed, was skipped or was not run."""

    name: str
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""
    figures: Mapping[str, Any] = field(default_factory=dict)
    lines: Sequence[str] = ()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Result":
        return cls(**{**value, "outcome": Outcome(value["outcome"])})


@dataclass(frozen=True)
class Check:
    """A named check; `budget_s` is the most that it may take."""

    name: str
    budget_s: float
    run: Callable[[Target], Finding]


def perform(check: Check, target: Target) -> Result:
    """Runs a check in this process; an error is a failure of one line."""
    since = time.monotonic()

    def ended(outcome: Outcome, **parts: Any) -> Result:
        return Result(check.name, outcome, round(time.monotonic() - since, 1), **parts)

    try:
        found = check.run(target)
    except Skipped as skipped:
        return ended(Outcome.skipped, reason=str(skipped))
    except (Exception, SystemExit) as error:  # noqa: BLE001 Whatever it is, the page shows it and the others go on.
        return ended(Outcome.failed, reason=f"{type(error).__name__}: {_first_line(error)}")
    outcome = Outcome.ok if found.ok else Outcome.failed
    reason = "" if found.ok else next(iter(found.lines), "")
    return ended(outcome, reason=reason, figures=found.figures, lines=tuple(found.lines))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")[:200]


def perform_apart(check: Check, target: Target, timeout_s: float) -> Result:
    """Runs a check in a process of its own, which is killed with its children after `timeout_s`."""
    so_far, answer = target.scratch / "so-far.json", target.scratch / f"{check.name}.json"
    so_far.write_text(json.dumps([asdict(result) for result in target.so_far.values()]))
    command = [sys.executable, "-m", "benchmarks.gpu_check.one", check.name, target.device, str(int(target.quick)),
               str(target.scratch), str(so_far), str(answer)]  # fmt: skip
    since = time.monotonic()
    # A session of its own, so that contestants and launches end with it; what it says goes to stderr.
    process = subprocess.Popen(command, start_new_session=True, stdout=_STDERR, cwd=_CHECKOUT)
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return Result(check.name, Outcome.failed, timeout_s, f"not done after {timeout_s:.0f} s")
    finally:
        _kill_session(process)
    if answer.is_file():
        return Result.from_json(json.loads(answer.read_text()))
    seconds = round(time.monotonic() - since, 1)
    return Result(check.name, Outcome.failed, seconds, f"its process ended with code {code}, without a result")


def _kill_session(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def perform_all(
    checks: Sequence[Check],
    target: Target,
    limit_s: float,
    perform_one: Callable[[Check, Target, float], Result] = perform_apart,
    clock: Callable[[], float] = time.monotonic,
    report: Callable[[Result], None] = lambda _: None,
) -> list[Result]:
    """Runs checks in order, each within its budget; starts none that would end after `limit_s`, and lists those."""
    began, results = clock(), dict[str, Result]()
    for check in checks:
        left = limit_s - (clock() - began)
        if left < _LEAST_S:
            result = Result(check.name, Outcome.not_run, reason=f"the {limit_s / 60:.0f} minutes were over")
        else:
            seen = Target(target.device, target.quick, target.scratch, dict(results))
            result = perform_one(check, seen, min(check.budget_s, left))
        results[check.name] = result
        report(result)
    return list(results.values())
