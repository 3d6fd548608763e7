"""What may be wrong with a cluster, and what a user then sees: one table for the quick tests and for real clusters.

tests/orchestrator/cluster/test_preflight.py judges what a look at a node would find; tests/faults/test_matrix_nodes.py
and tests/faults/test_matrix_events.py make such nodes and events; docs/cluster.md has a row for each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MOUNT = "mount the shared storage there, at the same path"
_UNWRITABLE = "cannot be written ({}): let this user write there, and free some space"
_READ_ONLY, _FULL = _UNWRITABLE.format("Read-only file system"), _UNWRITABLE.format("No space left on device")


@dataclass(frozen=True)
class Odd:
    """A node that does not fit: `said` is in its line, `code` is the exit code if no node fits and all are as this one.

    `what` is its row in docs/cluster.md. `found` is what a look there finds else than on a good node, None if Ray tells
    that the look failed.
    """

    what: str
    said: str
    code: int
    found: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Event:
    """What befalls a launch: `said` is on stderr at most `within_s` after it (inf: not bounded), and how it ends.

    `within_s` is for a machine that has nothing else to do. `what` is its row in docs/cluster.md.
    """

    what: str
    said: str
    code: int
    within_s: float


STORE = "/shared/store/1"
ODD = {
    "other-code": Odd("A node has other code of Septet", "is not the launch's (", 2, {"code": "d" * 64}),
    "other-python": Odd("It has another Python", "it has python 3.99, and this machine 3.", 2, {"python": "3.99"}),
    "no-kernels": Odd(
        "It lacks the compiled kernels, with `cluster.kernels=compiled`",
        "it lacks compiled kernels (install Septet on a machine with a C compiler)",
        2,
        {"compiled_kernels": False},
    ),
    "no-memory": Odd(
        "It has too little memory free", "of memory are free, and a member takes about", 2, {"free_bytes": 5e8}
    ),
    "unshared": Odd("It does not see `run_dir`", f"is not there: {_MOUNT}", 7, {"probe": f"is not there: {_MOUNT}"}),
    "own-disk": Odd("It has a folder of its own under that path", f"is not seen here: {_MOUNT}", 7, {"seen": False}),
    "read-only": Odd("It may only read `run_dir`", _READ_ONLY, 7, {"probe": _READ_ONLY}),
    "full-disk": Odd("`run_dir` is on a full disk there", _FULL, 7, {"probe": _FULL}),
    "no-store": Odd("It does not see the prepared images", "no prepared images are at", 7, {"stores": {STORE: ""}}),
    "other-store": Odd(
        "It sees other prepared images under that path",
        "other prepared images are at",
        7,
        {"stores": {STORE: "another"}},
    ),
    "no-code": Odd(
        "Septet is not installed there",
        "no worker of Septet starts there (ModuleNotFoundError: No module named 'orchestrator')",
        2,
    ),
    "silent": Odd("It does not answer", "no answer in 40 s: look at its load and at Ray's logs there", 2),
}
NO_KERNELS = Event(
    "No node that fits has the kernels that `cluster.kernels=compiled` asks for",
    "cluster.kernels=compiled: no machine that fits has them: install a C compiler and Septet",
    2,
    60,
)
_TOKEN = "the cluster refuses this token, or the lack of one: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH"
_AGAIN = "run the same command again"
EVENTS = {
    "joined-late": Event("A node joins while members train", "left out: node other", 0, math.inf),
    "killed": Event("A node with a member ends", "its actor died", 0, 30),
    "drained": Event(
        "It drains", "its node is leaving or left out; it saves a checkpoint and resumes elsewhere", 0, 10
    ),
    "partitioned-10-s": Event("It is cut off for 10 s", "", 0, math.inf),
    "suspended-10-s": Event("It stands still for 10 s", "", 0, math.inf),
    # Ray asks a node every 3 s, waits 10 s for an answer, and gives it up after five.
    "partitioned": Event("It is cut off for good", "its actor died", 0, 90),
    "all-nodes-lost": Event("All nodes end", "its actor died", 0, 30),
    "disk-full": Event("The shared disk is full", "No space left", 7, 60),
    "busy": Event("Another job has all CPUs", "no node has room for a member now: waiting for a machine", 0, 60),
    "busy-too-long": Event(
        "It has them for longer than `cluster.wait_s`", "no member has had a machine for 5 s (cluster.wait_s)", 2, 60
    ),
    "driver-cut-off": Event("The launch's own machine is cut off", _AGAIN, 1, 30),
    "head-killed": Event("The head ends", _AGAIN, 1, 30),
    "head-restarted": Event("The head restarts at once", _AGAIN, 1, 30),
    "head-restarted-too-early": Event("It does while the launch waits for a node", _AGAIN, 1, 30),
}
REFUSALS = {
    "wrong-token": Event("The token is another", _TOKEN, 2, 60),
    "no-token": Event("There is no token", _TOKEN, 2, 60),
    "nothing-there": Event("Nothing answers at the address", "no Ray cluster answers there", 2, 60),
    "client-address": Event("The address begins with `ray://`", "a launch is no client from outside", 2, 60),
    "no-node": Event(
        "The machine is no node of the cluster",
        "this machine is no node of that cluster: make it one (`ray start --address=",
        2,
        60,
    ),
    "object-store": Event(
        "`run_dir` is in an object store", "run_dir=s3://bucket/run: is no path, and object stores cannot", 2, 60
    ),
    "too-small": Event("No node is large enough", "but no node has more than 1 CPUs", 2, 60),
    "too-small-for-long": Event(
        "None joins within `cluster.wait_s`",
        "no node of the cluster has room for a member (2 CPUs), for 5 s (cluster.wait_s): add a node",
        2,
        60,
    ),
}
