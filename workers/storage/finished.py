"""DONE.json records that a stage finished, and its final checkpoint. The driver writes it, workers read it."""

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
    dev_error: float | None
    val_error: float | None
    at_chance: bool
    best_epochs: int | None = None
    cut_at: tuple[int, ...] = ()


def write_finished(stage_dir: Path, stage_hash: str, result: StageResult) -> None:
    """Commits DONE.json for a finished stage."""
    fields = {name: value for name, value in asdict(result).items() if name != "resumed_from"}
    write_json(stage_dir / layout.DONE, {"stage_hash": stage_hash, **fields})


def read_finished(stage_dir: Path) -> Finished:
    """Reads DONE.json.

    Raises:
        StorageError: the stage is not finished, or the file is damaged.
    """
    path = stage_dir / layout.DONE
    try:
        with storage_errors(path):
            return Finished(**parse_json(path.read_bytes()))
    except FileNotFoundError:
        raise StorageError(f"{stage_dir}: the stage is not finished; run `septet launch` again to finish it") from None
    except (ValueError, TypeError) as error:
        raise StorageError(f"{path}: damaged ({error}); delete it and run `septet launch` again") from error
