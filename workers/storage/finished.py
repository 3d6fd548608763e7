"""DONE.json: a finished stage's word on which checkpoint speaks for it. The driver writes it, workers read it."""

from dataclasses import asdict, dataclass
from pathlib import Path

from workers.errors import StorageError
from workers.protocol import StageResult
from workers.storage import layout
from workers.storage.atomic import parse_json, storage_errors, write_json


@dataclass(frozen=True)
class Finished:
    """The content of DONE.json."""

    stage_hash: str
    num_updates: int
    checkpoint: str
    checkpoint_sha256: str
    dev_error: float
    val_error: float
    at_chance: bool


def write_finished(stage_dir: Path, stage_hash: str, result: StageResult) -> None:
    """Commits a stage as done."""
    fields = {name: value for name, value in asdict(result).items() if name != "resumed_from"}
    write_json(stage_dir / layout.DONE, {"stage_hash": stage_hash, **fields})


def read_finished(stage_dir: Path) -> Finished:
    """Reads DONE.json.

    Raises:
        StorageError: the stage is not done, or the file is damaged.
    """
    path = stage_dir / layout.DONE
    try:
        with storage_errors(path):
            return Finished(**parse_json(path.read_bytes()))
    except FileNotFoundError:
        raise StorageError(f"{stage_dir}: the stage is not done; run `septet launch` again to finish it") from None
    except (ValueError, TypeError) as error:
        raise StorageError(f"{path}: damaged ({error}); remove it and run `septet launch` again") from error
