"""Checks Septet on this machine's GPUs, prints one page to paste into an issue, and writes JSON.

Exit codes: 0 nothing failed; 1 a check failed; 2 no CUDA device, or a wrong option.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.gpu_check.catalogue import CHECKS
from benchmarks.gpu_check.checks import Check, Outcome, Result, Target, perform_all
from benchmarks.gpu_check.page import page

_LIMIT_S = 600.0


def main(words: Sequence[str] | None = None) -> int:
    """Runs the checks that `words` ask for and returns the exit code."""
    options = _parser().parse_args(words)
    if options.device == "cuda" and not torch.cuda.is_available():
        _say("gpu-check: no CUDA device here (torch sees none); --device cpu --quick tries the checks' own logic")
        return 2
    checks = _chosen(options)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="septet-gpu-check-", dir=options.scratch) as scratch:
        target = Target(options.device, options.quick, Path(scratch).absolute())
        results = perform_all(checks, target, options.limit, report=_report)
    seconds = time.monotonic() - began
    found = {"commit": _commit(), "device": options.device, "quick": options.quick, "seconds": round(seconds, 1)}
    options.out.write_text(json.dumps({**found, "checks": [asdict(result) for result in results]}, indent=1) + "\n")
    print(page(results, options.device, seconds, found["commit"]))
    return 1 if any(result.outcome is Outcome.failed for result in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    names = [check.name for check in CHECKS]
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: tries the checks' own logic in a minute")
    parser.add_argument("--only", nargs="+", choices=names, metavar="CHECK", help=f"of {', '.join(names)}")
    parser.add_argument("--no-launch", action="store_true", help="leave out the launch of an ensemble (fractions)")
    parser.add_argument("--limit", type=float, default=_LIMIT_S, help="seconds for all checks (default: 600)")
    parser.add_argument("--out", type=Path, default=Path("gpu-check.json"), help="default: gpu-check.json")
    parser.add_argument("--scratch", type=Path, help="folder for temporary files (default: the system's)")
    return parser


def _chosen(options: argparse.Namespace) -> list[Check]:
    left_out = {"fractions"} if options.no_launch else set()
    return [check for check in CHECKS if check.name not in left_out and check.name in (options.only or [check.name])]


def _report(result: Result) -> None:
    _say(f"{result.name}: {result.outcome}, {result.seconds:.0f} s")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _commit() -> str:
    """Returns the checkout's commit, or "no git" of an archive."""
    words = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "no git"


if __name__ == "__main__":
    sys.exit(main())
