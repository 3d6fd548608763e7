"""Writes exported ensembles as MLflow models, from code and without a pickle; logs and registers them."""

import contextlib
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.config import TARGET
from workers.errors import ConfigError
from workers.settings import HELD_OUT, OUT_OF_FOLD

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

# In an ensemble's model: which images it gets wrong.
OUTCOMES = "outcomes.json"
_DIGEST_TAG = "septet.manifest_sha256"
_SCORED = (*HELD_OUT, OUT_OF_FOLD)


@dataclass(frozen=True)
class Models:
    """Works on the logged models of an ensemble's `runs`, ids by member, "" for its own; methods may be repeated."""

    client: "MlflowClient"
    experiment_id: str
    runs: Mapping[str, str]

    def find(self, digest: str, status: str = "READY") -> "dict[str, LoggedModel]":
        """Returns, by member, the models of a submission, whose manifest has the sha256 `digest`."""
        wanted = f"tags.`{_DIGEST_TAG}` = '{digest}'"
        found = self.client.search_logged_models([self.experiment_id], wanted, max_results=1000)
        by_run = {one.source_run_id: one for one in found if one.status == status}
        return {member: by_run[run] for member, run in self.runs.items() if run in by_run}

    def log(self, member: str, folder: Path, digest: str) -> "LoggedModel":
        """Logs `folder` as a run's model, to which the run's scores and target belong."""
        from mlflow.entities import LoggedModelOutput, Metric

        client, run_id = self.client, self.runs[member]
        if (made := self.find(digest, "PENDING").get(member)) is None:
            # MLflow takes no dot there.
            name, tags = (member or "ensemble").replace(".", "_"), {_DIGEST_TAG: digest}
            made = client.create_logged_model(self.experiment_id, name, run_id, tags)
            client.log_outputs(run_id, [LoggedModelOutput(made.model_id, 0)])
        client.log_model_artifacts(made.model_id, str(folder))
        run = client.get_run(run_id)
        used = [one.dataset for one in (run.inputs.dataset_inputs if run.inputs else ())]
        of = next(({"dataset_name": one.name, "dataset_digest": one.digest} for one in used if one.name == TARGET), {})
        # The run's own last points, which MLflow does not store twice.
        names = [name for name in run.data.metrics if name.partition("/")[0] in _SCORED]
        points = [max(client.get_metric_history(run_id, name), key=lambda one: one.step) for name in names]
        told = [Metric(one.key, one.value, one.timestamp, one.step, made.model_id, **of) for one in points]
        client.log_batch(run_id, told)
        return client.finalize_logged_model(made.model_id, "READY")

    def register(self, model: "LoggedModel", name: str, stays: Callable[[bytes], str]) -> str:
        """Makes a version of `name`, to which the alias `champion` moves unless `stays(its OUTCOMES)` is a reason."""
        client, source = self.client, model.artifact_location
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name)
        versions = {one.source: str(one.version) for one in client.search_model_versions(f"name = '{name}'")}
        # Not from `models:/…`, which MLflow would look for in its global store.
        run_id, own = model.source_run_id, versions.get(source)
        own = own or str(client.create_model_version(name, source, run_id, model_id=model.model_id).version)
        champion = str(client.get_registered_model(name).aliases.get("champion", own))
        best = client.get_model_version(name, champion).source
        if champion != own and (why := stays(self._outcomes(str(best)))):
            return f"{name} version {own}: the alias champion stays at version {champion}: {why}"
        client.set_registered_model_alias(name, "champion", own)
        return f"{name} version {own} is the champion"

    def _outcomes(self, source: str) -> bytes:
        from mlflow import MlflowException
        from mlflow.artifacts import download_artifacts

        uri = self.client.tracking_uri
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(MlflowException, OSError):
            return Path(download_artifacts(f"{source}/{OUTCOMES}", dst_path=folder, tracking_uri=uri)).read_bytes()
        return b""


def save_pyfunc(folder: Path, example: bytes, requirements: Sequence[str]) -> None:
    """Makes the empty `folder` a model that runs predict.py; `example` is an image's content. Raises ConfigError."""
    import pandas as pd
    from mlflow import MlflowException, pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Map, Schema

    outputs = (
        ColSpec(DataType.string, "class"),
        ColSpec(Map(DataType.double), "probabilities"),
        ColSpec(DataType.double, "entropy"),
        ColSpec(Array(DataType.string), "set", required=False),
    )
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    try:
        pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            signature=ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema([*outputs])),
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=[*requirements, "numpy", "pandas"],
        )
    except MlflowException as error:
        raise ConfigError(f"MLflow cannot save the model: {error}") from error
