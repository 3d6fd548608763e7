"""Runs the plain script's training function as seven trials of Ray Tune, each of which writes its predictions.

python -m benchmarks.peers.ray_tune ROOT CLASSES_FILE FOLDER --epochs 40
"""

import argparse
import os
from pathlib import Path

_CONVS = (5, 5, 5, 5, 5, 6, 6)


def trial(config: dict) -> dict:
    """Trains one member; `config` holds the words of the plain script's command line."""
    from benchmarks.peers import plain_pytorch

    return {"error": plain_pytorch.run(plain_pytorch.arguments().parse_args(config["words"]))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("classes", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1, help="threads and CPUs of each trial")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray import tune

    ray.init(address="local", include_dashboard=False)
    shared = (
        "--he",
        "--no-dev",
        "--epochs",
        options.epochs,
        "--threads",
        options.threads,
        "--workers",
        options.workers,
    )
    words = [
        [*map(str, (options.root, options.classes, *shared, "--convs", convs, "--seed", seed)), "--predictions",
         str(options.folder / f"{seed}.npy")]
        for seed, convs in enumerate(_CONVS)
    ]  # fmt: skip
    tuner = tune.Tuner(
        tune.with_resources(trial, {"cpu": options.threads}),
        param_space={"words": tune.grid_search(words)},
        run_config=tune.RunConfig(storage_path=str(options.folder / "tune"), verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]


if __name__ == "__main__":
    main()
