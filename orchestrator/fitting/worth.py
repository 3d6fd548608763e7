"""Computes what each member of an ensemble is worth: Shapley values, leaving one out, and curves. Pure.

The value of a set of members is the loss by a metric of their plain mean; of no member, that of uniform probabilities.
Sources: Shapley 1953; Castro et al. 2009 (orders drawn at random).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import comb, inf, isfinite

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from orchestrator.combine import Interval, Labels, Rows, blocks, gather
from orchestrator.config import Metric
from orchestrator.fitting.intervals import mean_intervals
from orchestrator.fitting.metrics import SMALLEST
from orchestrator.fitting.sample import KEPT_CLASSES, Scored, draw_sample

MOST_EXACT = 10
# Each drawn order is taken from each of its members on, round to its start, so that all are as often first, second …
NUM_ROUNDS = 10
# Of elements, which are what members are summed of: 256 MB of float64, and sums of about half a minute.
_MOST_HELD, _MOST_SUMMED = 2**25, 2**33
# What a metric that is no mean over images does with an element, in sums.
_DEAR = 16
_BLOCK_ELEMENTS = 2**22
# Sums of a part stay in the cache, and the table of its losses by set within 32 MB.
_PART_ELEMENTS, _SETS_A_COLUMN = 2**16, 64
_PLACES = {Metric.top1: 1, Metric.top5: 5}
_IMAGE_METRICS = (Metric.top1, Metric.top5, Metric.log_loss, Metric.brier)
_Array = NDArray[np.float64]


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
    parts, num_images = _read(list(members.values()), labels, metric, is_exact)
    generator = np.random.Generator(np.random.PCG64(0))
    orders = [np.roll(one, by) for one in generator.permuted([range(num)] * NUM_ROUNDS, axis=1) for by in range(num)]
    found = [_all_sets(part, num) if is_exact else _some_orders(part, np.array(orders)) for part in parts]
    by_image, summed = (list(zip(*(one[cut] for one in found), strict=True)) for cut in (slice(2), slice(2, 4)))
    gains, without = (np.concatenate(each, axis=1) for each in by_image)
    curve, drawn = (sum(each) / gains.shape[1] for each in summed)
    if not isfinite(curve.sum()):
        return None
    order, best = _best_order(parts, num)
    if metric in _IMAGE_METRICS:
        intervals = mean_intervals(np.concatenate([gains, without]))
    else:
        intervals = tuple(Interval(float(one), -inf, inf) for one in (*gains[:, 0], *without[:, 0]))
    rounds = drawn.reshape(-1, num, num).mean(axis=1)
    error = 0.0 if is_exact else float(rounds.std(axis=0, ddof=1).max() / NUM_ROUNDS**0.5)
    worths = {name: MemberWorth(intervals[place], intervals[num + place]) for place, name in enumerate(names)}
    ordered = tuple(names[place] for place in order)
    num_orders, (empty, *mean) = None if is_exact else len(orders), map(float, curve)
    return Worth(metric, num_images, num_orders, error, empty, mean[-1], worths, ordered, best, tuple(mean))


def _all_sets(part: _Part, num: int) -> tuple[_Array, _Array, _Array, _Array]:
    """Returns Shapley values and rises without a member (members, images), and summed losses by number of members."""
    nothing = np.zeros(part.given.shape[1:])
    empty = part.losses(nothing, 0)
    table = np.empty((2**num, len(empty)))
    table[0] = empty

    # Sums are made in the members' order, never by subtraction, which would undo ties.
    def visit(total: _Array, chosen: int, size: int) -> None:
        for member in range(chosen.bit_length(), num):
            more = total + part.given[member]
            table[chosen | 1 << member] = part.losses(more, size + 1)
            visit(more, chosen | 1 << member, size + 1)

    visit(nothing, 0, 0)
    sets = np.arange(2**num)
    has = (sets >> np.arange(num)[:, None] & 1).astype(bool)
    sizes = has.sum(axis=0)
    weights = np.array([1 / (num * comb(num - 1, size)) for size in range(num)] + [0.0])
    gains = np.where(has, -weights[sizes - 1], weights[sizes]) @ table
    without = table[sets[-1] ^ (1 << np.arange(num))] - table[-1]
    counts = np.array([comb(num, size) for size in range(num + 1)])
    curve = np.bincount(sizes, table.sum(axis=1)) / counts
    return gains, without, curve, np.zeros((num, num))


def _some_orders(part: _Part, orders: NDArray[np.int64]) -> tuple[_Array, _Array, _Array, _Array]:
    """Returns what `_all_sets` does, from `orders`, and each order's summed gains (orders, members)."""
    num = orders.shape[1]
    nothing = np.zeros(part.given.shape[1:])
    empty, whole = part.losses(nothing, 0), part.losses(_added(part, range(num)), num)
    gains, curve, drawn = np.zeros((num, len(empty))), np.zeros(num + 1), np.zeros(orders.shape)
    for row, order in enumerate(orders):
        total, before = nothing, empty
        curve[0] += before.sum()
        for size, member in enumerate(order, 1):
            total = total + part.given[member]
            now = part.losses(total, size) if size < num else whole
            gains[member] += before - now
            drawn[row, member] = (before - now).sum()
            curve[size] += now.sum()
            before = now
    others = [[one for one in range(num) if one != member] for member in range(num)]
    without = np.array([part.losses(_added(part, rest), num - 1) - whole for rest in others])
    return gains / len(orders), without, curve / len(orders), drawn


def _added(part: _Part, members: Sequence[int]) -> _Array:
    total = np.zeros(part.given.shape[1:])
    for member in members:
        total += part.given[member]
    return total


def _best_order(parts: Sequence[_Part], num: int) -> tuple[list[int], tuple[float, ...]]:
    """Returns the order that adds the member of lowest loss each time, and the losses."""
    totals = [np.zeros(part.given.shape[1:]) for part in parts]
    order: list[int] = []
    curve: list[float] = []
    while len(order) < num:
        left = [member for member in range(num) if member not in order]
        tried = []
        for member in left:
            added = zip(parts, totals, strict=True)
            found = [part.losses(total + part.given[member], len(order) + 1) for part, total in added]
            tried.append(float(np.concatenate(found).mean()))
        # Rounded, so that another CPU's logarithms choose the same member.
        chosen = min(range(len(left)), key=lambda place: round(tried[place], 12))
        curve.append(tried[chosen])
        order.append(left[chosen])
        totals = [total + part.given[order[-1]] for part, total in zip(parts, totals, strict=True)]
    return order, tuple(curve)


def _read(members: Sequence[Rows], labels: Labels, metric: Metric, is_exact: bool) -> tuple[list[_Part], int]:
    """Returns evenly spaced images, at most as many as memory and time allow, and their number."""
    (num_rows, num_classes), num = members[0].shape, len(members)
    num_sums = 2**num if is_exact else (NUM_ROUNDS + 1) * num**2
    most = min(_MOST_HELD // num, _MOST_SUMMED // num_sums)
    if metric not in _IMAGE_METRICS:
        # An area under a curve looks at all classes.
        share = min(num_classes, KEPT_CLASSES) / num_classes if metric is Metric.auc else 1
        sample = draw_sample(members, labels, max(1, int(share * most * num / _DEAR)))
        uniform = np.full(sample.classes.shape, 1 / num_classes)

        def loss(total: _Array, size: int) -> _Array:
            return np.array([Scored(sample, total / size if size else uniform).loss(metric)])

        return [_Part(sample.probabilities, loss)], sample.num_rows

    def read(stride: int) -> tuple[_Array, NDArray[np.int64], _Array]:
        rows = np.arange(0, num_rows, stride)
        taken = (rows[one] for one in blocks(len(rows), num * num_classes, _BLOCK_ELEMENTS))
        found = [_elements(metric, np.stack([gather(one, own) for one in members]), labels[own]) for own in taken]
        given, counts, floors = zip(*found, strict=True)
        return np.concatenate(given, axis=1), np.concatenate(counts), np.concatenate(floors)

    # A first look tells how many elements an image has.
    first = -(-num_rows * num_classes * num // _BLOCK_ELEMENTS)
    given, counts, floors = read(first)
    stride = max(1, -(-first * len(floors) // most))
    if stride != first:
        given, counts, floors = read(stride)
    labels, ends, parts = labels[::stride], np.cumsum(counts), []
    columns = max(-(-len(floors) // len(labels)), 2**num // _SETS_A_COLUMN if is_exact else 0)
    for some in blocks(len(labels), columns, _PART_ELEMENTS):
        own = slice(ends[some.start] - counts[some.start], ends[some.stop - 1])
        parts.append(_part(metric, given[:, own], counts[some], floors[own], labels[some], num_classes))
    return parts, len(labels)


def _elements(metric: Metric, block: NDArray[np.float32], labels: Labels) -> tuple[_Array, NDArray[np.int64], _Array]:
    """Returns what a metric needs of `block` (members, images, classes): some elements of each image.

    These are (members, elements), image after image; how many each image has; and what an element's sum must exceed for
    its class to come before the right one.
    """
    given, images, num_classes = block.astype(np.float64), np.arange(len(labels)), block.shape[2]
    right = given[:, images, labels]
    if metric is Metric.log_loss:
        return right, np.ones(len(labels), np.int64), np.zeros(len(labels))
    if metric is Metric.brier:
        given[:, images, labels] -= 1
        if num_classes > len(given):
            # Turned so that a member has only as many coordinates as there are members: lengths stay the same.
            given = np.asarray(np.linalg.qr(given.transpose(1, 2, 0), mode="r")).transpose(2, 0, 1)
        flat = given.reshape(len(given), -1)
        return flat, np.full(len(labels), given.shape[2]), np.zeros(flat.shape[1])
    # Only classes that some member puts before the right one can come before it. It stays too: no image is empty.
    given -= right[:, :, None]
    ahead = (given >= 0).any(axis=0)
    # Of equal ones the lower index comes first: what is above the negative number next to 0 is at least 0.
    floors = np.where(np.arange(num_classes) < labels[:, None], -np.finfo(np.float64).smallest_subnormal, 0.0)
    return given[:, ahead], ahead.sum(axis=1), floors[ahead]


def _part(
    metric: Metric, given: _Array, counts: NDArray[np.int64], floors: _Array, labels: Labels, num_classes: int
) -> _Part:
    starts, scale, place = np.cumsum(counts) - counts, 0.5 if num_classes == 2 else 1.0, _PLACES.get(metric, 0)
    # Uniform probabilities are equal: as many classes come before the right one as have a lower index.
    empty = (labels >= place).astype(np.float64)
    if metric in (Metric.log_loss, Metric.brier):
        empty[:] = np.log(num_classes) if metric is Metric.log_loss else scale * (1 - 1 / num_classes)

    def losses(total: _Array, size: int) -> _Array:
        if not size:
            return empty
        if metric is Metric.log_loss:
            return -np.log(np.clip(total / size, SMALLEST, 1))
        if metric is Metric.brier:
            return scale * np.add.reduceat((total / size) ** 2, starts)
        return (np.add.reduceat(total > floors, starts, dtype=np.int32) >= place).astype(np.float64)

    return _Part(given, losses)
