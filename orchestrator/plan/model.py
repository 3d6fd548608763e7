"""Defines a plan: its stages, the datasets they read, and its JSON form in run.json. Pure."""

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from orchestrator.config import TARGET, overlay
from workers.protocol import InitFile
from workers.settings import OUT_OF_FOLD, Fold, Normalisation, Recipe


@dataclass(frozen=True, order=True)
class StageRef:
    """Names a stage in the run: `<member>/<stage>`."""

    member: str
    stage: str

    def __str__(self) -> str:
        return f"{self.member}/{self.stage}"

    @staticmethod
    def parse(text: str) -> "StageRef":
        """Reads what `str` wrote."""
        member, _, stage = text.partition("/")
        return StageRef(member, stage)


@dataclass(frozen=True)
class Job:
    """Work of a member's actor on the stage `ref`."""

    ref: StageRef

    @property
    def member(self) -> str:
        return self.ref.member


class TrainJob(Job):
    """Trains one stage."""

    def __str__(self) -> str:
        return str(self.ref)


class PredictJob(Job):
    """Predicts the target's held-out splits as `member`, with the weights of its last stage `ref`."""

    def __str__(self) -> str:
        return f"{self.member}/predictions"


@dataclass(frozen=True)
class PlannedDataset:
    """Holds the options and classes of a dataset that affect weights, and the number of images by split.

    If the images were absent at planning, `classes` may be empty and `declared` is true. `relabelled` is a line on what
    `relabel` changes; `left_out` is the sha256 of the names of images that it leaves out, "" without any.
    """

    name: str
    options: Mapping[str, Any]
    classes: tuple[str, ...]
    num_classes: int
    counts: Mapping[str, int]
    declared: bool
    relabelled: str = ""
    left_out: str = ""

    @property
    def holds_out(self) -> bool:
        """Whether a stage on it has labelled images to look at."""
        return bool(self.counts.get("dev") or self.counts.get("val"))


@dataclass(frozen=True)
class Stage:
    """Describes one stage of one member: its recipe, and everything that the plan resolves.

    `init_from`, `init_file` and `refit` are resolved from the recipe. `num_images` counts one epoch, `num_updates`
    counts all. Both are upper bounds: preparation leaves out copies of held-out images, and a stage may end early.
    `hash` covers everything that affects the weights, ancestors included; `trunk` all of that but the epochs. It learns
    from what the `teachers`, last stages of members of the folds, predict.
    """

    ref: StageRef
    recipe: Recipe
    init_from: StageRef | None
    member_seed: int
    seed: int
    hash: str
    num_images: int
    num_updates: int
    num_classes: int
    init_file: InitFile | None = None
    trunk: str = ""
    refit: StageRef | None = None
    teachers: tuple[StageRef, ...] = ()

    @property
    def after(self) -> StageRef | None:
        """The stage that has to be done before: the one that this one refits or starts from."""
        return self.refit or self.init_from

    @property
    def follows(self) -> tuple[StageRef, ...]:
        """All stages that have to be done before."""
        return self.teachers if self.after is None else (self.after, *self.teachers)

    @property
    def may_end_early(self) -> bool:
        return self.recipe.schedule.stop_when_stalled or self.refit is not None


@dataclass(frozen=True)
class OutsideFile:
    """A file of probabilities that another tool made: its absolute path, and its sha256 at planning."""

    path: str
    sha256: str

    @property
    def checkpoint(self) -> str:
        """What predictions say they were made from: the file's name."""
        return self.path.rpartition("/")[2]

    @property
    def checkpoint_sha256(self) -> str:
        return self.sha256


@dataclass(frozen=True)
class Rung:
    """Lies after 1/`part` of the epochs of each point's last stage; the `kept` best points continue from it."""

    part: int
    kept: int

    def epochs(self, stage: Stage) -> int:
        return -(-stage.recipe.schedule.epochs // self.part)


@dataclass(frozen=True)
class Plan:
    """Holds all stages, each after its ancestor; members and stages are otherwise in the order written.

    No hash covers the `rungs`, first to last, of a sweep that is halved. `outside` has the files, by member and split,
    of members without stages; the plan's hash covers which there are, not their content, which is data.
    """

    experiment: str
    hash: str
    members: tuple[str, ...]
    last_stages: Mapping[str, StageRef]
    datasets: tuple[PlannedDataset, ...]
    stages: tuple[Stage, ...]
    rungs: tuple[Rung, ...] = ()
    outside: Mapping[str, Mapping[str, OutsideFile]] = field(default_factory=dict)

    @cached_property
    def by_ref(self) -> dict[StageRef, Stage]:
        return {stage.ref: stage for stage in self.stages}

    def stage(self, ref: StageRef) -> Stage:
        """Returns the stage; raises KeyError if the plan has none of that name."""
        return self.by_ref[ref]

    @property
    def target(self) -> PlannedDataset:
        return next(dataset for dataset in self.datasets if dataset.name == TARGET)

    @property
    def trained(self) -> tuple[str, ...]:
        """The members that have stages."""
        return tuple(member for member in self.members if member in self.last_stages)

    def lacking(self, split: str) -> tuple[str, ...]:
        """Returns the members from outside that have no predictions of `split`."""
        return tuple(name for name in self.members if name in self.outside and split not in self.outside[name])

    def predict_job(self, member: str) -> PredictJob:
        return PredictJob(self.last_stages[member])

    def last_stage(self, member: str) -> Stage:
        """Returns the stage whose weights predict as `member`."""
        return self.stage(self.last_stages[member])

    def stages_of(self, member: str) -> tuple[Stage, ...]:
        return tuple(stage for stage in self.stages if stage.ref.member == member)

    def ancestors(self, stage: Stage) -> tuple[Stage, ...]:
        """Returns the chain of stages before `stage`, which it starts from or refits, nearest first."""
        chain = []
        while stage.after is not None:
            stage = self.stage(stage.after)
            chain.append(stage)
        return tuple(chain)

    def requires(self, stage: Stage) -> frozenset[Job]:
        """Returns the job of `stage`, and all that have to be done before: its ancestors' and its teachers'."""
        chain = (stage, *self.ancestors(stage))
        teachers = [self.stage(ref) for one in chain for ref in one.teachers]
        own = {TrainJob(one.ref) for one in chain} | {PredictJob(one.ref) for one in teachers}
        return frozenset(own).union(*map(self.requires, teachers))

    def needed_only_by(self, members: Collection[str]) -> frozenset[StageRef]:
        """Returns the stages that no other member's last stage is, or starts from."""
        if not members:
            return frozenset()
        last = [self.last_stage(member) for member in self.trained if member not in members]
        needed = {stage.ref for each in last for stage in (each, *self.ancestors(each))}
        return frozenset(self.by_ref.keys() - needed)

    def is_pretrained(self, member: str) -> bool:
        """Returns whether `member` starts from a file of weights or from a stage on another dataset."""
        if member in self.outside:
            return False
        last = self.last_stage(member)
        ancestors = self.ancestors(last)
        return any(stage.recipe.dataset != TARGET for stage in ancestors) or any(
            stage.init_file is not None for stage in (last, *ancestors)
        )

    @property
    def refits(self) -> tuple[str, ...]:
        """The members that are trained on dev and val too."""
        return tuple(member for member in self.trained if self.last_stage(member).refit is not None)

    @property
    def students(self) -> tuple[str, ...]:
        """The members that learn from the others; they are not averaged."""
        return tuple(member for member, ref in self.last_stages.items() if self.stage(ref).teachers)

    @cached_property
    def voters(self) -> dict[str, str]:
        """The recipe of each member: those of its folds are one voter where something is fitted."""
        return {member: member.removesuffix(self.fold(member).suffix) for member in self.members}

    def fold(self, member: str) -> Fold:
        """Returns the training images that `member` never sees; of one from outside that is not known."""
        return Fold() if member in self.outside else self.last_stage(member).recipe.fold

    @property
    def is_folded(self) -> bool:
        """Whether members are trained in folds."""
        return any(self.fold(member).k for member in self.members)

    @property
    def is_covered(self) -> bool:
        """Whether each recipe has a member for each fold, and one from outside a file: all is predicted out of fold."""
        folds = {member: self.fold(member) for member in self.trained if member not in self.students}
        repeats = {own.repeat for own in folds.values()}
        counts = Counter(self.voters.values())
        whole = not self.lacking(OUT_OF_FOLD) and bool(folds)
        return whole and all(own.k * len(repeats) == counts[self.voters[member]] != 0 for member, own in folds.items())

    def base_members(self) -> tuple[str, ...]:
        return tuple(member for member in self.trained if not self.is_pretrained(member))

    def pretrained_members(self) -> tuple[str, ...]:
        return tuple(member for member in self.members if self.is_pretrained(member))


def normalised_as(stage: Stage, stages: Mapping[StageRef, Stage]) -> Stage:
    """Returns the stage whose normalisation `stage` has: itself, or the one of `stages` that it inherits it from."""
    while stage.recipe.augmentation.normalisation is Normalisation.auto and stage.init_from is not None:
        stage = stages[stage.init_from]
    return stage


def changed(value: object) -> Any:
    """Returns the fields of a value that differ from its class's defaults, as JSON's types.

    Hashes cover these alone, so a new setting at its default changes no plan's hash.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        default = type(value)()
        given = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {name: changed(one) for name, one in given.items() if one != getattr(default, name)}
    if isinstance(value, Mapping):
        return {str(key): changed(item) for key, item in value.items()}
    return plain(value)


def plain(value: object) -> Any:
    """Converts dataclasses, enums and tuples to JSON's types; keys are in field order. A reference becomes its text."""
    if isinstance(value, StageRef):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields the names, with dots, and values of `plain` settings as they are typed; without those that are empty."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{inner}", text) for inner, text in leaves(value))
        elif isinstance(value, list) and value:
            yield name, f"[{','.join(map(str, value))}]"
        elif value not in (None, "", []):
            yield name, str(value).lower() if isinstance(value, bool) else str(value)


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Converts a plan to the JSON that run.json keeps."""
    document: dict[str, Any] = plain(plan)
    return document


def plan_from_json(document: Mapping[str, Any]) -> Plan:
    """Reads a plan back from the JSON of `plan_to_json`.

    Raises:
        KeyError, ConfigError: the document is not a plan of this version.
    """
    return Plan(
        experiment=document["experiment"],
        hash=document["hash"],
        members=tuple(document["members"]),
        stages=tuple(_stage(entry) for entry in document["stages"]),
        datasets=tuple(
            PlannedDataset(**{**entry, "classes": tuple(entry["classes"])}) for entry in document["datasets"]
        ),
        last_stages={member: StageRef.parse(ref) for member, ref in document["last_stages"].items()},
        # Plans of earlier releases lack them.
        rungs=tuple(Rung(**rung) for rung in document.get("rungs", ())),
        outside={
            member: {split: OutsideFile(**file) for split, file in files.items()}
            for member, files in document.get("outside", {}).items()
        },
    )


def _stage(entry: Mapping[str, Any]) -> Stage:
    return Stage(
        **{
            **entry,
            "ref": StageRef.parse(entry["ref"]),
            "init_from": None if entry["init_from"] is None else StageRef.parse(entry["init_from"]),
            "refit": StageRef.parse(first) if (first := entry.get("refit")) else None,
            "teachers": tuple(map(StageRef.parse, entry.get("teachers", ()))),
            "recipe": overlay(Recipe(), entry["recipe"], str(entry["ref"])),
            "init_file": overlay(InitFile("", ""), file, "init_file") if (file := entry["init_file"]) else None,
        }
    )
