"""`septet predict`: images in blocks, here or on a cluster, in bounded memory; continued where a call was stopped."""

import csv
import hashlib
import io
import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import ClusterConfig
from orchestrator.loaded import LoadedEnsemble, Prediction
from orchestrator.prediction.blocks import Asked, BlockPredictor, ImageBlock, PredictedBlock
from orchestrator.prediction.forms import TOP, check_out, make_form
from orchestrator.prediction.inputs import find_images
from orchestrator.run import RunPaths, find_finished
from orchestrator.text import counted, duration
from workers.errors import DataError, StorageError
from workers.numerics import code_digest
from workers.storage import replacing, write_bytes, write_text

# 256-pixel squares of one block: 100 MB; whole images, a third more if 4:3. A multiple of what goes through a net at
# once, so that bits do not depend on it.
_BLOCK_IMAGES = 512
_SAID_EVERY_S = 10.0


@dataclass(frozen=True)
class Options:
    """What else is asked of `predict`.

    Attributes:
        member: predicts alone, without a submission's calibration or prediction sets.
        trust_code: runs the code of nets that the run keeps.
        root: what paths in lists are relative to.
        out: the file to write; `form` is one of FORMS, and `template` a sample submission to follow instead.
        keeps: returns the predictions, though a file is written.
        lists_bad: images that cannot be read get uniform probabilities, and are listed.
        cluster: the address of the Ray cluster whose nodes predict.
    """

    member: str | None = None
    trust_code: bool = False
    root: str | None = None
    out: Path | None = None
    form: str = TOP
    template: Path | None = None
    keeps: bool = True
    lists_bad: bool = False
    cluster: str | None = None


def predict(
    paths: RunPaths, given: Sequence[str], top: int, progress: Callable[[str], None], options: Options | None = None
) -> tuple[Prediction, ...]:
    """Predicts images with every member of a finished run, combined as in its submission.

    Args:
        paths: the run directory.
        given: what `find_images` takes.
        top: number of classes to return for each image.
        progress: called with a line now and then.
        options: what else is asked.

    Returns:
        The predictions in the order of the images or of the template; none unless they are kept.

    Raises:
        ConfigError: the run's nets need code that is not trusted, it has no such member with a net, or the file cannot
            be made as asked.
        DataError: no run, no such file, no image in a folder, or an image that cannot be read (it is named).
        MemberFailed: a member has not finished.
        StorageError: the submission's manifest, which says how to combine, is damaged, or the file cannot be written.
        ClusterLost: the cluster is gone.
    """
    options, form, layout = options or Options(), None, None
    if out := options.out:
        check_out(out, options.form, options.template)
    ensemble = LoadedEnsemble.open(paths, options.member, trust_code=options.trust_code)
    images = find_images(given, options.root)
    if out:
        form, layout = make_form(out, options.form, options.template, top, images, ensemble)
    names = [images.names[row] for row in layout.order] if layout else images.names
    blocks = _blocks(names, layout.ids if layout else names)
    # Processes of a cluster have other working directories.
    folder, keeps = Path.cwd() if options.cluster else Path(), options.keeps or not out
    own, run = (options.member, options.trust_code, top, form, options.lists_bad, keeps), RunPaths(folder / paths.root)
    work = _Work(BlockPredictor(Asked(run, *own, folder), ensemble), options.cluster, progress)
    parts = out.with_name(f"{out.name}.parts") if out and not keeps and len(blocks) > 1 else None
    bad, found = list[tuple[str, str]](), list[Prediction]()

    def contents(results: Iterable[PredictedBlock]) -> Iterator[bytes]:
        for result in results:
            bad.extend(result.bad)
            found.extend(result.found)
            yield result.content

    content = contents(work.in_parts(parts, blocks) if parts else work.at_once(blocks))
    if out and form:
        with replacing(out) as file:
            form.join(content, file)
        progress(f"{counted(len(names), 'image')}: {out}")
    else:
        deque(content, maxlen=0)
    if bad:
        _list_bad(bad, out, progress)
    if parts:
        shutil.rmtree(parts, ignore_errors=True)
    return tuple(found)


def _blocks(names: Sequence[str], ids: Sequence[str]) -> list[ImageBlock]:
    parts = [slice(start, start + _BLOCK_IMAGES) for start in range(0, len(names), _BLOCK_IMAGES)]
    return [ImageBlock(number, tuple(names[part]), tuple(ids[part])) for number, part in enumerate(parts)]


def _unsaid(_line: str) -> None:
    """Says nothing of the members of one block among many."""


def _list_bad(bad: Sequence[tuple[str, str]], out: Path | None, progress: Callable[[str], None]) -> None:
    """Names the images that have uniform probabilities, beside the file or, without one, to `progress`."""
    what = f"{counted(len(bad), 'image')} could not be read: uniform probabilities"
    if out is None:
        for name, reason in bad:
            progress(f"{name}: {reason}")
        progress(what)
        return
    path, table = out.with_name(f"{out.name}.unreadable.csv"), io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("path", "reason"), *bad])
    write_text(path, table.getvalue())
    progress(f"{what}; {path}")


@dataclass(frozen=True)
class _Work:
    """Predicts blocks in this process or, with `cluster`, on the nodes there."""

    predictor: BlockPredictor
    cluster: str | None
    progress: Callable[[str], None]

    def at_once(self, blocks: Sequence[ImageBlock]) -> list[PredictedBlock]:
        """Returns what is found of `blocks`, in their order."""
        found = dict(self._run(blocks))
        return [found[block.number] for block in blocks]

    def in_parts(self, folder: Path, blocks: Sequence[ImageBlock]) -> Iterator[PredictedBlock]:
        """Returns the same, block by block, out of files in `folder`; those that are there are not made again.

        The name of a file says of which images, and their sizes and times, it is, and what made it.
        """
        made_by = self._made_by()
        parts = [folder / _digest(made_by, block) for block in blocks]
        missing = [block for block, part in zip(blocks, parts, strict=True) if not part.exists()]
        if len(missing) < len(blocks):
            self.progress(f"{folder}: {len(blocks) - len(missing):,} of {counted(len(blocks), 'block')} are there")
        for number, found in self._run(missing):
            write_bytes(parts[number], json.dumps(found.bad).encode() + b"\n" + found.content)
        return map(_read_part, parts)

    def _run(self, blocks: Sequence[ImageBlock]) -> Iterator[tuple[int, PredictedBlock]]:
        """Yields the number of each block and what is found, in any order; says now and then how far it is."""
        left, done, began_s = sum(len(block.names) for block in blocks), 0, time.monotonic()
        said_s = began_s
        for block, found in self._predicted(blocks):
            if found.bad and not self.predictor.asked.lists_bad:
                name, reason = found.bad[0]
                advice = "replace it, leave it out, or give --on-bad list"
                raise DataError(f"{name}: cannot be read as an image ({reason}); {advice}")
            done, left, now_s = done + len(block.names), left - len(block.names), time.monotonic()
            if now_s - said_s > _SAID_EVERY_S and left:
                said_s, rate = now_s, done / (now_s - began_s)
                ahead = f"{counted(left, 'image')} and {duration(left / rate)} left"
                self.progress(f"{counted(done, 'image')} predicted, {rate:,.0f} images/s; {ahead}")
            yield block.number, found

    def _predicted(self, blocks: Sequence[ImageBlock]) -> Iterator[tuple[ImageBlock, PredictedBlock]]:
        predict = self.predictor
        if self.cluster is None:
            say = self.progress if len(blocks) == 1 else _unsaid
            yield from ((block, predict(block, say)) for block in blocks)
            return
        from orchestrator.cluster import SHARE, Needs, predict_blocks

        record = predict.ensemble.record
        settings = ClusterConfig(
            address=self.cluster,
            cpus_per_member=record.numerics.threads,
            gpus_per_member=float(record.numerics.device != "cpu"),
        )
        needs = Needs(code_digest(), numerics=record.numerics, stores=(predict.ensemble.store.path,))
        for block, found in predict_blocks(settings, needs, predict.asked.open, blocks):
            for name, reason in found.bad:
                if not isinstance(predict.read(name), str):
                    raise StorageError(f"{name}: a node cannot read it ({reason}), and this machine can; {SHARE}")
            yield block, found

    def _made_by(self) -> str:
        """Returns what identifies the run's weights, and all else that a part depends on but its images."""
        asked, loaded = self.predictor.asked, self.predictor.ensemble
        weights = [find_finished(loaded.paths, loaded.plan.last_stage(member)) for member in loaded.members]
        run = (loaded.members, weights, loaded.combination, loaded.record.crops, loaded.record.numerics)
        return repr((run, loaded.store.digest, loaded.rules, asked.form, asked.lists_bad, code_digest()))


def _digest(made_by: str, block: ImageBlock) -> str:
    digest = hashlib.sha256(made_by.encode(errors="surrogateescape"))
    for name, image_id in zip(block.names, block.ids, strict=True):
        try:
            about = Path(name).stat()
            version = f"{about.st_size} {about.st_mtime_ns}"
        except OSError:
            # In an object store, which would be asked again for each image; or it is not there.
            version = ""
        digest.update(f"{name}\0{image_id}\0{version}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _read_part(path: Path) -> PredictedBlock:
    bad, _, content = path.read_bytes().partition(b"\n")
    return PredictedBlock(content, tuple(map(tuple, json.loads(bad))))
