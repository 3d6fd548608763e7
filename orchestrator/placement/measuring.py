"""Measures candidates as they would run: as many processes at once as there would be members, in step."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from orchestrator.placement.choice import HOPELESS, MOST_STEP_WORK, Candidate, Figure, is_hopeless
from orchestrator.plan import Stage
from workers.models import outline
from workers.protocol import Numerics
from workers.throughput import Request

_SECONDS = 0.6
_TURNS = 2


def measure(
    stage: Stage, candidates: Sequence[Candidate], numerics: Numerics, note: Callable[[str], None]
) -> tuple[Figure, ...]:
    """Times training steps of `stage` for every candidate that is not hopeless; a few seconds for small nets.

    Candidates take turns, and the better of two turns counts: what else runs on the machine only ever slows them. One
    that cannot be measured (its processes die, as for want of memory) has no figure.

    Args:
        stage: what is trained.
        candidates: what to measure, the default first, which has all its turns whatever the others did.
        numerics: device and kernels; threads and precision are the candidate's.
        note: hears a line for each turn.
    """
    best: dict[Candidate, Figure] = {}
    with ExitStack() as stack:
        processes: list[_Process] = []
        for turn in range(_TURNS):
            for candidate in candidates:
                if is_hopeless(candidate, best.values()) or (
                    turn and candidate != candidates[0] and not _may_win(candidate, best)
                ):
                    continue
                note(f"measuring {candidate} ({turn + 1} of {_TURNS})")
                while len(processes) < candidate.members:
                    processes.append(stack.enter_context(_started()))
                rate = _rate(processes[: candidate.members], _request(stage, candidate, numerics))
                if rate is None:
                    # Whatever ended one may have ended others; those that live give their memory back.
                    for process in processes:
                        process.popen.kill()
                        process.popen.wait()
                    processes.clear()
                elif candidate not in best or rate > best[candidate].images_per_second:
                    best[candidate] = Figure(candidate, rate)
    return tuple(best.values())


def _may_win(candidate: Candidate, best: Mapping[Candidate, Figure]) -> bool:
    """Whether another turn can still bring `candidate` to the front."""
    most = max(figure.images_per_second for figure in best.values()) if best else 0.0
    return candidate in best and best[candidate].images_per_second * HOPELESS > most


def batch_size(stage: Stage) -> int:
    """The stage's own, or as much of it as is timed in a second or two."""
    macs = outline(stage.settings.model, stage.num_classes).num_macs
    return max(1, min(stage.settings.optimizer.batch_size, int(MOST_STEP_WORK / macs)))


def _request(stage: Stage, candidate: Candidate, numerics: Numerics) -> Request:
    chosen = Numerics(candidate.threads, candidate.precision, numerics.device, numerics.kernels)
    return Request(stage.settings, stage.num_classes, chosen, batch_size(stage), _SECONDS)


@dataclass(frozen=True)
class _Process:
    """One that answers requests."""

    popen: "subprocess.Popen[bytes]"

    def send(self, data: bytes) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(data)
        self.popen.stdin.flush()

    def line(self) -> str:
        """Waits for a line; empty when the process has ended."""
        assert self.popen.stdout is not None
        return self.popen.stdout.readline().decode().strip()


@contextmanager
def _started() -> Iterator[_Process]:
    # No thread count is taken over from this process: each request sets its own.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    popen = subprocess.Popen(
        [sys.executable, "-P", "-m", "workers.throughput.process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
    )
    try:
        yield _Process(popen)
    finally:
        popen.kill()
        popen.communicate()


def _rate(processes: Sequence[_Process], request: Request) -> float | None:
    """Images a second of all together, or None where one of them has ended."""
    try:
        for process in processes:
            process.send(pickle.dumps(request))
        ready = [process.line() for process in processes]
        if not all(ready):
            return None
        for process in processes:
            process.send(b"\n")
        rates = [process.line() for process in processes]
    except BrokenPipeError:
        return None
    return sum(map(float, rates)) if all(rates) else None
