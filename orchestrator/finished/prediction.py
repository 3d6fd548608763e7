"""`septet predict`: images through a finished ensemble, in blocks, here or on a cluster, shown or written to a file."""

import csv
import hashlib
import io
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np

from orchestrator.combine import Block
from orchestrator.config import ClusterConfig, SubmissionConfig, SubmissionFormat
from orchestrator.finished.ensemble import LoadedEnsemble, Prediction, refuse_run_dir
from orchestrator.run import RunPaths, find_finished
from orchestrator.submission import Layout, Question, file_lines, find_manifest, make_layout, read_named
from orchestrator.text import counted, duration
from workers.data.decoding import BadImage
from workers.data.named import find_images, read_image
from workers.errors import ConfigError, DataError, SourceLost, StorageError
from workers.numerics import code_digest
from workers.settings import is_url
from workers.storage import replacing, write_bytes, write_text
from workers.threads import map_in_order

# 256-pixel squares of one block: 100 MB. A multiple of what goes through a net at once, so bits do not depend on it.
_BLOCK_IMAGES = 512
_SAID_EVERY_S = 10.0
_OUT_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
# Number, names and ids of images that are predicted together; what the file has of them, those that cannot be read with
# the reasons, and predictions that are kept.
ImageBlock = tuple[int, tuple[str, ...], tuple[str, ...]]
Found = tuple[bytes, list[tuple[str, str]], tuple[Prediction, ...]]
Blocks = Sequence[ImageBlock]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Form:
    """How a file says the `top` most probable classes; or, with a question and its layout, what a submission does."""

    suffix: str
    top: int
    question: Question | None = None
    layout: Layout | None = None

    def block(self, block: ImageBlock, found: Sequence[Prediction], probabilities: Block) -> bytes:
        """Returns what the file has of a block; `probabilities` is (images, classes)."""
        number, _, ids = block
        if self.question and self.layout:
            header = () if number else self.layout.header
            layout = replace(self.layout, header=header, ids=ids, order=np.arange(len(ids)))
            return "".join(file_lines(self.question, layout, probabilities)).encode(errors="surrogateescape")
        if self.suffix in (".jsonl", ".parquet"):
            return "".join(json.dumps(one.to_json(), ensure_ascii=False) + "\n" for one in found).encode()
        if self.suffix == ".json":
            text = json.dumps([one.to_json() for one in found], indent=1, ensure_ascii=False)[2:-2]
            return f"{',' if number else '['}\n{text}".encode()
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        ranked = [f"{column}_{place + 1}" for place in range(self.top) for column in ("class", "probability")]
        writer.writerows([] if number else [["path", *ranked, "entropy", "mutual_information", "set"]])
        for one in found:
            guesses = [word for guess in one.top for word in (guess.name, f"{guess.probability:.9g}")]
            numbers = [f"{value:.6f}" for value in (one.entropy, one.mutual_information)]
            writer.writerow([one.path, *guesses, *numbers, ";".join(one.set or ())])
        return table.getvalue().encode()

    def join(self, blocks: Iterator[bytes], file: IO[bytes]) -> None:
        """Writes the file of `blocks`, in order."""
        if self.suffix != ".parquet":
            file.writelines(blocks)
            file.write(b"\n]\n" if self.suffix == ".json" else b"")
            return
        from pyarrow import Table
        from pyarrow.parquet import ParquetWriter

        tables = (Table.from_pylist([json.loads(line) for line in block.splitlines()]) for block in blocks)
        first = next(tables)
        with ParquetWriter(file, first.schema) as writer:
            for table in chain([first], tables):
                writer.write_table(table)


@dataclass(frozen=True)
class Asked:
    """What is asked of a run, or of one `member`; picklable, for the processes of a `cluster`.

    `out` has a `form`: top, probabilities, labels, or the path of a sample submission. With `lists_bad`, images that
    cannot be read get uniform probabilities. `keeps` returns predictions though a file is written.
    """

    paths: RunPaths
    top: int
    member: str | None = None
    trust_code: bool = False
    out: Path | None = None
    form: str = "top"
    lists_bad: bool = False
    cluster: str | None = None
    keeps: bool = False
    written: Form | None = None
    folder: Path = Path()


def predict(
    paths: RunPaths,
    images: Sequence[Path | str],
    top: int,
    progress: Say,
    *,
    trust_code: bool = False,
    member: str | None = None,
) -> tuple[Prediction, ...]:
    """Predicts images with a finished run, or with one `member`, as `predict_as` without a file: the Python face."""
    return predict_as(Asked(paths, top, member, trust_code), [str(image) for image in images], progress)


def predict_as(asked: Asked, given: Sequence[str], progress: Say) -> tuple[Prediction, ...]:
    """Predicts the images that `given` mean with a finished run; says now and then how far it is.

    Raises:
        SeptetError: as `LoadedEnsemble.open` and `find_images`; the file cannot be made; or, as DataError, an image
            cannot be read.
    """
    if out := asked.out:
        _check_out(out, asked.form)
    ensemble = LoadedEnsemble.open(paths=asked.paths, member=asked.member, trust_code=asked.trust_code)
    names: Sequence[str] = find_images(given)
    form, names, ids = _form_of(asked, out, ensemble, names) if out else (None, names, names)
    cut = [slice(start, start + _BLOCK_IMAGES) for start in range(0, len(names), _BLOCK_IMAGES)]
    blocks = [(number, tuple(names[part]), tuple(ids[part])) for number, part in enumerate(cut)]
    # Processes of a cluster have other working directories.
    folder = Path() if asked.cluster is None else Path.cwd()
    asked = replace(asked, paths=RunPaths(folder / asked.paths.root), written=form, folder=folder)
    kept, bad = dict[int, tuple[Prediction, ...]](), list[str]()
    parts = out.with_name(f"{out.name}.parts") if out else None
    files = _part_files(parts, asked, ensemble, blocks) if parts else []
    missing = [block for block in blocks if asked.keeps or not files or not files[block[0]].exists()]
    if len(missing) < len(blocks):
        progress(f"{parts}: {len(blocks) - len(missing):,} of {counted(len(blocks), 'block')} are there")
    for number, (content, unread, kept[number]) in _run(asked, ensemble, missing, progress):
        bad += (f"{name}: {reason}\n" for name, reason in unread)
        if files:
            # With another ending it is made again, and its bad images listed again, by a call that continues.
            files[number] = files[number].with_suffix(".bad" if unread else "")
            write_bytes(files[number], content)
    if out and form and parts:
        with replacing(out) as file:
            form.join((part.read_bytes() for part in files), file)
        said = f"{counted(len(names), 'image')}: {out}"
        if bad:
            write_text(listed := out.with_name(f"{out.name}.unreadable.txt"), "".join(bad))
            said += f"; {len(bad):,} cannot be read and have uniform probabilities: {listed}"
        shutil.rmtree(parts, ignore_errors=True)
        progress(said)
    return tuple(chain.from_iterable(kept[number] for number in sorted(kept)))


def _part_files(folder: Path, asked: Asked, ensemble: LoadedEnsemble, blocks: Blocks) -> list[Path]:
    """Returns where each block is kept; the name depends on its images' names, sizes and times, and on the run."""
    weights = [find_finished(ensemble.paths, ensemble.plan.last_stage(member)) for member in ensemble.members]
    record, store = ensemble.record, ensemble.store
    seen_by = (record.crops, record.numerics, store.digest, store.rules, code_digest())
    made_by = (ensemble.members, weights, ensemble.combination, seen_by, asked.written, asked.lists_bad)
    begun, files = hashlib.sha256(repr(made_by).encode()), []
    for block in blocks:
        digest = begun.copy()
        digest.update(repr(block).encode())
        for path in map(Path, block[1]):
            # An object store would have to be asked for each image; its images have no file here.
            about = path.stat() if path.exists() else None
            digest.update(f"{about and (about.st_size, about.st_mtime_ns)}".encode())
        files.append(folder / digest.hexdigest())
    return files


def _run(asked: Asked, ensemble: LoadedEnsemble, blocks: Blocks, progress: Say) -> Iterator[tuple[int, Found]]:
    """Yields the number of each block and what is found, in any order."""
    say = [progress] if len(blocks) == 1 else []
    here = ((block, _predict_block(asked, ensemble, block, *say)) for block in blocks)
    left, done, began_s = sum(len(names) for _, names, _ in blocks), 0, time.monotonic()
    said_s = began_s
    for (number, names, _), found in here if asked.cluster is None else _elsewhere(asked, ensemble, blocks):
        for name, reason in found[1]:
            if not asked.lists_bad:
                advice = "replace it, leave it out, or give --on-bad list"
                raise DataError(f"{name}: cannot be read as an image ({reason}); {advice}")
            progress(f"{name}: cannot be read ({reason})")
        done, left, now_s = done + len(names), left - len(names), time.monotonic()
        if now_s - said_s > _SAID_EVERY_S and left:
            said_s, rate = now_s, done / (now_s - began_s)
            ahead = f"{counted(left, 'image')} and {duration(left / rate)} left"
            progress(f"{counted(done, 'image')} predicted, {rate:,.0f} images/s; {ahead}")
        yield number, found


def _elsewhere(asked: Asked, ensemble: LoadedEnsemble, blocks: Blocks) -> Iterator[tuple[ImageBlock, Found]]:
    from orchestrator.cluster import SHARE, run_tasks

    for block, found in run_tasks(ClusterConfig(asked.cluster), ensemble.needs, _predict_there, asked, iter(blocks)):
        for name, reason in found[1]:
            if not isinstance(_read(asked, ensemble, name), str):
                raise StorageError(f"{name}: a node cannot read it ({reason}), and this machine can; {SHARE}")
        yield block, found


# A process of a cluster keeps its nets for later blocks.
_opened = lru_cache(maxsize=1)(LoadedEnsemble.open)


def _predict_there(asked: Asked, block: ImageBlock, code: str) -> Found:
    if code != code_digest():
        raise ConfigError("a node that has joined has other code of workers/: install the same Septet there")
    return _predict_block(asked, _opened(asked.paths, asked.member, trust_code=asked.trust_code), block)


def _predict_block(asked: Asked, ensemble: LoadedEnsemble, block: ImageBlock, *progress: Say) -> Found:
    """Predicts a block; nothing of it if an image is bad and such are not to be listed."""
    names, images, unread = block[1], list[np.ndarray](), dict[int, str]()
    # Object stores take tens of milliseconds to answer.
    num_readers = 16 if any(map(is_url, names)) else None
    for row, image in enumerate(map_in_order(partial(_read, asked, ensemble), names, num_readers)):
        if isinstance(image, str):
            unread[row], image = image, np.zeros((ensemble.size, ensemble.size, 3), np.uint8)
        images.append(image)
    bad = [(names[row], reason) for row, reason in unread.items()]
    if bad and not asked.lists_bad:
        return b"", bad, ()
    combined = ensemble.predict(images, *progress)
    for member in combined.members:
        # As members' predictions of a run's own unreadable images are counted.
        np.asarray(member)[list(unread)] = 1 / len(ensemble.classes)
    found, form = ensemble.describe(combined, names, asked.top), asked.written
    content = form.block(block, found, combined[:]) if form else b""
    return content, bad, found if asked.keeps or not form else ()


def _read(asked: Asked, ensemble: LoadedEnsemble, name: str) -> np.ndarray | str:
    """Returns an image as `LoadedEnsemble.read` does, or why it cannot be read."""
    try:
        return ensemble.read(read_image(name, asked.folder), name)
    except SourceLost:
        raise
    except (BadImage, DataError) as bad:
        return str(bad if isinstance(bad, BadImage) else bad.__cause__)


def _check_out(path: Path, form: str) -> None:
    """Raises ConfigError if `path` could not be written in that form, or is a run's; called before any work."""
    if form not in ("top", "probabilities", "labels") and not Path(form).is_file():
        raise ConfigError(f"--form {form}: give top, probabilities, labels, or the file of a sample submission")
    endings = _OUT_SUFFIXES if form == "top" else _OUT_SUFFIXES[:1]
    if path.suffix.lower() not in endings:
        raise ConfigError(f"--out {path}: give a file that ends in {' or '.join(endings)}")
    if not (folder := path.absolute().parent).is_dir() or path.is_dir():
        raise ConfigError(f"--out {path}: {'is a folder' if path.is_dir() else f'there is no folder {folder}'}")
    refuse_run_dir(path)


def _form_of(
    asked: Asked, out: Path, ensemble: LoadedEnsemble, names: Sequence[str]
) -> tuple[Form, Sequence[str], Sequence[str]]:
    """Returns the form of `out`, and the images' names and ids in its order.

    Raises:
        ConfigError: a sample submission has other ids than the images, or other columns than the classes.
    """
    kind, template, suffix = asked.form, None, out.suffix.lower()
    if kind == "top":
        return Form(suffix, min(asked.top, len(ensemble.classes))), names, names
    try:
        if kind not in ("probabilities", "labels"):
            template, _ = read_named(SubmissionConfig(template=kind))
            kind = "labels" if template and len(template.header) == 2 else "probabilities"
        if template and template.header[1:] == ("PredictionString",):
            raise ConfigError(f"--form {asked.form}: no boxes are written; see submission=kaggle_loc")
        manifest, no_sizes = find_manifest(ensemble.paths), np.empty((0, 2), np.int32)
        question = Question(SubmissionFormat(kind), tuple(names), ensemble.classes, no_sizes, template)
        layout = make_layout(replace(question, class_ids=manifest.class_names if manifest else None))
    except ConfigError as error:
        raise ConfigError(str(error).replace("submission.template", "--form")) from error
    form = Form(suffix, 0, replace(question, rows=(), template=None), replace(layout, ids=(), order=layout.order[:0]))
    return form, [names[row] for row in layout.order], layout.ids


def prediction_lines(predictions: Sequence[Prediction]) -> tuple[str, ...]:
    """Returns a line for each image, like `cat.jpg: tabby 81.2%, tiger cat 11.0%`."""
    return tuple(
        f"{prediction.path}: " + ", ".join(f"{guess.name} {guess.probability:.1%}" for guess in prediction.top)
        for prediction in predictions
    )
