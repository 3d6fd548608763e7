"""Formats rows as one markdown table, and as JSON."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from benchmarks.row import Measure, Row

HEAD = "| what | ours | beside | limit | unit | ratio (range) | wanted | repeats | note |"


def _ratio(value: float, measure: Measure) -> str:
    return f"{100 * value:.1f} %" if measure is Measure.share else f"{_figure(value)} {measure}"


def _figure(value: float | None) -> str:
    """Formats a figure with three significant digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def markdown_line(row: Row) -> str:
    """Formats the row as a line below `HEAD`; a missed bound is marked."""
    low, high = _ratio(row.ratio.low, row.measure), _ratio(row.ratio.high, row.measure)
    wanted = ""
    if row.wanted is not None:
        met = "met" if row.wanted.met(row.ratio.median) else "**missed**"
        wanted = f"{'≥' if row.wanted.at_least else '≤'} {_ratio(row.wanted.bound, row.measure)}: {met}"
    cells = (
        row.name,
        *(_figure(value) for value in (row.ours, row.peer, row.limit)),
        row.unit,
        f"{_ratio(row.ratio.median, row.measure)} ({low} to {high})",
        wanted,
        str(row.repeats),
        row.note,
    )
    return f"| {' | '.join(cells)} |"


def markdown(rows: Sequence[Row]) -> str:
    rule = "|---" * (HEAD.count("|") - 1) + "|"
    return "\n".join((HEAD, rule, *map(markdown_line, rows)))


def machine() -> dict[str, Any]:
    """Returns a description of the machine that the figures were measured on."""
    cpu = next((line for line in _cpu_lines() if line.startswith("model name")), platform.processor())
    return {
        "cpu": cpu.partition(":")[2].strip() or cpu,
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_before": round(psutil.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in ("torch", "torchvision", "ray", "numpy", "pillow")},
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def section(rows: Sequence[Row], described: dict[str, Any], command: Sequence[str]) -> str:
    """Returns date, machine and table in the form of docs/benchmarks.md."""
    facts = "; ".join(f"{name} {value}" for name, value in described.items())
    today = datetime.now(UTC).date().isoformat()
    return f"### {today}\n\n`{' '.join(command)}`\n\n{facts}.\n\n{markdown(rows)}\n"


def write_json(path: Path, rows: Sequence[Row], described: dict[str, Any], command: Sequence[str]) -> None:
    """Writes date, machine, command and rows to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "machine": described,
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
