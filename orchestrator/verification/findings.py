"""Holds what `septet verify` finds, as values and as text."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.combine import STUDENT
from orchestrator.plan import Plan
from orchestrator.run import RunPaths, RunRecord, alteration
from orchestrator.submission import Manifest
from orchestrator.text import counted
from workers.errors import CheckFailed, MemberFailed

# `differs` is a failed check; `missing` is something that an unfinished run does not have yet.
Kind = StrEnum("Kind", "differs missing")


@dataclass(frozen=True)
class Problem:
    """One problem, in a line."""

    kind: Kind
    what: str


@dataclass(frozen=True)
class Verification:
    """The result. `checked` counts what was checked; `manifest_sha256` is the digest to keep outside the run."""

    problems: tuple[Problem, ...]
    notes: tuple[str, ...]
    checked: Mapping[str, int]
    rebuilt: bool
    manifest_sha256: str | None

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass
class Examined:
    """The run being checked, and what has been found so far."""

    paths: RunPaths
    record: RunRecord
    plan: Plan
    manifest: Manifest | None = None
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    rebuilt: bool = False

    def differs(self, what: object) -> None:
        self.problems.append(Problem(Kind.differs, " ".join(str(what).split())))

    def lacks(self, what: object) -> None:
        self.problems.append(Problem(Kind.missing, " ".join(str(what).split())))

    def count(self, what: str) -> None:
        self.checked[what] = self.checked.get(what, 0) + 1

    def compare(self, what: str, found: str, recorded: str) -> None:
        """Compares a digest with the one in run.json."""
        if altered := alteration(what, found, recorded):
            self.differs(altered)

    @property
    def gone(self) -> dict[str, str]:
        """Returns the members that the submission does without, and why; but for students, which are to be there."""
        return {one.member: one.why for one in self.manifest.missing if one.why != STUDENT} if self.manifest else {}


def verification_json(found: Verification) -> dict[str, Any]:
    """Returns the document of `septet verify --json`."""
    return {
        "ok": found.ok,
        "problems": [problem.what for problem in found.problems],
        "kinds": [problem.kind.value for problem in found.problems],
        "notes": list(found.notes),
        "checked": dict(found.checked),
        "rebuilt": found.rebuilt,
        "manifest_sha256": found.manifest_sha256,
    }


def verification_lines(name: str, found: Verification) -> Iterator[str]:
    """Yields lines for a person."""
    counts = ", ".join(f"{what}: {count}" for what, count in found.checked.items())
    verdict = "all as committed" if found.ok else counted(len(found.problems), "problem")
    yield f"{name}: {verdict} ({counts or 'nothing yet'})"
    for problem in found.problems:
        yield f"  {problem.kind:<8} {problem.what}"
    if found.rebuilt:
        yield "submission  made again from the predictions: the same byte for byte"
    if found.manifest_sha256:
        yield f"digest      {found.manifest_sha256} (sha256 of the submission's manifest.json)"
    for note in found.notes:
        yield f"note        {note}"


def require_ok(paths: RunPaths, found: Verification) -> None:
    """Raises CheckFailed if something differs, MemberFailed if something is only missing."""
    if found.ok:
        return
    worst = next((one for one in found.problems if one.kind is Kind.differs), found.problems[0])
    more = f" (and {counted(len(found.problems) - 1, 'more problem')})" if len(found.problems) > 1 else ""
    error = CheckFailed if worst.kind is Kind.differs else MemberFailed
    raise error(f"{paths.root}: {worst.what}{more}; `septet launch` makes derived files again")
