"""Computes what each member of an ensemble is worth: Shapley values, leaving one out, and curves. Pure.

The value of a set of members is the loss by a metric of their plain mean; of no member, that of uniform probabilities.
Sources: Shapley 1953; Castro et al. 2009 (orders drawn at random).
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, inf, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from threadpoolctl import threadpool_limits

from orchestrator.combine import Interval, Labels, Rows, blocks, gather
from orchestrator.config import Metric
from orchestrator.fitting.intervals import mean_intervals
from orchestrator.fitting.metrics import IMAGE_METRICS, losses_from
from orchestrator.fitting.sample import KEPT_CLASSES, Scored, draw_sample
from workers.threads import map_in_order

MOST_EXACT = 10
# Each drawn order is taken from each of its members on, round to its start, so that all are as often first, second …
# Of more members only from some of them, evenly spaced, so that steps are no more than so many a round.
NUM_ROUNDS, _MOST_STEPS = 10, 2**12
# Of elements, which are what members are summed of: 256 MB of float64, and sums of about ten seconds.
_MOST_HELD, _MOST_SUMMED = 2**25, 2**32
# What a metric that is no mean over images does with an element, in sums.
_DEAR = 16
_BLOCK_ELEMENTS = 2**22
_Array = NDArray[np.float64]
_Places = NDArray[np.int64]


@dataclass(frozen=True)
class MemberWorth:
    """By how much a member lowers the loss on average over all orders, and by how much the loss rises without it.

    Intervals are of 95 % over images; their bounds are infinite for a metric that is no mean over images.
    """

    shapley: Interval
    without: Interval


@dataclass(frozen=True)
class Worth:
    """What members are worth by `metric`, on `num_images` evenly spaced images.

    `num_orders` is how many orders were drawn, None if all were computed; `sampling_error` is the largest standard
    error of a Shapley value that comes from it. `empty` is the loss of no member, `loss` that of all. The curves are
    the losses of the first 1, 2, … members: of `order`, which adds the best one each time, and on average over orders.
    """

    metric: Metric
    num_images: int
    num_orders: int | None
    sampling_error: float
    empty: float
    loss: float
    members: Mapping[str, MemberWorth]
    order: tuple[str, ...]
    best_curve: tuple[float, ...]
    mean_curve: tuple[float, ...]


@dataclass(frozen=True)
class _Part:
    """Some images: `given` (members, …) is summed over a set of members, of which `losses` makes losses (images,).

    `losses` takes the sum and the number of members; of a metric that is no mean over images it gives one loss.
    """

    given: NDArray[np.floating]
    losses: Callable[[_Array, int], _Array]


@dataclass(frozen=True)
class _Steps:
    """Sets of members, `has` (sets, members), ascending, so the last has all; and steps by which members join them.

    In a step (steps,) `member` joins the set `before`, which makes it the set `after`. What members gain in their
    steps, each times its `share`, adds up to their Shapley values. The shares of all steps from sets of a size are 1.
    If orders were drawn, `num_orders` of them, each is as many steps in a row as there are members.
    """

    has: NDArray[np.bool_]
    before: _Places
    member: _Places
    after: _Places
    share: _Array
    num_orders: int = 0


def member_worth(
    members: Mapping[str, Rows], labels: Labels, metric: Metric, most_exact: int = MOST_EXACT
) -> Worth | None:
    """Returns what `members` (each rows × classes) are worth on `labels` (rows,); None for one, or without a value.

    Above `most_exact` members orders are drawn, with a fixed seed. Rows are thinned evenly above a budget.
    """
    if len(members) < 2:
        return None
    with threadpool_limits(1):
        return _worth(members, labels, metric, len(members) <= most_exact)


def _worth(members: Mapping[str, Rows], labels: Labels, metric: Metric, is_exact: bool) -> Worth | None:
    names, num = list(members), len(members)
    steps = _all_steps(num) if is_exact else _drawn_steps(num)
    parts, num_images = _read(list(members.values()), labels, metric, len(steps.has))
    found = list(map_in_order(lambda part: _by_image(part, steps), parts))
    gains, without = (np.concatenate(each, axis=1) for each in list(zip(*found, strict=True))[:2])
    losses = sum(summed for *_, summed in found) / gains.shape[1]
    if not isfinite(losses.sum()):
        return None
    order, best = _best_order(parts, num)
    if metric in IMAGE_METRICS:
        intervals = mean_intervals(np.concatenate([gains, without]))
    else:
        intervals = tuple(Interval(float(one), -inf, inf) for one in (*gains[:, 0], *without[:, 0]))
    worths = {name: MemberWorth(intervals[place], intervals[num + place]) for place, name in enumerate(names)}
    ordered, num_orders = tuple(names[place] for place in order), steps.num_orders or None
    curve = np.bincount(steps.has[steps.before].sum(axis=1), steps.share * losses[steps.after]).tolist()
    error = 0.0
    if not is_exact:
        # An order's steps follow one another, and so do a round's orders.
        own = (losses[steps.before] - losses[steps.after])[np.argsort(steps.member, kind="stable")]
        rounds = own.reshape(num, NUM_ROUNDS, -1).mean(axis=2)
        error = float(rounds.std(axis=1, ddof=1).max() / NUM_ROUNDS**0.5)
    empty, whole = map(float, losses[[0, -1]])
    return Worth(metric, num_images, num_orders, error, empty, whole, worths, ordered, best, tuple(curve))


def _all_steps(num: int) -> _Steps:
    has = np.array(list(itertools.product([False, True], repeat=num)))
    before, member = np.nonzero(~has)
    share = np.array([1 / (num * comb(num - 1, size)) for size in range(num)])[has[before].sum(axis=1)]
    return _Steps(has, before, member, before + 2 ** (num - 1 - member), share)


def _drawn_steps(num: int) -> _Steps:
    generator = np.random.Generator(np.random.PCG64(0))
    drawn = generator.permuted([range(num)] * NUM_ROUNDS, axis=1)
    turns = min(num, max(1, _MOST_STEPS // num))
    orders = np.array([np.roll(one, turn * num // turns) for one in drawn for turn in range(turns)])
    # Of each order the first 0, 1, … members.
    first = np.argsort(orders, axis=1)[:, None, :] < np.arange(num + 1)[:, None]
    has, places = np.unique(np.concatenate(first), axis=0, return_inverse=True)
    places = places.reshape(len(orders), num + 1)
    share = np.full(orders.size, 1 / len(orders))
    return _Steps(has, places[:, :-1].ravel(), orders.ravel(), places[:, 1:].ravel(), share, len(orders))


# A metric may have no value for some sets.
@np.errstate(invalid="ignore")
def _by_image(part: _Part, steps: _Steps) -> tuple[_Array, _Array, _Array]:
    """Returns Shapley values and rises without a member (members, images), and the summed loss of each set (sets,)."""
    num_sets, num = steps.has.shape
    *without, whole = _losses(part, np.concatenate([~np.eye(num, dtype=bool), steps.has[-1:]]))
    gains = np.zeros((num, len(whole)))
    if steps.num_orders:
        sums = np.zeros(num_sets)
        for own in np.split(np.arange(len(steps.member)), steps.num_orders):
            table = _joining(part, steps.member[own])
            gains[steps.member[own]] -= np.diff(table, axis=0) * steps.share[own, None]
            sums[steps.before[own[0]]], sums[steps.after[own]] = table[0].sum(), table[1:].sum(axis=1)
        return gains, np.array(without) - whole, sums
    places = (np.tile(steps.member, 2), np.concatenate([steps.before, steps.after]))
    shares = coo_array((np.concatenate([steps.share, -steps.share]), places), (num, num_sets)).tocsc()
    summed = []
    for some in blocks(num_sets, len(whole), _BLOCK_ELEMENTS):
        table = _losses(part, steps.has[some])
        gains += shares[:, some] @ table
        summed.append(table.sum(axis=1))
    return gains, np.array(without) - whole, np.concatenate(summed)


def _losses(part: _Part, has: NDArray[np.bool_]) -> _Array:
    """Returns the losses (sets, images) of sets of members, `has` (sets, members).

    A set shares the sums of its first members with the set before it. Sums are made in the members' order (those of
    `_joining` as members join), never by subtraction, which would undo ties.
    """
    sums, found = [np.zeros(part.given.shape[1:])] * (has.shape[1] + 1), []
    for before, own in zip([~has[0], *has], has, strict=False):
        for member in range(int(np.argmax(own != before)), len(own)):
            sums[member + 1] = sums[member] + part.given[member] if own[member] else sums[member]
        found.append(part.losses(sums[-1], int(own.sum())))
    return np.stack(found)


def _joining(part: _Part, order: _Places) -> _Array:
    """Returns the losses (sets, images) of no member, and of the first 1, 2, … of `order`."""
    total = np.zeros(part.given.shape[1:])
    found = [part.losses(total, 0)]
    for size, member in enumerate(order, 1):
        total += part.given[member]
        found.append(part.losses(total, size))
    return np.stack(found)


def _best_order(parts: Sequence[_Part], num: int) -> tuple[list[int], tuple[float, ...]]:
    """Returns the order that adds the member of lowest loss each time, and the losses."""
    order: list[int] = []
    curve: list[float] = []
    sums = [np.zeros(part.given.shape[1:]) for part in parts]
    while len(order) < num:
        left, size = np.setdiff1d(range(num), order), len(order) + 1

        def losses(given: tuple[_Part, _Array], left: _Places = left, size: int = size) -> _Array:
            part, own = given
            return np.stack([part.losses(own + part.given[one], size) for one in left])

        given = list(zip(parts, sums, strict=True))
        tried = np.concatenate(list(map_in_order(losses, given)), axis=1).mean(axis=1)
        # Rounded, so that another CPU's logarithms choose the same member.
        chosen = int(np.argmin(tried.round(12)))
        curve.append(float(tried[chosen]))
        order.append(int(left[chosen]))
        sums = [own + part.given[order[-1]] for part, own in given]
    return order, tuple(curve)


def _read(members: Sequence[Rows], labels: Labels, metric: Metric, num_sets: int) -> tuple[list[_Part], int]:
    """Returns evenly spaced images, at most as many as memory and time allow, and their number."""
    (num_rows, num_classes), num = members[0].shape, len(members)
    most = min(_MOST_HELD // num, _MOST_SUMMED // num_sets)
    if metric not in IMAGE_METRICS:
        # An area under a curve looks at all classes.
        share = min(num_classes, KEPT_CLASSES) / num_classes if metric is Metric.auc else 1
        sample = draw_sample(members, labels, max(1, int(share * most * num / _DEAR)))
        uniform = np.full(sample.classes.shape, 1 / num_classes)

        def loss(total: _Array, size: int) -> _Array:
            return np.array([Scored(sample, total / size if size else uniform).loss(metric)])

        return [_Part(sample.probabilities, loss)], sample.num_rows

    def read(stride: int) -> list[_Part]:
        rows = np.arange(0, num_rows, stride)
        taken = (rows[one] for one in blocks(len(rows), num * num_classes, 2 * _BLOCK_ELEMENTS))

        def part(own: _Places) -> _Part:
            return _part(metric, np.stack([gather(one, own) for one in members]), labels[own])

        return list(map_in_order(part, taken))

    # A first look tells how many elements an image has.
    first = -(-num_rows * num_classes * num // _BLOCK_ELEMENTS)
    parts = read(first)
    stride = max(1, -(-first * sum(part.given.shape[1] for part in parts) // most))
    return parts if stride == first else read(stride), len(range(0, num_rows, stride))


def _part(metric: Metric, block: NDArray[np.float32], labels: Labels) -> _Part:
    """Returns what a metric needs of `block` (members, images, classes): some elements of each image in turn."""
    num_classes = block.shape[2]
    read = {Metric.log_loss: _right_part, Metric.brier: _brier_part}.get(metric, _rank_part)
    given, look, empty = read(block.astype(np.float64), labels)

    def losses(total: _Array, size: int) -> _Array:
        return losses_from(metric, look(total, size) if size else empty, num_classes)

    return _Part(given, losses)


# What is summed, what of `Answers` a metric looks at, made of a sum and its number of members, and that of no member.
_Looked = tuple[_Array, Callable[[_Array, int], NDArray[Any]], NDArray[Any]]


def _right_part(given: _Array, labels: Labels) -> _Looked:
    right = given[:, np.arange(len(labels)), labels]
    return right, lambda total, size: total / size, np.full(len(labels), 1 / given.shape[2])


def _rank_part(given: _Array, labels: Labels) -> _Looked:
    # Only classes that some member puts before the right one can come before it. It stays too: no image is empty.
    given -= given[:, np.arange(len(labels)), labels][:, :, None]
    ahead = (given >= 0).any(axis=0)
    starts = np.cumsum(ahead.sum(axis=1)) - ahead.sum(axis=1)
    # Of equal ones the lower index comes first: what is above the negative number next to 0 is at least 0.
    floors = np.where(np.arange(given.shape[2]) < labels[:, None], -np.finfo(np.float64).smallest_subnormal, 0.0)[ahead]
    # Uniform probabilities are equal: as many classes come before the right one as have a lower index.
    return given[:, ahead], lambda total, _: np.add.reduceat(total > floors, starts, dtype=np.int32), labels


def _brier_part(given: _Array, labels: Labels) -> _Looked:
    num_classes = given.shape[2]
    given[:, np.arange(len(labels)), labels] -= 1
    if num_classes > len(given):
        # Turned so that a member has only as many coordinates as there are members: lengths stay the same.
        given = np.asarray(np.linalg.qr(given.transpose(1, 2, 0), mode="r")).transpose(2, 0, 1)
    shape = given.shape[1:]

    def squares(total: _Array, size: int) -> NDArray[Any]:
        return np.asarray(((total / size) ** 2).reshape(shape).sum(axis=1))

    return given.reshape(len(given), -1), squares, np.full(len(labels), 1 - 1 / num_classes)
