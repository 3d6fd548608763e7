"""A process that times training steps on request: several of them at once show how members slow one another.

`python -m workers.throughput.process` takes pickled `Request`s on its standard input and answers each with two lines on
its standard output: `ready`, and, after a line in return, images a second. It ends with its input.
"""

import os
import pickle
import sys
from dataclasses import dataclass
from typing import IO

from workers.protocol import Numerics
from workers.settings import TrainingSettings


@dataclass(frozen=True)
class Request:
    """What to time, with batches of `batch_size`, and for how long."""

    settings: TrainingSettings
    num_classes: int
    numerics: Numerics
    batch_size: int
    seconds: float


def serve(requests: IO[bytes], answers: IO[str]) -> None:
    """Answers requests until there are no more."""
    # Here and not above: whoever sends requests need not load torch.
    from workers.throughput.measure import TimedSteps

    while True:
        try:
            request: Request = pickle.load(requests)  # noqa: S301 – only the parent can write to this pipe
        except EOFError:
            return
        steps = TimedSteps(request.settings, request.num_classes, request.numerics, request.batch_size)
        answers.write("ready\n")
        answers.flush()
        if not requests.readline():
            return
        answers.write(f"{steps.images_per_second(request.seconds)}\n")
        answers.flush()


def main() -> None:
    """Keeps standard output for answers: whatever a library prints goes to standard error."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
