"""The exported ensemble as an MLflow model from code, copied beside predict.py: base64 images in, classes out."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ServedEnsemble(PythonModel):
    """Takes a column `image` of files' contents (base64 in JSON); a path is refused, for it would read any file."""

    def load_context(self, context: Any) -> None:  # noqa: ARG002
        folder = Path(__file__).parent
        self._ensemble = runpy.run_path(str(folder / "predict.py"))["Ensemble"](folder)

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> pd.DataFrame:  # noqa: ARG002
        ensemble, images = self._ensemble, list(model_input["image"])
        if not all(isinstance(image, bytes) for image in images):
            raise TypeError("image: give the content of image files, in JSON as base64")
        rows = ensemble.predict(np.stack([ensemble.decode(image) for image in images]))
        told = [ensemble.describe(row, 1) for row in rows]
        probabilities = [dict(zip(ensemble.classes, row.tolist(), strict=True)) for row in rows]
        best = [each["top"][0]["class"] for each in told]
        return pd.DataFrame({"class": best, "probabilities": probabilities}).join(
            pd.DataFrame(told)[["entropy", "set"]]
        )


set_model(ServedEnsemble())
