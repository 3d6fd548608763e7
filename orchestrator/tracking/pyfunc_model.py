"""The exported ensemble as an MLflow model from code: base64 images in, classes out. Copied beside predict.py."""

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

    # Without types, of which MLflow knows few: the signature says more.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def] # noqa: ARG002
        images = list(model_input["image"])
        if not all(isinstance(image, bytes) for image in images):
            raise TypeError("image: give the content of image files, in JSON as base64")
        rows = self._ensemble.predict(np.stack([self._ensemble.decode(image) for image in images]))
        told = [self._ensemble.describe(row, 1) for row in rows]
        classes = self._ensemble.classes
        return pd.DataFrame(
            {
                "class": [each["top"][0]["class"] for each in told],
                "probabilities": [dict(zip(classes, row.tolist(), strict=True)) for row in rows],
                "entropy": [each["entropy"] for each in told],
                "set": [each["set"] for each in told],
            }
        )


set_model(ServedEnsemble())
