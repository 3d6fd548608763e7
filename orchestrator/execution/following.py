"""Hands what running stages write to the tracker and the ledger."""

import logging
from collections.abc import Iterable

from orchestrator.plan import StageRef, TrainJob
from orchestrator.run import Follower, Ledger, RunPaths
from orchestrator.tracking import Tracker
from workers.storage import newest_step
from workers.training import read_step

AT_CHANCE_TAG = "septet.at_chance"
_AT_CHANCE = "at_chance"
_PASSED_NAN_TAG = "septet.passed_nan"
_log = logging.getLogger(__name__)


class Following:
    """Reads the metrics of stages as they grow."""

    def __init__(self, paths: RunPaths, ledger: Ledger, tracker: Tracker) -> None:
        self._paths, self._ledger, self._tracker = paths, ledger, tracker
        self._followers: dict[StageRef, Follower] = {}

    def read(self, refs: Iterable[StageRef]) -> None:
        """Sends the tracker and the ledger the new metrics of `refs`."""
        for ref in refs:
            job = TrainJob(ref)
            points = self._followers.setdefault(ref, Follower(self._paths.metrics(ref))).read()
            for point in points:
                self._tracker.log(ref, point.step, point.time, point.metrics)
            self._ledger.reach(job, read_step(self._paths.step(ref)))
            if self._ledger.entry(job).open_nans:
                self.note_passed(ref, newest_step(self._paths.checkpoints(ref)))
            flags = [point.metrics[_AT_CHANCE] for point in points if _AT_CHANCE in point.metrics]
            if flags and bool(flags[-1]) != self._ledger.entry(job).at_chance:
                self._ledger.flag_at_chance(job, bool(flags[-1]))
                self._tracker.tag(ref, AT_CHANCE_TAG, str(bool(flags[-1])).lower())

    def end(self, ref: StageRef) -> None:
        """Drops what was read of a finished stage, which is held until then."""
        self._followers.pop(ref, None)

    def note_passed(self, ref: StageRef, beyond: int) -> None:
        """Records NaNs that did not come again: a checkpoint beyond their update shows it."""
        passed = self._ledger.pass_nans(TrainJob(ref), beyond)
        if passed:
            steps = ", ".join(map(str, passed))
            _log.warning("%s: the NaN at update %s did not come again in a replay: check the hardware", ref, steps)
            all_passed = self._ledger.entry(TrainJob(ref)).passed_nans
            self._tracker.tag(ref, _PASSED_NAN_TAG, ", ".join(map(str, all_passed)))
