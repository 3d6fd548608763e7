"""Holds what a report is made from. A part of the page is a function of it that returns a `Section` or None."""

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.combine import Combined, MemberPredictions
from orchestrator.fitting import Worth
from orchestrator.plan import Plan
from orchestrator.report.review import Review
from orchestrator.report.sections import Fact
from orchestrator.report.table import Caveats, SplitScores
from orchestrator.run import RunData, RunPaths, RunRecord


@dataclass(frozen=True)
class Valued:
    """What members are worth on the `num_images` of a split, and what each cost; None if that is unknown."""

    split: str
    num_images: int
    worth: Worth
    core_seconds: Mapping[str, float | None]


@dataclass(frozen=True)
class Evidence:
    """What a report is made from.

    `scores` has the main split first, or nothing; `predictions` are the members' of the submitted split. `combined` are
    the ensemble's probabilities by split, where there are some, read from files when they are asked for a block.
    `worth` is what members are worth on the main split, if there are two; `review` are the labels to review, if there
    are out-of-fold predictions.
    """

    paths: RunPaths
    plan: Plan
    record: RunRecord
    data: RunData
    scores: tuple[SplitScores, ...]
    predictions: Mapping[str, MemberPredictions]
    combined: Mapping[str, Combined]
    caveats: Caveats
    worth: Valued | None = None
    review: Review | None = None
    submitted: Fact | None = None

    @property
    def main(self) -> SplitScores | None:
        """Returns the scores of the main split, if any is scored."""
        return self.scores[0] if self.scores else None
