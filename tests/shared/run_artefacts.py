"""What a run is for, by sha256: what must be equal after whatever disturbed it."""

import hashlib
import json

from orchestrator.run.paths import RunPaths


def artefacts(paths: RunPaths) -> dict[str, str]:
    """Submission and manifest, predictions, final weights, by their place in the run; weights are hashed again."""
    files = [*paths.submission.glob("*"), *paths.members.glob("*/predictions/*.npy")]
    for done in paths.members.glob("*/*/DONE.json"):
        said = json.loads(done.read_text())
        weights = done.parent / "checkpoints" / said["checkpoint"] / "model.safetensors"
        assert hashlib.sha256(weights.read_bytes()).hexdigest() == said["checkpoint_sha256"], weights
        files.append(weights)
    return {str(path.relative_to(paths.root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
