"""Writes an exported ensemble as an MLflow model, from code and without a pickle."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

_SOURCE = Path(__file__).with_name("pyfunc_model.py")


def save_pyfunc(folder: Path, example: bytes, requirements: Sequence[str]) -> None:
    """Makes the empty `folder` an MLflow model that loads predict.py there, which the caller adds.

    Args:
        folder: of the model.
        example: an image file's content.
        requirements: of pip, beside MLflow's own.
    """
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
    signature = ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema(list(outputs)))
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # It asks for type hints, which say less than the signature.
        warnings.simplefilter("ignore")
        pyfunc.save_model(
            folder,
            python_model=str(_SOURCE),
            signature=signature,
            input_example=pd.DataFrame({"image": [example]}),
            pip_requirements=list(requirements),
        )
