"""Runs one check and writes its result: the other side of `checks.perform_apart`."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.gpu_check.catalogue import CHECKS
from benchmarks.gpu_check.checks import Result, Target, perform


def main() -> None:
    name, device, quick, scratch, so_far, answer = sys.argv[1:]
    (check,) = [check for check in CHECKS if check.name == name]
    before = [Result.from_json(value) for value in json.loads(Path(so_far).read_text())]
    target = Target(device, quick == "1", Path(scratch), {result.name: result for result in before})
    result = perform(check, target)
    Path(answer).write_text(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
