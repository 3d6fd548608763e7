"""Notes where attempts run, and leaves out a node on which members fail as they do nowhere else."""

import logging
from collections.abc import Collection, Iterable

from orchestrator.cluster import RayCluster
from orchestrator.plan import Job, TrainJob
from orchestrator.run import Attempt, AttemptEnd, Ledger
from orchestrator.tracking import Tracker

_TROUBLE = (AttemptEnd.lost, AttemptEnd.failed, AttemptEnd.diverged)
# One member alone may be at fault itself.
_FEWEST_MEMBERS = 2
_NODE_TAG = "septet.node"
_log = logging.getLogger(__name__)


def suspects(
    attempts: Iterable[tuple[str, Attempt]], nodes: Collection[str], before: Collection[str] = ()
) -> dict[str, str]:
    """Returns the `nodes` on which members fail as nowhere else, each with a line for the user.

    On a suspect two members or more ended with one kind of error that no member has met on another node. If all nodes
    were suspects, none is, since members must run somewhere.

    Args:
        attempts: of one launch, each with its member.
        nodes: Ray's ids of the nodes that members may use.
        before: those of earlier suspects, which may have gone since.
    """
    met: dict[str, dict[str, dict[str, Attempt]]] = {}
    for member, attempt in attempts:
        if attempt.outcome in _TROUBLE and attempt.where is not None:
            met.setdefault(attempt.kind, {}).setdefault(attempt.where.node_id, {})[member] = attempt
    found = {}
    for kind, places in met.items():
        (node, members), *elsewhere = places.items()
        if node in {*nodes, *before} and not elsewhere and len(members) >= _FEWEST_MEMBERS:
            where, who = next(iter(members.values())).where, " and ".join(sorted(members))
            found[node] = (
                f"in quarantine: node {where and where.machine}: {who} ended there with {kind}, as none did "
                "elsewhere: look at that machine; the next launch uses it again"
            )
    return {} if nodes and not set(nodes) - found.keys() else found


class NodeWatch:
    """Keeps the ledger's and MLflow's record of the nodes up to date."""

    def __init__(self, ledger: Ledger, tracker: Tracker) -> None:
        self._ledger, self._tracker = ledger, tracker
        self._suspects: dict[str, str] = {}

    def note(self, cluster: RayCluster, jobs: Iterable[Job]) -> None:
        """Records the places of the running `jobs` that are known by now, and the nodes that are not used."""
        if self._suspects:
            # The other nodes may have gone.
            self.judge(cluster)
        self._ledger.leave_out(cluster.left_out)
        for job in jobs:
            if self._ledger.last(job).where is None and (where := cluster.where(job.member)):
                self._ledger.place(job, where)
                if isinstance(job, TrainJob):
                    self._tracker.tag(job.ref, _NODE_TAG, str(where))

    def judge(self, cluster: RayCluster) -> None:
        """Decides again which nodes are in quarantine; a kind of error that is met elsewhere too ends one."""
        if cluster.is_local:
            return
        nodes = [node.name for node in cluster.nodes()]
        found = suspects(self._ledger.contents.attempts, nodes, self._suspects)
        for node in found.keys() - self._suspects.keys():
            _log.warning("%s", found[node])
        for node in self._suspects.keys() - found.keys():
            _log.warning("no longer %s", ": ".join(self._suspects[node].split(": ")[:2]))
        self._suspects = found
        cluster.quarantine(found)
        self._ledger.leave_out(cluster.left_out)
