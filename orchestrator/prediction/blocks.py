"""Predicts one block of images at a time, in any process that sees the run and the images."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from orchestrator.loaded import LoadedEnsemble, Prediction
from orchestrator.prediction.forms import Form
from orchestrator.prediction.inputs import read_image
from orchestrator.run import RunPaths
from workers.data.decoding import BadImage
from workers.errors import DataError
from workers.settings import is_url
from workers.threads import map_in_order

# Threads that read from object stores, which take tens of milliseconds to answer.
_REMOTE_READERS = 16


@dataclass(frozen=True)
class ImageBlock:
    """Names of images that are predicted together, and their ids in the file."""

    number: int
    names: tuple[str, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True)
class PredictedBlock:
    """A block's part of the file, the images that could not be read with the reasons, and predictions if asked for."""

    content: bytes
    bad: tuple[tuple[str, str], ...] = ()
    found: tuple[Prediction, ...] = ()


@dataclass(frozen=True)
class Asked:
    """What is asked of an ensemble, by itself or a `member`; picklable, for every process that predicts.

    `top` is the number of classes to show, `form` of what is written. Relative paths are below `folder`. With
    `lists_bad`, images that cannot be read get uniform probabilities; with `keeps`, predictions are returned.
    """

    paths: RunPaths
    member: str | None
    trust_code: bool
    top: int
    form: Form | None
    lists_bad: bool
    keeps: bool
    folder: Path

    def open(self) -> "BlockPredictor":
        """Opens the run; raises as `LoadedEnsemble.open`."""
        return BlockPredictor(self, LoadedEnsemble.open(self.paths, self.member, trust_code=self.trust_code))


@dataclass(frozen=True)
class BlockPredictor:
    """Predicts blocks as `asked`, with an ensemble whose nets stay in memory."""

    asked: Asked
    ensemble: LoadedEnsemble

    def __call__(self, block: ImageBlock, progress: Callable[[str], None] = lambda _: None) -> PredictedBlock:
        """Predicts a block; nothing of it if an image is bad and such are not to be listed."""
        asked, ensemble, bad = self.asked, self.ensemble, dict[int, str]()
        images, num_readers = list[np.ndarray](), _REMOTE_READERS if any(map(is_url, block.names)) else None
        for row, image in enumerate(map_in_order(self.read, block.names, num_readers)):
            if isinstance(image, str):
                bad[row], image = image, np.zeros((ensemble.size, ensemble.size, 3), np.uint8)
            images.append(image)
        named = tuple((block.names[row], reason) for row, reason in bad.items())
        if bad and not asked.lists_bad:
            return PredictedBlock(b"", named)
        combined = ensemble.predict(images, progress)
        for member in combined.members:
            # As members' predictions of a run's own unreadable images are counted.
            np.asarray(member)[list(bad)] = 1 / len(ensemble.classes)
        form = asked.form
        is_described = asked.keeps or (form and form.top)
        found = ensemble.describe(combined, block.names, asked.top) if is_described else ()
        content = form.block(block.ids, found, combined[:]) if form else b""
        return PredictedBlock(content, named, found if asked.keeps else ())

    def read(self, name: str) -> np.ndarray | str:
        """Returns an image as `LoadedEnsemble.read` does, or why it cannot be read."""
        try:
            return self.ensemble.read(read_image(name, self.asked.folder), name)
        except BadImage as bad:
            return str(bad)
        except DataError as error:
            if not isinstance(error.__cause__, BadImage):
                raise
            return str(error.__cause__)
