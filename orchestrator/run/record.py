"""Reads and writes run.json: what a run remembers between launches."""

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any

from orchestrator.run.paths import RunPaths
from workers.errors import DataError, StorageError
from workers.protocol import Numerics
from workers.settings import Crops, KeptCheckpoint
from workers.storage import parse_json, storage_errors, write_json

if TYPE_CHECKING:
    pass


_RECORDED = ("septet", "torch", "numpy", "pillow", "ray", "mlflow", "safetensors")


def versions() -> dict[str, str]:
    """Versions of Python, of the distributions that matter, and the processor, by name."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # A checkout on PYTHONPATH has no distribution of its own.
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class RunRecord:
    """What run.json remembers; all values are JSON.

    `run_id` is the UUID that MLflow's tag `septet.run` carries. `plan` is `plan.to_json`'s value. `stores` and
    `data_digests` are by dataset name. `created` is in unix seconds. `keep` says which checkpoint of a stage speaks
    for it, `crops` what of an image it predicts from. `placement` says why `numerics` were chosen, `lacked` what of
    them the first machine lacked itself (`workers.numerics.missing`). `accepted` lists the changes that
    `--accept-changes` let pass, one line each. `committed` are digests of what the driver committed (`provenance`).
    """

    run_id: str
    experiment: str
    plan: Any
    plan_hash: str
    created: float
    versions: Mapping[str, str]
    code_digest: str
    numerics: Numerics
    keep: KeptCheckpoint = KeptCheckpoint.last
    data_digests: Mapping[str, str] = field(default_factory=dict)
    stores: Mapping[str, str] = field(default_factory=dict)
    mlflow: Mapping[str, Any] = field(default_factory=dict)
    accepted: tuple[str, ...] = ()
    placement: str = ""
    lacked: str = ""
    crops: Crops = Crops.ten
    committed: Mapping[str, Any] = field(default_factory=dict)


def read_record(paths: RunPaths) -> RunRecord:
    """Reads run.json; raises DataError where there is none, StorageError where it is damaged."""
    try:
        with storage_errors(paths.run_json):
            value = parse_json(paths.run_json.read_text())
        value["numerics"] = Numerics(**value["numerics"])
        value["keep"] = KeptCheckpoint(value["keep"])
        # A run that began before there was a choice took ten.
        value["crops"] = Crops(value.get("crops", Crops.ten))
        value["accepted"] = tuple(value["accepted"])
        return RunRecord(**value)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{paths.root}: no run directory there (it has no run.json); check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{paths.run_json}: not readable as a run record ({error}); restore it") from error


def write_record(paths: RunPaths, record: RunRecord) -> None:
    """Replaces run.json."""
    write_json(paths.run_json, dataclasses.asdict(record))
