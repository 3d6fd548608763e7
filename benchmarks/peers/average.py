"""Averages members' probabilities and writes one label per image, as the last cell of a notebook would.

python -m benchmarks.peers.average SUBMISSION PREDICTIONS …
"""

import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    submission, *members = map(Path, sys.argv[1:])
    mean = np.mean([np.load(member) for member in members], axis=0)
    lines = [f"{row},{label}" for row, label in enumerate(mean.argmax(1))]
    submission.write_text("\n".join(["id,label", *lines]) + "\n")
