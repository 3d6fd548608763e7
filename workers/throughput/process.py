"""Times training steps on request, in a process of its own: several at once show how members slow one another.

`python -m workers.throughput.process` reads pickled `Request`s from standard input. It answers each with `ready` on
standard output, waits for a line, and answers with images a second. It ends when its input ends.
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
    """A stage to time, with batches of `batch_size`, for `seconds`."""

    settings: TrainingSettings
    num_classes: int
    numerics: Numerics
    batch_size: int
    seconds: float


def serve(requests: IO[bytes], answers: IO[str]) -> None:
    """Answers requests until the input ends."""
    # Imported here, so that a sender of requests need not load torch.
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
    """Serves standard input; what libraries print goes to standard error, so standard output holds only answers."""
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
