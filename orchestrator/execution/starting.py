"""Chooses the jobs that start now: predictions first, since they are short and free their actor, then stages.

Stages go by the launch's budget and by how wide members are, and else by the longest path.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from orchestrator.cluster import RayCluster
from orchestrator.execution.budget import Budget
from orchestrator.execution.jobs import Work
from orchestrator.execution.pace import Pace
from orchestrator.execution.widths import WidthChoice
from orchestrator.plan import Job, Plan, StageRef, TrainJob, ready
from orchestrator.run import Ledger


@dataclass(frozen=True)
class Starts:
    """Jobs to start with the workers of each, members to stop for another width, and how many stages have no slot.

    The last is 0 unless the cluster grows by what waits.
    """

    jobs: Mapping[Job, int]
    changes: Collection[str]
    num_waiting: int


class Starting:
    """Chooses for one launch; `clock` returns Unix seconds."""

    def __init__(self, work: Work, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._work = work
        pace = Pace(work.plan, work.widths, ledger, clock)
        self.budget = Budget(work, ledger, clock, pace)
        self._widths = WidthChoice(work.widths, ledger, clock, pace)

    def choose(
        self,
        trainable: Plan,
        done: Collection[StageRef],
        predicting: Collection[Job],
        predicted: Collection[str],
        running: Mapping[Job, int],
        moving: Collection[str],
        cluster: RayCluster,
    ) -> Starts:
        """Returns what starts now.

        Args:
            trainable: the plan's stages that may run.
            done: stages whose results are committed.
            predicting: predictions that can start.
            predicted: members that have predicted.
            running: the workers of each running job.
            moving: members that are already stopping.
            cluster: says how many workers fit at once.
        """
        slots = cluster.num_slots
        free = max(0, slots - sum(running.values()))
        jobs: dict[Job, int] = dict.fromkeys(list(predicting)[:free], 1)
        kept_out, changes = len(predicting) - len(jobs), list[str]()
        taught = {self._work.plan.last_stages[member] for member in predicted}
        in_work = {job.ref: width for job, width in {**running, **jobs}.items()}
        for plan in self.budget.in_order(trainable, done, taught, in_work, slots):
            found, changed = self._widths.starts(plan, done, {**running, **jobs}, slots, taught, moving, kept_out)
            jobs |= {TrainJob(ref): width for ref, width in found.items()}
            changes += changed
            # Those that go first keep their widths, whoever waits to go after them.
            moving = trainable.members
        num_waiting = 0
        if cluster.grows:
            begun = [job.ref for job in (*running, *jobs)]
            num_waiting = len(ready(trainable, done, begun, sys.maxsize, predicted=taught))
        return Starts(jobs, changes, num_waiting)
