"""Predicts image files with the ensemble in this folder: python predict.py IMAGE… [--top 5] [--engine onnx]."""

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

PROGRAM, ONNX, ABOUT = "ensemble.pt2", "ensemble.onnx", "ensemble.json"
_AT_ONCE = 32
_ORIENTATION = 0x0112


class Ensemble:
    """The exported ensemble; `engine` is torch or onnx, by default the one whose file is there."""

    def __init__(self, folder: Path, engine: str = "") -> None:
        self.about: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        self.classes: list[str] = self.about["classes"]
        if engine == "torch" or (not engine and (folder / PROGRAM).exists()):
            import torch

            graph = torch.export.load(folder / PROGRAM).module().requires_grad_(False)
            self._run: Any = lambda squares: [each.numpy() for each in graph(torch.from_numpy(squares))]
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(folder / ONNX)
            self._run = lambda squares: session.run(None, {"pixels": squares})

    def decode(self, content: bytes) -> np.ndarray:
        """Returns the square [side, side, 3] uint8 that the graph takes; raises ValueError or OSError if it cannot."""
        about, side = self.about, self.about["side"]
        with Image.open(io.BytesIO(content), formats=about["formats"]) as image:
            if image.width * image.height > about["max_pixels"]:
                raise ValueError(f"{image.width} × {image.height} pixels are more than {about['max_pixels']}")
            if about["exif"] != "apply":
                # Pillow turns a TIFF while it loads it.
                image.getexif().pop(_ORIENTATION, None)
            whole = image.size[::-1] if image.getexif().get(_ORIENTATION, 1) > 4 else image.size
            shorter = min(whole)
            # A JPEG is decoded at a fraction of its resolution that leaves twice the wanted pixels.
            if image.format in ("JPEG", "MPO") and shorter > 2 * side:
                most = min(each // round(each * (2 * side / shorter)) for each in image.size)
                by = next((each for each in (8, 4, 2) if most >= each), 1)
                image.draft(None, (image.width // by, image.height // by))
            image.load()
            shown = _to_rgb(ImageOps.exif_transpose(image))
        most = 4 if about["keep"] == "whole" else 1
        # A fraction's sides are rounded. Only a TIFF, which has none, has its turned sides already when it is opened.
        sides = whole if image.format in ("JPEG", "MPO") else shown.size
        across, down = ((2 * min(each, shorter * most) * side + shorter) // (2 * shorter) for each in sides)
        shown = _centre(shown, *(min(each, min(shown.size) * most) for each in shown.size))
        return np.asarray(_centre(shown.resize((across, down), Image.Resampling.BICUBIC), side, side))

    def predict(self, squares: np.ndarray) -> np.ndarray:
        """Returns the probabilities [images, classes] float32 of squares [images, side, side, 3] uint8."""
        blocks = [self._run(squares[start : start + _AT_ONCE])[0] for start in range(0, len(squares), _AT_ONCE)]
        return np.concatenate(blocks)

    def describe(self, row: np.ndarray, top: int) -> dict[str, Any]:
        """Returns the `top` classes of one image's probabilities, their entropy in nats, and the prediction set."""
        order, floored, kept = np.argsort(-row, kind="stable"), np.maximum(row, 1e-12, dtype=np.float64), None
        if (sets := self.about["sets"]) is not None:
            scores = sets["penalties"] + np.concatenate([[0.0], np.cumsum(row[order][:-1], dtype=np.float64)])
            kept = [self.classes[one] for one in order[: np.count_nonzero(scores <= sets["threshold"])]]
        guesses = [{"class": self.classes[one], "probability": float(row[one])} for one in order[:top]]
        return {"top": guesses, "entropy": round(float(-(floored * np.log(floored)).sum()), 6), "set": kept}


def _centre(image: Image.Image, width: int, height: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_rgb(image: Image.Image) -> Image.Image:
    """Converts to RGB: the high byte of 16-bit grey, transparency on white; a wider mode has no known white."""
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode}: convert it to 8 or 16 bits a channel")
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers).convert("RGB")
    return image.convert("RGB")


def _read(ensemble: Ensemble, path: Path) -> np.ndarray:
    try:
        return ensemble.decode(path.read_bytes())
    except (ValueError, OSError, SyntaxError, EOFError) as error:
        sys.exit(f"{path}: cannot be read as an image ({error})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--top", type=int, default=5)
    parser.add_argument("--engine", choices=("torch", "onnx"), default="")
    given = parser.parse_args()
    ensemble, found = Ensemble(Path(__file__).parent, given.engine), []
    for start in range(0, len(given.images), _AT_ONCE):
        paths = given.images[start : start + _AT_ONCE]
        rows = ensemble.predict(np.stack([_read(ensemble, path) for path in paths]))
        found += [
            {"path": str(path), **ensemble.describe(row, given.top)} for path, row in zip(paths, rows, strict=True)
        ]
    sys.stdout.write(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
