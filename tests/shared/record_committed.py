"""Records in run.json what a test has laid into a run directory, as the driver does while it makes it."""

from orchestrator.plan import Plan
from orchestrator.run.digests import open_book
from orchestrator.run.paths import RunPaths
from workers.storage.atomic import sha256_of
from workers.storage.finished import read_finished


def record_committed(paths: RunPaths, plan: Plan) -> None:
    book = open_book(paths)
    book.data(paths.data)
    done = [stage.ref for stage in plan.stages if paths.done(stage.ref).exists()]
    stages = {ref: read_finished(paths.stage(ref)).checkpoint_sha256 for ref in done}
    files = {member: paths.predictions(member).glob("*.npy") for member in plan.members}
    book.results(stages, {member: {path.stem: sha256_of(path) for path in own} for member, own in files.items()})
