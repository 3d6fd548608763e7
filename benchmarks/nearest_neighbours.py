"""Computes the error that a single member has to beat: k-nearest neighbours on the same pixels and the same split.

    python -m benchmarks.nearest_neighbours RUN_DIR

Reads the run's prepared target and its report/scores.json. The neighbours come from train and dev. The best k of
1, 3, 5 is chosen on the reported split itself, which favours the neighbours.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from sklearn.neighbors import KNeighborsClassifier

from orchestrator.run import RunPaths, read_record
from workers.data.store import Store, open_store

NEIGHBOURS = (1, 3, 5)


def pixels(store: Store, split: str) -> np.ndarray:
    """Returns the split's pixels, [images, values] float32."""
    images = np.asarray(store.images(split))
    return images.reshape(len(images), -1).astype(np.float32)


def neighbour_errors(store: Store, split: str) -> dict[int, float]:
    """Returns the top-1 error on `split` by number of neighbours."""
    known = np.concatenate([pixels(store, "train"), pixels(store, "dev")])
    labels = np.concatenate([store.labels("train"), store.labels("dev")])
    asked, right = pixels(store, split), store.labels(split)
    return {k: 1 - KNeighborsClassifier(k).fit(known, labels).score(asked, right) for k in NEIGHBOURS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    paths = RunPaths(parser.parse_args().run_dir)
    scores = json.loads((paths.report / "scores.json").read_text())
    errors = neighbour_errors(open_store(Path(read_record(paths).stores["target"])), scores["split"])
    print(f"split {scores['split']}, {scores['num_images']} images, top-1 error in %")
    for k, error in errors.items():
        print(f"{k} nearest neighbours  {100 * error:.2f}")
    for name, member in sorted(scores["members"].items()):
        verdict = "ok" if member["top1_error"] <= min(errors.values()) else "worse than nearest neighbours"
        print(f"{name}  {100 * member['top1_error']:.2f}  {verdict}")
    print(f"ensemble  {100 * scores['ensemble']['top1_error']:.2f}")


if __name__ == "__main__":
    main()
