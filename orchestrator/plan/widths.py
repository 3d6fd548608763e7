"""Chooses how many workers each member has, its width, and estimates the time of a plan with widths. Pure.

A stage's batch is cut into `optimizer.shards` parts, and the busiest of w workers computes ceil(shards / w) of them.
So a width counts as shards / ceil(shards / w): with 8 shards, 5 to 7 workers are as fast as 4, and 3 as 8/3 would be.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from heapq import heapify, heappop, heappush
from itertools import pairwise

from orchestrator.plan.model import Plan, Stage, StageRef
from orchestrator.plan.schedule import Estimate, estimate, lower_bound, ready, remaining_path

# How much faster a member is at a width: assumed, not measured.
ASSUMED = ((1, 1.0), (2, 1.9), (4, 3.6), (8, 6.8))
# Slots are idle for so long before a member is widened, which has to take so much longer at the width it has.
PATIENCE_S, PAYS_S = 60.0, 180.0
# A change saves a checkpoint and starts processes that load it; assumed.
_CHANGE_S = 30.0
_BISECTIONS = 60
# So many members are few, and so often at most a simulation looks whether members should be wider.
_FEW, _LOOKS = 64, 300

Curve = tuple[tuple[int, float], ...]
Hull = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Widths:
    """Members have `least` to `most` workers, and are as fast as `curve` says: (width, speed-up) with both rising.

    Between its points, and beyond the last two, speed-ups lie on lines.
    """

    least: int = 1
    most: int = 1
    curve: Curve = field(default=ASSUMED, kw_only=True)

    def of(self, stage: Stage) -> tuple[int, ...]:
        """Returns the widths that a stage may have, each faster than the one before."""
        return _useful(stage.recipe.optimizer.shards, self.least, self.most)

    def speed(self, stage: Stage, width: int) -> float:
        """Returns how many times faster than with one worker a stage is."""
        return _speed(stage.recipe.optimizer.shards, width, self.curve)

    def hull(self, stages: Iterable[Stage]) -> Hull:
        """Returns the lower convex hull of (speed-up, width) of all that the stages may have, and of (0, 0)."""
        return _hull(frozenset((self.speed(one, width), float(width)) for one in stages for width in self.of(one)))


@dataclass(frozen=True)
class Chosen:
    """Widths of stages to start now, and of running ones that should be narrower or wider."""

    starts: Mapping[StageRef, int] = field(default_factory=dict)
    narrower: Mapping[StageRef, int] = field(default_factory=dict)
    wider: Mapping[StageRef, int] = field(default_factory=dict)


def candidates(
    plan: Plan,
    done: Collection[StageRef],
    running: Mapping[StageRef, int],
    num_slots: int,
    widths: Widths,
    costs: Mapping[StageRef, float],
    beside: Collection[StageRef] = (),
    predicted: Collection[StageRef] | None = None,
) -> tuple[Stage, ...]:
    """Returns `ready`: the stages that could run now if those `running`, by their widths, were as narrow as can be.

    Members that are busy with the stages `beside` have no slots of `num_slots`.
    """
    # If nothing runs, at least one, which waits for slots.
    busy = (*running, *beside)
    num_members = max(num_slots // widths.least, 0 if busy else 1)
    return ready(plan, done, busy, num_members + len(beside), costs, predicted)


def choose(
    plan: Plan,
    left: Mapping[StageRef, float],
    running: Mapping[StageRef, int],
    waiting: Sequence[Stage],
    num_slots: int,
    widths: Widths,
) -> Chosen:
    """Returns what starts now and at which width, and which running stages should change theirs.

    Nothing is widened while something waits, and nothing is narrowed further than makes room: the next look, if
    nothing has ended, finds nothing to undo.

    Args:
        plan: the stages, without those that failed for good.
        left: the seconds that one worker would still take for each stage.
        running: the widths of the running stages.
        waiting: `candidates`.
        num_slots: workers that fit at once.
        widths: what members may have.
    """
    aims = _share_out(plan, left, [*map(plan.stage, running), *waiting], num_slots, widths)
    free, starts = num_slots - sum(running.values()), dict[StageRef, int]()
    for number, stage in enumerate(waiting):
        others = widths.least * (len(waiting) - number - 1)
        most = min(max(free - others, widths.least), aims[stage.ref])
        if free < widths.least and (running or starts):
            break
        starts[stage.ref] = max(width for width in widths.of(stage) if width <= most)
        free -= starts[stage.ref]
    lacking = widths.least * (len(waiting) - len(starts)) - free
    if lacking > 0:
        narrower = dict[StageRef, int]()
        for ref in sorted(running, key=lambda ref: aims[ref] - running[ref]):
            if lacking > 0 and aims[ref] < running[ref]:
                narrower[ref] = aims[ref]
                lacking -= running[ref] - aims[ref]
        return Chosen(starts, narrower)
    wider = dict[StageRef, int]()
    lasting = {ref: left[ref] / widths.speed(plan.stage(ref), width) for ref, width in running.items()}
    for ref in sorted(running, key=lambda ref: -lasting[ref]) if free else ():
        most = min(aims[ref], running[ref] + free)
        width = max((width for width in widths.of(plan.stage(ref)) if width <= most), default=0)
        if width > running[ref] and lasting[ref] >= PAYS_S:
            wider[ref] = width
            free -= width - running[ref]
    return Chosen(starts, wider=wider)


def _share_out(
    plan: Plan, left: Mapping[StageRef, float], stages: Sequence[Stage], num_slots: int, widths: Widths
) -> dict[StageRef, int]:
    """Returns the widths that members should have: the least, and as long as slots are left, more for the slowest path.

    Widths that cut the shards unevenly waste time, yet fill slots. If few members share them, it is tried with and
    without, and judged by the bound of what is left when the first stage ends.
    """
    path = remaining_path(plan, left)
    found = [
        _water_fill(path, stages, num_slots, widths, even=even) for even in (False, True)[: 1 + (len(stages) <= _FEW)]
    ]

    def outlook(aims: Mapping[StageRef, int]) -> float:
        speeds = {stage.ref: widths.speed(stage, aims[stage.ref]) for stage in stages}
        first = min((left[ref] / speed for ref, speed in speeds.items()), default=0.0)
        works = Counter((path[one.ref] - first * speeds[one.ref], widths.hull([one])) for one in stages)
        return first + _smallest(works, num_slots)

    return min(found, key=outlook) if len(found) > 1 and found[0] != found[1] else found[0]


def _water_fill(
    path: Mapping[StageRef, float], stages: Sequence[Stage], num_slots: int, widths: Widths, *, even: bool
) -> dict[StageRef, int]:
    aims = {stage.ref: widths.least for stage in stages}
    free = num_slots - widths.least * len(stages)

    def lasting(stage: Stage) -> float:
        return -path[stage.ref] / widths.speed(stage, aims[stage.ref])

    queue = [(lasting(stage), number) for number, stage in enumerate(stages)] if free > 0 else []
    heapify(queue)
    while queue and free > 0:
        _, number = heappop(queue)
        stage = stages[number]
        now = aims[stage.ref]
        allowed = (w for w in widths.of(stage) if w > now and not (even and stage.recipe.optimizer.shards % w))
        following = next(allowed, now)
        if now < following <= now + free:
            free -= following - now
            aims[stage.ref] = following
            heappush(queue, (lasting(stage), number))
    return aims


def estimate_moldable(plan: Plan, seconds: Mapping[StageRef, float], num_slots: int, widths: Widths) -> Estimate:
    """Simulates what the driver does, given the seconds of each stage at one worker; `estimate` at the width 1."""
    if widths.most == 1:
        return estimate(plan, seconds, num_slots)
    bound = moldable_bound(plan, seconds, num_slots, widths)
    # Longer than the driver's in a long plan, where it makes no difference but to the time that this takes.
    patience_s = max(PATIENCE_S, bound / _LOOKS)
    num_slots = max(num_slots, widths.least)
    now, idle_since = 0.0, math.inf
    done: set[StageRef] = set()
    running: dict[StageRef, int] = {}
    left, ends = dict(seconds), dict[StageRef, float]()
    while len(done) < len(plan.stages):
        chosen = Chosen()
        waiting = candidates(plan, done, running, num_slots, widths, seconds)
        free = num_slots - sum(running.values())
        if len(running) > _FEW and 0 < widths.least * len(waiting) <= free:
            # They are widened at the next look, to save time.
            chosen = Chosen({stage.ref: widths.least for stage in waiting})
        elif waiting or now >= idle_since + patience_s:
            speeds = {ref: widths.speed(plan.stage(ref), width) for ref, width in running.items()}
            left |= {ref: (ends[ref] - now) * speed for ref, speed in speeds.items()}
            chosen = choose(plan, left, running, waiting, num_slots, widths)
            if not waiting:
                idle_since = math.inf
        changes = {**chosen.narrower, **chosen.wider} if chosen.narrower or not waiting else {}
        for ref, width in {**chosen.starts, **changes}.items():
            running[ref] = width
            ends[ref] = now + (_CHANGE_S if ref in changes else 0.0) + left[ref] / widths.speed(plan.stage(ref), width)
        if chosen.narrower:
            continue
        is_idle = sum(running.values()) < num_slots
        idle_since = min(idle_since, now) if is_idle else math.inf
        now = min(*ends.values(), idle_since + patience_s, math.inf)
        ended = {ref for ref, end in ends.items() if end <= now}
        done |= ended
        for ref in ended:
            left[ref] = 0.0
            del running[ref], ends[ref]
    return Estimate(now, bound)


def moldable_bound(plan: Plan, seconds: Mapping[StageRef, float], num_slots: int, widths: Widths) -> float:
    """Returns seconds that no schedule beats, however often members change their width.

    Work of W seconds that is done one stage at a time, a member's or a chain's, and within T, has a mean speed of
    W / T. Let c(v) be the fewest workers, as a mean over time, that make a mean speed of v: the lower convex hull of
    the points (speed-up, width) and (0, 0). By Jensen's inequality that work takes T c(W / T) worker-seconds or more,
    and slots have T times their number. The bound is the smallest T at which the sum over disjoint works fits, and at
    which no mean speed is beyond the hull; T c(W / T) falls as T grows, so all larger T fit too. The works are the
    members', or the longest chain's and the members' without it. At width 1, c(v) is v up to 1: `lower_bound`.
    """
    if widths.most == 1:
        return lower_bound(plan, seconds, num_slots)
    chain, path = [], remaining_path(plan, seconds)
    following = max(plan.stages, key=lambda stage: path[stage.ref], default=None)
    while following is not None:
        chain.append(following)
        after = [stage for stage in plan.stages if following.ref in stage.follows]
        following = max(after, key=lambda stage: path[stage.ref], default=None)
    bounds = []
    for first in ((), tuple(chain)):
        works = {"": list(first)}
        for stage in plan.stages:
            if stage not in first:
                works.setdefault(stage.ref.member, []).append(stage)
        sums = ((sum(seconds[one.ref] for one in work), widths.hull(work)) for work in works.values())
        bounds.append(_smallest(Counter(sums), num_slots))
    return max(bounds)


@cache
def _hull(points: frozenset[tuple[float, float]]) -> Hull:
    hull = [(0.0, 0.0)]
    for speed, width in sorted(points, key=lambda point: (point[1], -point[0])):
        if speed <= hull[-1][0]:
            continue
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], (speed, width)):
            hull.pop()
        hull.append((speed, width))
    return tuple(hull)


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def _smallest(sums: Counter[tuple[float, Hull]], num_slots: int) -> float:
    def taken(within: float) -> float:
        return sum(count * _fewest(hull, work / within) for (work, hull), count in sums.items())

    low = max((work / hull[-1][0] for work, hull in sums if work), default=0.0)
    if not low or taken(low) <= num_slots:
        return low
    high = low
    while taken(high) > num_slots:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if taken(middle) > num_slots else (low, middle)
    return low


def _fewest(hull: Hull, speed: float) -> float:
    """Returns c(speed); the fastest point's for speeds beyond it, by a rounding."""
    for one, other in pairwise(hull):
        if speed <= other[0]:
            return one[1] + (speed - one[0]) * _slope(one, other)
    return hull[-1][1]


@cache
def _useful(shards: int, least: int, most: int) -> tuple[int, ...]:
    widths = range(least, min(most, shards) + 1)
    return tuple(w for w in widths if w == least or math.ceil(shards / w) < math.ceil(shards / (w - 1)))


@cache
def _speed(shards: int, width: int, curve: Curve) -> float:
    counts = shards / math.ceil(shards / width)
    (low, slow), (high, fast) = next((pair for pair in pairwise(curve) if counts <= pair[1][0]), curve[-2:])
    return slow + (counts - low) * (fast - slow) / (high - low)
