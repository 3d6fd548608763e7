"""Predicts image files with the ensemble in this folder: python predict.py IMAGE… [--top 5] [--engine onnx].

Needs numpy, pillow, and torch or onnxruntime. ensemble.json says how images are decoded; README.md has the rest.
"""

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

PROGRAM, ONNX, ABOUT = "ensemble.pt2", "ensemble.onnx", "ensemble.json"
_AT_ONCE = 32
# A JPEG is decoded at a fraction of its resolution if its sides still have this many times the wanted pixels.
_DRAFT_FACTOR = 2
# The longer side of a whole image, in shorter ones.
_LONGEST = 4


class Ensemble:
    """The exported ensemble; `engine` is torch or onnx, by default the one whose file is there."""

    def __init__(self, folder: Path, engine: str = "") -> None:
        self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        self.classes: list[str] = self.about["classes"]
        engine = engine or ("torch" if (folder / PROGRAM).exists() else "onnx")
        self._run = _by_torch(folder / PROGRAM) if engine == "torch" else _by_onnx(folder / ONNX)

    def decode(self, content: bytes) -> np.ndarray:
        """Returns the square [side, side, 3] uint8 that the graph takes; raises ValueError or OSError if it cannot."""
        about, side = self.about, self.about["side"]
        with Image.open(io.BytesIO(content), formats=about["formats"]) as image:
            if image.width * image.height > about["max_pixels"]:
                raise ValueError(f"{image.width} × {image.height} pixels are more than {about['max_pixels']}")
            if image.format in ("JPEG", "MPO") and (by := _divisor(*image.size, _DRAFT_FACTOR * side)) > 1:
                image.draft(None, (image.width // by, image.height // by))
            image.load()
            shown = _to_rgb(ImageOps.exif_transpose(image) if about["exif"] == "apply" else image)
        shorter, whole = min(shown.size), about["keep"] == "whole"
        shown = _centre(shown, *(min(each, shorter * (_LONGEST if whole else 1)) for each in shown.size))
        across, down = ((2 * each * side + shorter) // (2 * shorter) for each in shown.size)
        return np.asarray(_centre(shown.resize((across, down), Image.Resampling.BICUBIC), side, side))

    def predict(self, squares: np.ndarray) -> np.ndarray:
        """Returns the probabilities [images, classes] float32 of squares [images, side, side, 3] uint8."""
        blocks = [self._run(squares[start : start + _AT_ONCE])[0] for start in range(0, len(squares), _AT_ONCE)]
        return np.concatenate(blocks)

    def describe(self, row: np.ndarray, top: int) -> dict[str, Any]:
        """Returns what is told of one image's probabilities: the first classes, entropy in nats, and prediction set."""
        order = np.argsort(-row, kind="stable")
        floored = np.maximum(row, 1e-12, dtype=np.float64)
        told = {
            "top": [{"class": self.classes[one], "probability": float(row[one])} for one in order[:top]],
            "entropy": round(float(-(floored * np.log(floored)).sum()), 6),
            "set": None,
        }
        if (sets := self.about["sets"]) is not None:
            scores = np.concatenate([[0.0], np.cumsum(row[order][:-1], dtype=np.float64)])
            scores += sets["penalty"] * np.maximum(0, np.arange(len(row)) + 1 - sets["free_places"])
            told["set"] = [self.classes[one] for one in order[: np.count_nonzero(scores <= sets["threshold"])]]
        return told


def _by_torch(path: Path) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    import torch

    graph = torch.export.load(path).module()

    def run(squares: np.ndarray) -> Sequence[np.ndarray]:
        with torch.inference_mode():
            return [output.numpy() for output in graph(torch.from_numpy(squares))]

    return run


def _by_onnx(path: Path) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda squares: session.run(None, {"pixels": squares})


def _divisor(width: int, height: int, wanted: int) -> int:
    scale = wanted / min(width, height)
    if scale >= 1:
        return 1
    most = min(width // round(width * scale), height // round(height * scale))
    return next((each for each in (8, 4, 2) if most >= each), 1)


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode but wide numbers to RGB: the high byte of 16-bit grey, and transparency on white."""
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} has no known white; convert it to 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicts image files with the ensemble in this folder.")
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--engine", choices=("torch", "onnx"), default="")
    given = parser.parse_args()
    ensemble = Ensemble(Path(__file__).parent, given.engine)
    found = []
    for start in range(0, len(given.images), _AT_ONCE):
        paths = given.images[start : start + _AT_ONCE]
        rows = ensemble.predict(np.stack([ensemble.decode(path.read_bytes()) for path in paths]))
        found += [
            {"path": str(path), **ensemble.describe(row, given.top)} for path, row in zip(paths, rows, strict=True)
        ]
    sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
