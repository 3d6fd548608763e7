"""`make soak`: driver, members and nodes of one seven-member run on photographs, killed at seeded random moments.

`SEEDS` names other seeds, `SEPTET_SOAK_KILLS` another number of kills. Seed and schedule are printed
before the first kill, so that a failure can be run again. Most moments are shares of the run's own work, so that a fast
machine is not done before the last of them; the others come while whatever was killed before is still starting.
"""

import os
import random
import secrets
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import psutil
import pytest
from oracle import PAUSE_S, placed, say, wait_for
from ray_nodes_process import ray_of_nodes
from redone import redone_updates
from run_artefacts import artefacts
from soak_seeds import seeds

from orchestrator.run.holder import is_locked
from orchestrator.run.ledger import AttemptEnd, read_ledger
from workers.numerics import capabilities
from workers.training.metrics import read_step

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3 * 3600)]
NUM_KILLS = int(os.environ.get("SEPTET_SOAK_KILLS", "32"))
NUM_NODES = 2
UPDATES_A_PREDICTION = 20
CHECKPOINT_UPDATES = 20
DEADLINE_S = 2.5 * 3600
LONGEST_LAUNCH_S = 3600.0
SMALL = (
    *("experiment=tiny_imagenet", f"checkpoint_updates={CHECKPOINT_UPDATES}", "cluster.cpus_per_member=1"),
    # Losses are what this is about: no budget of theirs may end the run.
    *("cluster.max_losses=1000", "model.width=0.25", "model.fc_units=64"),
    *(f"ensemble.stages.{name}.epochs={epochs}" for name, epochs in (("train", 5), ("pretrain", 2), ("finetune", 4))),
)


class Victim(StrEnum):
    """What is killed."""

    driver = "driver"
    member = "member"
    node = "node"


@dataclass(frozen=True)
class Kill:
    """Of whom, and when: at a share of the run's work, or, where that is None, seconds after the kill before."""

    victim: Victim
    at_share: float | None
    after_s: float

    def __str__(self):
        return f"{self.victim} {f'+{self.after_s} s' if self.at_share is None else f'{self.at_share:.1%}'}"


def schedule(seed):
    """The same kills for the same seed; a member is killed at its work, since it is gone between."""
    draw = random.Random(seed)
    victims = draw.choices(list(Victim), weights=(11, 13, 6), k=NUM_KILLS)
    shares = sorted(draw.random() for _ in victims)
    kills = []
    for victim, share in zip(victims, shares, strict=True):
        at_share = share if victim is Victim.member or draw.random() < 0.7 else None
        kills.append(Kill(victim, at_share, round(draw.uniform(0.0, 5.0), 1)))
    return kills


def done_so_far(paths):
    """The run's work in updates, by its files; a member that is set back to its checkpoint sets this back."""
    num_updates = sum(read_step(path) for path in paths.members.glob("*/*/step.txt"))
    return num_updates + UPDATES_A_PREDICTION * sum(1 for _ in paths.members.glob("*/predictions/*.json"))


class OverBefore(Exception):
    """The launch came to its end before a kill."""


class Soak:
    """One run and what befalls it."""

    def __init__(self, place, elsewhere, family, draw, whole):
        self.place, self.elsewhere, self.family, self.draw = place, elsewhere, family, draw
        self.whole = whole
        self.done: Counter[Victim] = Counter()
        self.cluster_lost = 0
        self.give_up = time.monotonic() + DEADLINE_S
        self.over = None
        self.launch = self._start()

    def suffer(self, kill):
        """Waits for the kill's moment, and kills."""
        if kill.at_share is None:
            moment = time.monotonic() + kill.after_s
            self._wait(lambda: time.monotonic() >= moment)
        else:
            due = kill.at_share * self.whole
            self._wait(lambda: done_so_far(self.place.paths) >= due)
        match kill.victim:
            case Victim.driver:
                self._kill_driver()
            case Victim.member:
                self._kill_member()
            case Victim.node:
                self.elsewhere.order(f"replace {self.draw.randrange(NUM_NODES)}")
        self.done[kill.victim] += 1

    def end(self):
        """Launches until a launch ends well; the cluster may count as lost once more for the last node."""
        while self.over is None:
            ended = self.place.ended(self.launch, LONGEST_LAUNCH_S)
            if not self._lost_its_cluster(ended):
                return ended
            self.launch = self._start()
        return self.over

    def _start(self):
        return self.place.start(f"cluster.address={self.elsewhere.address}")

    def _wait(self, holds):
        assert callable(holds)
        while not holds():
            assert time.monotonic() < self.give_up, "the deadline of the soak"
            if self.launch.poll() is not None:
                ended = self.place.ended(self.launch)
                if not self._lost_its_cluster(ended):
                    self.over = ended
                    raise OverBefore
                self.launch = self._start()
            time.sleep(PAUSE_S)

    def _lost_its_cluster(self, ended):
        """Whether the launch ended by the loss of the node that it was attached to: bounded, and said in a line."""
        lost = ended.code == 1 and "run the same command again" in ended.line
        self.cluster_lost += lost
        return lost

    def _kill_driver(self):
        self.launch.kill()
        # Over by itself just before: nothing was killed, and the schedule says so.
        assert self.launch.wait() == -signal.SIGKILL, "the driver was over before its kill"
        assert not is_locked(self.place.paths), "the lock outlived its holder"
        self.launch = self._start()

    def _kill_member(self):
        alive: list[psutil.Process] = []

        def found():
            alive[:] = self._members()
            return bool(alive)

        self._wait(found)
        victim = self.draw.choice(alive)
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        with suppress(psutil.NoSuchProcess):
            wait_for(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE)

    def _members(self):
        """The processes that train or predict, as Ray titles them."""
        found = []
        for process in self.family.living():
            with suppress(psutil.Error):
                if any(f"MemberActor.{work}" in " ".join(process.cmdline()) for work in ("run_stage", "predict")):
                    found.append(process)
        return sorted(found, key=lambda process: process.pid)


@pytest.mark.parametrize("seed", seeds())
def test_everything_killed_at_random_ends_in_the_same_bytes(seed, real_images, tmp_path, family):
    overrides = (
        *SMALL,
        f"datasets.target.root={real_images}",
        f"datasets.superset.root={real_images}",
        f"datasets.target.classes={real_images / 'target-10.txt'}",
        f"precision={'bf16' if capabilities().bf16 else 'fp32'}",
    )
    kills = schedule(seed)
    say(f"seed {seed}, {NUM_KILLS} kills: {', '.join(map(str, kills))}")
    with (
        placed(tmp_path / "undisturbed", tmp_path / "store") as reference,
        placed(tmp_path / "killed", tmp_path / "store") as place,
    ):
        reference.overrides = place.overrides = overrides
        began = time.monotonic()
        ended = reference.launch(give_up_s=LONGEST_LAUNCH_S)
        assert ended.code == 0, ended.err
        say(f"undisturbed: {time.monotonic() - began:.0f} s")
        family.expect_none()
        began = time.monotonic()
        place.environment = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_AUTH_MODE": "token"}
        place.environment |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "TMPDIR": str(place.temporary)}
        folder = str(place.temporary / "ray")
        with ray_of_nodes(NUM_NODES, tmp_path / "cluster.txt", place.environment, folder) as elsewhere:
            soak = Soak(place, elsewhere, family, random.Random(seed), done_so_far(reference.paths))
            for number, kill in enumerate(kills):
                try:
                    soak.suffer(kill)
                except OverBefore:
                    break
                say(f"{time.monotonic() - began:.0f} s: {number + 1}. {kill}, met {done_so_far(place.paths)}")
            ended = soak.end()
        assert ended.code == 0, ended.err
        entries = read_ledger(place.paths.ledger).stages
        ends = Counter(attempt.outcome for entry in entries.values() for attempt in entry.attempts)
        redone = sum(redone_updates(entry) for entry in entries.values())
        say(
            f"seed {seed}: {time.monotonic() - began:.0f} s, killed {dict(soak.done)}, launches that lost their "
            f"cluster {soak.cluster_lost}, attempts {dict(ends)}, updates redone {redone}"
        )
        # The last kills of some seeds come when all members are done.
        assert sum(soak.done.values()) >= NUM_KILLS - 2
        assert ends[AttemptEnd.lost] >= soak.done[Victim.member] // 2, "the kills hardly met a member"
        assert ends[AttemptEnd.failed] == 0, entries
        assert redone > 0, "no kill met a stage between its checkpoints"
        assert artefacts(place.paths) == artefacts(reference.paths)
        family.expect_none()
        assert not is_locked(place.paths)
        assert [path for path in place.leftovers() if place.temporary not in path.parents] == []
