"""Opens the ensemble of a finished run once and predicts images with it; its nets stay in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from orchestrator.cluster import Needs
from orchestrator.combine import ClassProbability, Combination, Combined, equal, top_classes
from orchestrator.config import TARGET, CombineMethod, choices
from orchestrator.execution import normaliser
from orchestrator.fitting import uncertainties
from orchestrator.inputs import require_trust
from orchestrator.plan import Plan, plan_from_json
from orchestrator.run import RunPaths, RunRecord, find_finished, from_kept_code, read_record
from orchestrator.submission import read_manifest
from orchestrator.text import counted
from workers.data.decoding import BadImage, Rules, decode, kept_pixels
from workers.data.named import read_image
from workers.data.store import Store, open_store
from workers.errors import ConfigError, DataError, MemberFailed
from workers.numerics import capabilities, code_digest, usable
from workers.settings import Exif

if TYPE_CHECKING:
    # Not loaded here: torch takes a second, and a mistyped path should be reported at once.
    from workers.inference import TrainedMember

# An image as people have it: a path or URL, a file's content, a picture, or uint8 [height, width(, 3)].
Given = str | Path | bytes | Image.Image | np.ndarray


@dataclass(frozen=True)
class Prediction:
    """The best classes of an image, how sure the ensemble is (see `Uncertainty`), and its prediction set, if any."""

    path: str
    top: tuple[ClassProbability, ...]
    entropy: float
    mutual_information: float
    set: tuple[str, ...] | None

    def to_json(self, most: int | None = None) -> dict[str, Any]:
        """Returns the prediction, as `septet predict --json` prints it, with at most so many classes."""
        top = [{"class": guess.name, "probability": guess.probability} for guess in self.top[:most]]
        doubts = {"entropy": self.entropy, "mutual_information": self.mutual_information, "set": self.set}
        return {"path": self.path, "top": top, **doubts}


@dataclass(frozen=True)
class LoadedEnsemble:
    """The members of a finished run, combined as in its last submission; nets are loaded once, by the thread in use."""

    paths: RunPaths
    record: RunRecord
    plan: Plan
    store: Store
    members: tuple[str, ...]
    combination: Combination
    rules: Rules
    _nets: "dict[str, TrainedMember]" = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, paths: RunPaths, member: str | None = None, *, trust_code: bool = False) -> "LoadedEnsemble":
        """Opens a finished run.

        With `member`, that one predicts alone, without a submission's calibration or prediction sets.
        `trust_code` runs the code of nets that the run keeps.

        Raises:
            ConfigError: the run's nets need code that is not trusted, or it has no such member with a net.
            DataError, MemberFailed: there is no such run, or a member has not finished.
            StorageError: the submission's manifest, which says how to combine, or the store is damaged.
        """
        record = read_record(paths)
        plan = plan_from_json(record.plan)
        members, combination = _members(paths, plan, member or None)
        for stage in map(plan.last_stage, members):
            # Of the code that would run, which may be another than lies where the run says that it came from.
            require_trust(from_kept_code(paths, stage.recipe).model, trusted=trust_code)
        store = open_store(Path(record.stores[TARGET]))
        return cls(paths, record, plan, store, members, combination, store.rules)

    @property
    def classes(self) -> tuple[str, ...]:
        return self.store.classes

    @property
    def size(self) -> int:
        return self.store.size

    @property
    def needs(self) -> Needs:
        """What a node of a cluster needs to predict with it."""
        return Needs(code_digest(), numerics=self.record.numerics, stores=(self.store.path,))

    def read(self, given: Given, name: str = "image") -> np.ndarray:
        """Decodes an image as the run's were, [height, width, 3] uint8; raises DataError, with its path or `name`."""
        try:
            if isinstance(given, np.ndarray):
                if given.dtype != np.uint8 or given.ndim < 2 or given.shape[2:] not in ((), (3,), (4,)):
                    raise BadImage(f"an array of {given.dtype} {given.shape}; give uint8 (height, width, 3)")
                given = Image.fromarray(given)
            if isinstance(given, Image.Image):
                shown = ImageOps.exif_transpose(given) if self.rules.exif is Exif.apply else given
                return kept_pixels(shown, self.size, self.rules.keep)
            if not isinstance(given, bytes):
                name = str(given)
                given = read_image(name, Path())
            return decode(given, self.size, rules=self.rules).pixels
        except (BadImage, OSError) as bad:
            raise DataError(f"{name}: cannot be read as an image ({bad}); replace it or leave it out") from bad

    def predict(self, images: Sequence[np.ndarray], progress: Callable[[str], None] = lambda _: None) -> Combined:
        """Predicts at least one image, as `read` returns it; a slice of the result is float32 (rows, classes)."""
        from workers.inference import predict_images

        found = []
        for member in self.members:
            progress(f"{member}: predicting {counted(len(images), 'image')}")
            found.append(predict_images(self.net(member), images, self.record.crops))
        return Combined(found, self.combination)

    def describe(self, combined: Combined, names: Sequence[str], top: int) -> tuple[Prediction, ...]:
        """Returns what `predict` found of the images called `names`, with the `top` most probable classes of each."""
        probabilities, classes = combined[:], self.classes
        members = [member[:] for member in combined.members]
        best, doubts = top_classes(probabilities, top), uncertainties(self.combination, probabilities, members)
        found = []
        for name, row, places, doubt in zip(names, probabilities, best, doubts, strict=True):
            guesses = tuple(ClassProbability(classes[place], float(row[place])) for place in places)
            kept = None if doubt.classes is None else tuple(classes[place] for place in doubt.classes)
            found.append(Prediction(name, guesses, doubt.entropy, doubt.mutual_information, kept))
        return tuple(found)

    def net(self, member: str) -> "TrainedMember":
        """Returns a member's net, which is loaded once; raises as `load_member`."""
        from workers.inference import load_member

        if member not in self._nets:
            stage = self.plan.last_stage(member)
            recipe, folder = from_kept_code(self.paths, stage.recipe), self.paths.stage(stage.ref)
            given = normaliser(self.plan, stage, {name: Path(path) for name, path in self.record.stores.items()})
            numerics = usable(self.record.numerics, capabilities())
            self._nets[member] = load_member(folder, self.store.path, recipe, numerics, given)
        return self._nets[member]


def _members(paths: RunPaths, plan: Plan, alone: str | None) -> tuple[tuple[str, ...], Combination]:
    """Returns the members that predict, in the submission's order, so that sums are equal; and their combination."""
    if alone is not None and alone not in plan.trained:
        why = "the run has no such member"
        why = "has predictions from files alone, none of new images" if alone in plan.outside else why
        raise ConfigError(f"--member {alone}: {why}; {choices(alone, plan.trained)}")
    manifest = read_manifest(paths) if alone is None else None
    # A submission may do without failed members, if `submission.min_members` allows it; then predictions do too.
    gone = {*plan.students, *(one.member for one in manifest.missing)} if manifest else set[str]()
    wanted = {member for member in plan.members if member not in gone} if alone is None else {alone}
    if given := sorted(wanted & plan.outside.keys()):
        submit = f"`septet submit {paths.root} 'combine.without=[{','.join(given)}]'` to do without"
        raise MemberFailed(f"{', '.join(given)}: has predictions from files alone, none of new images; {submit}")
    unfinished = [name for name in plan.members if name in wanted and not find_finished(paths, plan.last_stage(name))]
    if unfinished:
        raise MemberFailed(f"{paths.root}: not finished: {', '.join(unfinished)}; run `septet launch` again")
    if manifest is None:
        return tuple(wanted), equal(CombineMethod.mean, 1)
    members = tuple(member.name for member in manifest.members)
    if wanted != set(members):
        others = ", ".join(sorted(wanted.symmetric_difference(members)))
        raise MemberFailed(
            f"{paths.submission_manifest}: its members are not this run's ({others}); run `septet launch` again"
        )
    return members, manifest.combination


def refuse_run_dir(out: Path) -> None:
    """Raises ConfigError if `out` lies in a run directory, whose files are the run's own."""
    for folder in out.resolve().parents:
        if RunPaths(folder).run_json.exists():
            raise ConfigError(f"--out {out}: lies in the run directory {folder}; give another place")
