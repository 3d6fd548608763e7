"""Shows where the time of a launch goes: when each phase began, how long it took, and the CPU it used.

    python -m benchmarks.launch_timeline [OVERRIDE …]

It launches the digits with `ensemble=five schedule.epochs=1` in an empty folder, and times functions of the launch from
inside its process. Phases may overlap, and lie in each other. CPU is that of the launch's own process, all threads.
"""

import functools
import importlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks import scripts

_BEGAN = "SEPTET_TIMELINE_BEGAN"
_LOOK_EVERY_S = 0.05
# Functions and context managers of the launch, as `module:attribute`, where they are looked up.
_FUNCTIONS = (
    "orchestrator.config:compose",
    "orchestrator.launching:survey_all",
    "orchestrator.launching:checked_plan",
    "orchestrator.launching:code_digest",
    "orchestrator.launching:prepare_all",
    "orchestrator.launching:_choose_numerics",
    "orchestrator.tracking.connection:_set_up_mlflow",
    "orchestrator.tracking.connection:make_database",
    "orchestrator.tracking.tracker:Tracker.wait_until_open",
    "orchestrator.cluster.ray_session:load",
    "orchestrator.tracking.mlflow_store:connect",
    "orchestrator.tracking.tracker:Tracker._open",
    "orchestrator.tracking.tracker:Tracker.close",
    "orchestrator.execution.driver:Driver.take_stock",
    "orchestrator.execution.driver:Driver.run",
    "orchestrator.launching:_results",
    "orchestrator.outputs:open_members",
    "orchestrator.outputs:write_submission",
    "orchestrator.outputs:write_report",
    "orchestrator.outputs:Results.publish",
    "orchestrator.cluster.ray_backend:RayCluster.warm_up",
    "orchestrator.cluster.ray_backend:RayCluster.close",
    "ray:init",
    "ray:shutdown",
    "orchestrator.launching:launch",
)
_CONTEXTS = ("orchestrator.cluster.ray_backend:open_cluster", "orchestrator.cluster.process_guard:guarding")


def _say(name: str, began: float, cpu_s: float) -> None:
    now, start = time.time(), float(os.environ[_BEGAN])
    line = f"TIMELINE {began - start:.3f} {now - began:.3f} {time.process_time() - cpu_s:.3f} {name}\n"
    os.write(2, line.encode())


def _timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        began, cpu_s = time.time(), time.process_time()
        try:
            return function(*given, **named)
        finally:
            _say(name, began, cpu_s)

    return call


def _timed_ends(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Times how long a context manager takes to open and to close."""

    @contextmanager
    def call(*given: Any, **named: Any) -> Any:
        entered = function(*given, **named)
        value = _timed(f"{name}, opening", entered.__enter__)()
        try:
            yield value
        except BaseException as error:
            if not entered.__exit__(type(error), error, error.__traceback__):
                raise
        else:
            _timed(f"{name}, closing", entered.__exit__)(None, None, None)

    return call


class _Watch:
    """A finder on `sys.meta_path` that times functions of a module once it has been loaded."""

    def __init__(self) -> None:
        self._wanted: dict[str, list[tuple[str, Callable[..., Any]]]] = {}
        for where, wrap in (*((one, _timed) for one in _FUNCTIONS), *((one, _timed_ends) for one in _CONTEXTS)):
            module, _, attribute = where.partition(":")
            self._wanted.setdefault(module, []).append((attribute, wrap))

    def find_spec(self, name: str, *_: Any) -> Any:
        if name not in self._wanted:
            return None
        wanted = self._wanted.pop(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            began, cpu_s = time.time(), time.process_time()
            run(module)
            _say(f"import {name}", began, cpu_s)
            for attribute, wrap in wanted:
                *holders, last = attribute.split(".")
                holder = functools.reduce(getattr, holders, module)
                setattr(holder, last, wrap(f"{name.removeprefix('orchestrator.')}:{attribute}", getattr(holder, last)))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _inside(words: list[str]) -> None:
    """Runs the command with its functions timed."""
    _say("Python", psutil.Process().create_time(), 0.0)
    sys.meta_path.insert(0, _Watch())  # type: ignore[arg-type]
    sys.argv = ["septet", *words]
    from orchestrator.cli.program import main

    code = _timed("main", main)()
    began = time.time()
    import atexit

    # Registered first, so it runs last of all.
    atexit._run_exitfuncs()
    _say("exit functions", began, 0.0)
    sys.exit(code)


def _processor_seconds(launched: psutil.Popen) -> dict[tuple[int, str], float]:
    """Waits for the launch; returns the CPU of its processes, by number and name, as last seen alive."""
    used: dict[int, float] = {}
    names: dict[int, str] = {}
    while launched.poll() is None:
        with suppress(psutil.Error):
            for one in (launched, *launched.children(recursive=True)):
                with suppress(psutil.Error):
                    words, spent = one.cmdline() or [one.name()], one.cpu_times()
                    named = " ".join(Path(word).name for word in words if not word.startswith("-"))[:70]
                    used[one.pid] = spent.user + spent.system
                    names[one.pid] = named
        time.sleep(_LOOK_EVERY_S)
    return {(pid, names[pid]): seconds for pid, seconds in used.items()}


def _attempts(run_dir: Path, began: float) -> list[str]:
    """Returns lines on the attempts of the run's jobs, from its ledger."""
    from orchestrator.run import RunPaths, read_ledger

    lines = []
    contents = read_ledger(RunPaths(run_dir).ledger)
    for job, entry in (*contents.stages.items(), *contents.predictions.items()):
        for one in entry.attempts:
            took = (one.ended or 0.0) - one.started
            lines.append(f"{one.started - began:.3f} {took:.3f} 0 job {job}")
    return lines


def main() -> None:
    if sys.argv[1:2] == ["--inside"]:
        _inside(sys.argv[2:])
        return
    with tempfile.TemporaryDirectory(prefix="septet-timeline-") as scratch:
        folder = Path(scratch)
        began = time.time()
        command = [
            sys.executable, "-m", "benchmarks.launch_timeline", "--inside", "launch",
            "ensemble=five", "schedule.epochs=1", f"run_dir={folder / 'run'}", f"datasets.store={folder / 'store'}",
            *sys.argv[1:],
        ]  # fmt: skip
        environment = {**scripts.environment(), _BEGAN: str(began)}
        with (folder / "stderr").open("wb") as file:
            launched = psutil.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=file)
            used = _processor_seconds(launched)
        took, said = time.time() - began, (folder / "stderr").read_text()
        lines = re.findall(r"^TIMELINE (.*)$", said, re.MULTILINE)
        if launched.returncode:
            print(said)
        lines += _attempts(folder / "run", began)
        print(f"{'at':>7} {'took':>7} {'CPU':>7}  phase")
        for line in sorted(lines, key=lambda line: float(line.split()[0])):
            at, seconds, cpu, name = line.split(" ", 3)
            print(f"{float(at):7.2f} {float(seconds):7.2f} {float(cpu):7.2f}  {name}")
        print(f"{took:7.2f} whole launch, exit code {launched.returncode}")
        for (pid, name), seconds in sorted(used.items()):
            print(f"{seconds:7.2f} CPU  {pid} {name}")
        print(f"{sum(used.values()):7.2f} CPU of all processes")


if __name__ == "__main__":
    main()
