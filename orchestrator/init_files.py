"""The files of weights that stages start from: hashed for the plan, checked before anything of a run begins."""

from collections.abc import Mapping
from pathlib import Path

from orchestrator.config.schema import Config
from orchestrator.plan.model import Plan
from workers.errors import DataError
from workers.protocol import InitFile
from workers.storage.atomic import sha256_of


def hash_init_files(config: Config) -> Mapping[str, InitFile]:
    """Each file that a stage starts from, by the path as configured.

    Raises:
        DataError: one cannot be read.
    """
    found: dict[str, InitFile] = {}
    for member in config.members.values():
        for name, stage in member.stages.items():
            if stage.init_file is None or stage.init_file in found:
                continue
            path = Path(stage.init_file).expanduser().absolute()
            try:
                found[stage.init_file] = InitFile(str(path), sha256_of(path))
            except OSError as error:
                where = f"ensemble.members.{member.name}.stages.{name}.init_file={path}"
                raise DataError(f"{where}: cannot be read ({error.strerror}); give a file of weights") from error
    return found


def check_init_files(plan: Plan) -> None:
    """Reads every file that a stage starts from and holds it against the stage's model.

    Raises:
        DataError: it is no file of weights, or lacks a layer that the stage does not reset.
    """
    for stage in plan.stages:
        if stage.init_file is not None:
            # Here and not above: torch is loaded.
            from workers.training.init_file import check_init_file

            try:
                check_init_file(stage.init_file, stage.settings.model, stage.num_classes, stage.reset)
            except DataError as error:
                raise DataError(f"ensemble.members.{stage.ref.member}.stages.{stage.ref.stage}.{error}") from error
