"""Launches a short ensemble whose members share one GPU by halves."""

import subprocess
import sys

from benchmarks.gpu_check.checks import Finding, Target

_LAST_LINES = 3


def launch(target: Target) -> Finding:
    """Runs `septet launch` on the digits, one epoch a stage; it must exit with 0 and leave a submission."""
    run, share = target.scratch / "run", 0.5 if target.device == "cuda" else 0
    words = [
        "launch",
        f"run_dir={run}",
        f"datasets.store={target.scratch / 'store'}",
        f"tracking.uri=sqlite:///{target.scratch / 'mlflow.db'}",
        f"cluster.gpus_per_member={share}",
        "cluster.cpus_per_member=1",
        "schedule.epochs=1",
        *(f"ensemble.stages.{stage}.epochs=1" for stage in ("pretrain", "finetune")),
    ]
    answer = subprocess.run(
        [sys.executable, "-c", "import septet; septet.command()", *words],
        capture_output=True, text=True, cwd=target.scratch, check=False,
    )  # fmt: skip
    submissions = sorted(path.name for path in (run / "submission").glob("submission.*"))
    figures = {"gpus_per_member": share, "exit_code": answer.returncode, "submission": submissions}
    if answer.returncode != 0 or len(submissions) != 1:
        last = [line for line in answer.stderr.splitlines() if line.strip()][-_LAST_LINES:]
        return Finding(False, figures, [f"septet launch exited with {answer.returncode}", *last])
    return Finding(True, figures, [f"seven members, {share} of a GPU each: exit 0, {submissions[0]}"])
