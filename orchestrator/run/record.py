"""Reads and writes run.json, the facts a run keeps between launches."""

import dataclasses
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.run.paths import RunPaths
from workers.errors import DataError, StorageError
from workers.protocol import Numerics
from workers.settings import Crops, KeptCheckpoint
from workers.storage import parse_json, storage_errors, write_json_lines

# Keys that runs of earlier releases lack.
_LATER: Mapping[str, Any] = {"command": (), "directory": "", "shorter": {}}
_RECORDED = ("septet", "torch", "torchvision", "timm", "numpy", "pillow", "ray", "mlflow", "safetensors")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the main distributions, and the processor, by name."""
    # Imported here: it takes 10 ms, and `septet status` needs none of it.
    from importlib import metadata

    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for name in _RECORDED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            # A checkout on PYTHONPATH is not an installed distribution.
            found[name] = "not installed"
    return found


@dataclass(frozen=True)
class SubmissionDigests:
    """Identifies a submission: its file's name and sha256, and the sha256 of its manifest."""

    file: str
    sha256: str
    manifest_sha256: str


@dataclass(frozen=True)
class Committed:
    """sha256 of what the driver committed: `stages` (weights) by `member/stage`, `predictions` by member and split.

    `data` is by file name. `announced` is a submission that was about to replace `submission` when its writer was
    killed.
    """

    stages: Mapping[str, str] = field(default_factory=dict)
    predictions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)
    submission: SubmissionDigests | None = None
    announced: SubmissionDigests | None = None

    def of_predictions(self, member: str, split: str) -> str:
        """Returns the digest of one file of predictions; "" if none was recorded."""
        return self.predictions.get(member, {}).get(split, "")


@dataclass(frozen=True)
class RunRecord:
    """The content of run.json; all values are JSON.

    `run_id` is the UUID in MLflow's tag `septet.run`. `plan` is `plan_to_json`'s value. `stores` and `data_digests`
    are by dataset name. `created` is in Unix seconds. `keep` says which checkpoint of a stage to use, `crops` how many
    crops of an image to predict from. `placement` says why `numerics` were chosen, `lacked` what of them the first
    machine lacked (`workers.numerics.missing`). `accepted` lists the changes that `--accept-changes` allowed, one line
    each. `committed` holds the digests of what the driver committed. `command` holds the words of the newest launch,
    without passwords, and `directory` its working directory; both are empty in runs of 0.1.0. `shorter` holds, by
    `member/stage`, the hashes that a stage had before it was given more epochs.
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
    committed: Committed = field(default_factory=Committed)
    command: tuple[str, ...] = ()
    directory: str = ""
    shorter: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_record(paths: RunPaths) -> RunRecord:
    """Reads run.json; raises DataError if there is none, StorageError if it is damaged."""
    try:
        with storage_errors(paths.run_json):
            value = {**_LATER, **parse_json(paths.run_json.read_text())}
        value["numerics"] = Numerics(**value["numerics"])
        value["keep"] = KeptCheckpoint(value["keep"])
        value["crops"] = Crops(value["crops"])
        value |= {name: tuple(value[name]) for name in ("accepted", "command")}
        value["committed"] = _committed(value["committed"])
        absent = [each.name for each in dataclasses.fields(RunRecord) if each.name not in value]
        if absent:
            raise ValueError(f"it has no {', '.join(absent)}")
        return RunRecord(**value)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{paths.root}: no run directory there (it has no run.json); check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{paths.run_json}: not readable as a run record ({error}); restore it") from error


def _committed(value: Mapping[str, Any]) -> Committed:
    latest = {name: value[name] and SubmissionDigests(**value[name]) for name in ("submission", "announced")}
    predictions = {member: dict(own) for member, own in value["predictions"].items()}
    return Committed(**{**value, **latest, "predictions": predictions})


def write_record(paths: RunPaths, record: RunRecord) -> None:
    """Replaces run.json."""
    write_json_lines(paths.run_json, record)
