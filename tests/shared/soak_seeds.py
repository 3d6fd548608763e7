"""Which seeds `make soak` runs: `SEEDS=2012`, `SEEDS=0-99` or `SEEDS=3,7-9`."""

import os


def seeds() -> list[int]:
    found: list[int] = []
    for part in os.environ.get("SEEDS", "2012").split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
