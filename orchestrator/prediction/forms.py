"""Writes predictions as a file: csv, json, jsonl or parquet, in blocks that can be made apart and joined later."""

import csv
import io
import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from orchestrator.combine import Block
from orchestrator.config import SubmissionConfig, SubmissionFormat
from orchestrator.loaded import LoadedEnsemble, Prediction
from orchestrator.prediction.inputs import Images
from orchestrator.run import RunPaths
from orchestrator.submission import Layout, Question, file_lines, find_manifest, make_layout, read_named
from workers.errors import ConfigError
from workers.storage import storage_errors

if TYPE_CHECKING:
    import pyarrow as pa

TOP, PROBABILITIES, LABELS = FORMS = ("top", "probabilities", "labels")
_ENDINGS = {TOP: (".csv", ".json", ".jsonl", ".parquet"), PROBABILITIES: (".csv", ".parquet"), LABELS: (".csv",)}
# Values of a row group: a group a block would give a thousand classes a footer as large as the values.
_GROUP_VALUES = 1 << 22


@dataclass(frozen=True)
class Form:
    """The form of a file of predictions; picklable and small.

    With `top` 0, `layout` says what a line has: the probabilities of all classes, or a label; its ids are those of a
    block. Otherwise it has the `top` most probable classes.
    """

    suffix: str
    top: int
    question: Question | None = None
    layout: Layout | None = None

    def block(self, ids: Sequence[str], found: Sequence[Prediction], probabilities: Block) -> bytes:
        """Returns a block's part of the file; its images are called `ids`, `probabilities` is (images, classes)."""
        if self.suffix == ".parquet":
            return _parquet(self._table(ids, found, probabilities))
        if self.question and self.layout:
            layout = replace(self.layout, header=(), ids=tuple(ids), order=np.arange(len(ids)))
            return "".join(file_lines(self.question, layout, probabilities)).encode(errors="surrogateescape")
        if self.suffix == ".json":
            return _json(prediction_json(found), indent=1)[2:-2]
        if self.suffix == ".jsonl":
            return b"".join(_json(one.to_json()) + b"\n" for one in found)
        return _csv(_ranked(one) for one in found)

    def join(self, blocks: Iterable[bytes], file: IO[bytes]) -> None:
        """Writes the file of `blocks`, in order."""
        if self.suffix == ".parquet":
            _join_tables(blocks, file)
            return
        file.write(self._start())
        for number, block in enumerate(blocks):
            file.write(b",\n" + block if number and self.suffix == ".json" else block)
        file.write(b"\n]\n" if self.suffix == ".json" else b"")

    def _start(self) -> bytes:
        if self.question and self.layout:
            return "".join(file_lines(self.question, self.layout, np.empty((0, 0)))).encode()
        if self.suffix == ".csv":
            ranked = [f"{column}_{place + 1}" for place in range(self.top) for column in ("class", "probability")]
            return _csv([["path", *ranked, "entropy", "mutual_information", "set"]])
        return b"[\n" if self.suffix == ".json" else b""

    def _table(self, ids: Sequence[str], found: Sequence[Prediction], probabilities: Block) -> "pa.Table":
        import pyarrow as pa

        if self.layout:
            columns = dict(zip(self.layout.header[1:], probabilities[:, self.layout.columns].T, strict=True))
            return pa.table({self.layout.header[0]: pa.array(ids, pa.string()), **columns})
        ranked = {}
        for place in range(self.top):
            ranked[f"class_{place + 1}"] = pa.array([one.top[place].name for one in found], pa.string())
            ranked[f"probability_{place + 1}"] = pa.array([one.top[place].probability for one in found], pa.float32())
        sure = {name: pa.array([getattr(one, name) for one in found]) for name in ("entropy", "mutual_information")}
        sets = pa.array([one.set for one in found], pa.list_(pa.string()))
        return pa.table({"path": pa.array([one.path for one in found], pa.string()), **ranked, **sure, "set": sets})


def check_out(path: Path, kind: str, template: Path | None) -> None:
    """Raises an error if `path` could not be written in that form, or lies in a run; called before any work.

    Raises:
        ConfigError: its ending is none of the form, there is no such folder, or it is a folder itself or a run's.
        StorageError: nothing can be written there.
    """
    endings = _ENDINGS[PROBABILITIES if template else kind][: 1 if template else None]
    if path.suffix.lower() not in endings:
        asked = " with --template" if template else "" if kind == TOP else f" with --form {kind}"
        raise ConfigError(f"--out {path}: give a file that ends in {' or '.join(endings)}{asked}")
    if template and kind != TOP:
        raise ConfigError(f"--form {kind}: --template says which columns there are; give one of the two")
    if not (folder := path.absolute().parent).is_dir() or path.is_dir():
        raise ConfigError(f"--out {path}: {'is a folder' if path.is_dir() else f'there is no folder {folder}'}")
    for folder in path.resolve().parents:
        if RunPaths(folder).run_json.exists():
            raise ConfigError(f"--out {path}: lies in the run directory {folder}; give another place")
    with storage_errors(path), tempfile.TemporaryFile(dir=path.absolute().parent):
        pass


def make_form(
    out: Path, kind: str, template: Path | None, top: int, images: Images, ensemble: LoadedEnsemble
) -> tuple[Form, Layout | None]:
    """Returns the form of `out`, and the order and ids of its lines if they are not those of `images`.

    `kind` is one of FORMS; a `template`, a sample submission, gives ids, order and columns instead.

    Raises:
        ConfigError: the template cannot be read, its ids are not those of the images or its columns not the classes, or
            two images have one id.
    """
    suffix, num_classes = out.suffix.lower(), len(ensemble.classes)
    if kind == TOP and template is None:
        return Form(suffix, min(top, num_classes)), None
    manifest = find_manifest(ensemble.paths)
    try:
        sample, _ = read_named(SubmissionConfig(template=str(template) if template else None))
        if sample and sample.header[1:] == ("PredictionString",):
            raise ConfigError(
                f"--template {template}: boxes are in a run's own submission alone (submission=kaggle_loc)"
            )
        one_each = len(sample.header) == 2 if sample else kind == LABELS
        named = SubmissionFormat.labels if one_each else SubmissionFormat.probabilities
        none, class_ids = np.empty((0, 2), np.int32), manifest.class_names if manifest else None
        layout = make_layout(Question(named, images.rows(), ensemble.classes, none, sample, class_ids))
    except ConfigError as error:
        raise ConfigError(str(error).replace("submission.template", "--template")) from error
    question = Question(named, (), ensemble.classes, none)
    return Form(suffix, 0, question, replace(layout, ids=(), order=layout.order[:0])), layout


def prediction_json(predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """Returns the document of `septet predict --json`."""
    return [prediction.to_json() for prediction in predictions]


def prediction_lines(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """Returns a line for each image, like `cat.jpg: tabby 81.2%, tiger cat 11.0%`."""
    return tuple(
        f"{prediction.path}: " + ", ".join(f"{guess.name} {guess.probability:.1%}" for guess in prediction.top)
        for prediction in predictions
    )


def _ranked(one: Prediction) -> list[str]:
    guesses = [word for guess in one.top for word in (guess.name, f"{guess.probability:.9g}")]
    return [one.path, *guesses, f"{one.entropy:.6f}", f"{one.mutual_information:.6f}", ";".join(one.set or ())]


def _csv(lines: Iterable[Sequence[str]]) -> bytes:
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(lines)
    return table.getvalue().encode()


def _json(value: object, indent: int | None = None) -> bytes:
    return json.dumps(value, indent=indent, ensure_ascii=False).encode()


def _parquet(table: "pa.Table") -> bytes:
    from pyarrow.parquet import write_table

    content = io.BytesIO()
    write_table(table, content)
    return content.getvalue()


def _join_tables(blocks: Iterable[bytes], file: IO[bytes]) -> None:
    """Writes tables as one, in row groups of many blocks."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter, read_table

    writer, waiting = None, list[pa.Table]()
    for block in chain(blocks, [None]):
        waiting += [] if block is None else [read_table(io.BytesIO(block))]
        if block is None or sum(each.num_rows for each in waiting) * waiting[0].num_columns > _GROUP_VALUES:
            writer = writer or ParquetWriter(file, waiting[0].schema)
            writer.write_table(pa.concat_tables(waiting))
            waiting = []
    if writer:
        writer.close()
