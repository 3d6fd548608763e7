"""Writes an exported ensemble as an MLflow model, from code and without a pickle."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path


def save_pyfunc(folder: Path, example: bytes, requirements: Sequence[str]) -> None:
    """Makes the empty `folder` a model that runs predict.py there; `example` is an image file's content."""
    import pandas as pd
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Map, Schema

    outputs = (
        ColSpec(DataType.string, "class"),
        ColSpec(Map(DataType.double), "probabilities"),
        ColSpec(DataType.double, "entropy"),
        ColSpec(Array(DataType.string), "set", required=False),
    )
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    # Recorded and dropped: MLflow shows its own whatever the filters say.
    with warnings.catch_warnings(record=True):
        pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            signature=ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema([*outputs])),
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=[*requirements, "numpy", "pandas"],
        )
