# SPDX-License-Identifier: Apache-2.0
"""Find the lengths that the free axes of a model take, by running it: together, each by itself, small and large.

What a file says of its axes is a hint at most: one name for two that have nothing to do with each other, two names
for one batch, `?`, or nothing at all. Lengths are tried within a budget of time, so what was not tried is not known.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from packager.recipe.lengths import MAX_LISTED

Lengths = dict["Axis", int]
Runs = Callable[[Mapping["Axis", int]], bool]

ANY, FIXED, STEPS, SOME, UNTRIED = "any", "fixed", "steps", "some", "untried"

_FIRST = (16, 64, 32, 128, 256, 8, 4, 2, 1, 224, 640, 48, 96, 100, 512, 320, 1024, 299, 1000, 16000, 4096)
_SMALL = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 17, 24, 31, 32, 33, 40, 48, 63, 64, 65, 80, 96, 100)
_LARGE = (
    112,
    127,
    128,
    129,
    160,
    192,
    200,
    224,
    250,
    256,
    257,
    299,
    320,
    384,
    416,
    448,
    500,
    511,
    512,
    513,
    576,
    608,
    640,
    768,
    800,
    960,
    1000,
    1024,
    1025,
    1280,
    1536,
    2000,
    2048,
    2049,
    3000,
    4000,
    4096,
    8000,
    8192,
    16000,
    16384,
    32000,
    48000,
    65536,
)
_LAST = tuple(length for length in (*range(1, 41), *_SMALL, *_LARGE) if length not in _FIRST)
"""Where nothing has run yet."""
_APART = (2, 3)  # lengths for one axis and the others: neither is broadcast to the other
_PAIRS = 12  # axes that are tried in pairs
_LEAST = 3  # lengths that must run, and others that must not, before multiples are believed
_SURE = 8  # lengths that must have been tried before it is believed that none above another runs
_SHORT = (1, 2, 3)  # always tried: time is over sooner on a busy machine, and a limit that it sets is none of the model
_MOST_TRIED = 600  # lengths beside the multiples of a step
_SLOW = 0.7  # seconds of one run after which longer ones are not tried
_SOONEST = (32, 33, 1, 64, 65, 2, 96, 3, 31, 5, 7, 8, 16, 17)  # what says most when time is short
_SHARE = 0.3  # of the time, for finding out which axes go together


@dataclass(frozen=True, slots=True, order=True)
class Axis:
    """A free axis of an input: its name there, its position in the shape, and what the file calls it."""

    port: str
    position: int
    stated: str | None = None


@dataclass(slots=True)
class Span:
    """Axes that have one length, and the lengths that ran.

    `kind` is *any* (every tried length from `low` to `high`), *steps* (the multiples of `step` among them), *fixed*
    (one length alone), *some* (those listed), or *untried* (time was over). `limited` says that a longer one was tried
    and failed; else `high` is only the longest that was tried. `varies`: other lengths ran with other values of single
    numbers. `remainders` are those of lengths that run beside the multiples of
    *steps*, `also` single ones that do.
    """

    axes: tuple[Axis, ...]
    kind: str = FIXED
    low: int = 1
    high: int = 1
    step: int = 1
    limited: bool = False
    ran: tuple[int, ...] = ()
    varies: bool = False
    remainders: tuple[int, ...] = ()
    also: tuple[int, ...] = ()


@dataclass(slots=True)
class Budget:
    """Seconds that runs may take in all."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def spent(self) -> bool:
        return self.clock() - self._started > self.seconds


def explore(
    axes: Sequence[Axis],
    runs: Runs,
    *,
    seconds: float = 60,
    clock: Callable[[], float] = time.monotonic,
    fits: Runs = lambda lengths: True,
) -> list[Span] | None:
    """Return the free axes by the lengths they share, in the order of `axes`; None where nothing ran.

    `runs` runs the model with a length for every axis and says whether it answered. It is called until `seconds` are
    over by the `clock`, then with what is known; never with lengths that `fits` refuses, which is no evidence about the
    model.
    """
    started = clock()
    counted = _counted(runs, fits)
    base = _base(axes, counted, Budget(seconds, clock))
    if base is None:
        return None
    groups = _groups(axes, base, counted, Budget(_SHARE * seconds, clock))
    found = []
    for index, group in enumerate(groups):
        budget = Budget(max(seconds - (clock() - started), 0.0) / (len(groups) - index), clock)
        found.append(_span(group, base, counted, budget, fits))
    return found


def _counted(runs: Runs, fits: Runs) -> Runs:
    """Run every set of lengths once."""
    known: dict[tuple[tuple[Axis, int], ...], bool] = {}

    def run(lengths: Mapping[Axis, int]) -> bool:
        key = tuple(sorted(lengths.items()))
        if key not in known:
            known[key] = fits(lengths) and runs(lengths)
        return known[key]

    return run


def _base(axes: Sequence[Axis], runs: Runs, budget: Budget) -> Lengths | None:
    """Return lengths that run: all alike, or one for first axes and one for the others, or one per stated name."""
    first = [axis for axis in axes if axis.position == 0]
    rest = [axis for axis in axes if axis.position]
    tried = itertools.chain(
        ({**dict.fromkeys(first, rows), **dict.fromkeys(rest, length)} for rows in (2, 1) for length in _FIRST),
        ({**dict.fromkeys(first, length), **dict.fromkeys(rest, length)} for length in _FIRST),
        _by_name(axes),
        ({**dict.fromkeys(first, rows), **dict.fromkeys(rest, length)} for rows in (2, 1) for length in _LAST),
        ({**dict.fromkeys(first, length), **dict.fromkeys(rest, length)} for length in _LAST),
    )
    for lengths in tried:
        if runs(lengths):
            return lengths
        if budget.spent:
            return None
    return None


def _by_name(axes: Sequence[Axis]) -> list[Lengths]:
    """Return lengths in which every stated name has its own."""
    names = list(dict.fromkeys(axis.stated or f"{axis.port}.{axis.position}" for axis in axes))
    if not 1 < len(names) <= 3:
        return []
    choices = itertools.product((1, 2, 8, 32, 64, 128, 224, 512), repeat=len(names))
    made = (dict(zip(names, choice, strict=True)) for choice in choices)
    return [{axis: choice[axis.stated or f"{axis.port}.{axis.position}"] for axis in axes} for choice in made]


# -- which axes go together


def _groups(axes: Sequence[Axis], base: Lengths, runs: Runs, budget: Budget) -> list[tuple[Axis, ...]]:
    """Return axes that must have one length, together; an axis that can be changed alone is alone."""

    def changes(axis: Axis) -> bool:
        lengths = _others(base[axis])
        return any(runs({**base, axis: n}) for n in (lengths[:2] if budget.spent else lengths))

    alone = {axis for axis in axes if changes(axis)}
    groups = _paired([axis for axis in axes if axis not in alone], base, runs, budget)
    for axis in [axis for axis in axes if axis not in alone and not any(axis in group for group in groups)]:
        home = next((group for group in groups if _together((*group, axis), base, runs)), None)
        if home is None:
            home = next((group for group in groups if _is_named_alike(axis, group[0], base)), None)
        if home is None:
            groups.append([axis])
        else:
            home.append(axis)
    singles = [[axis] for axis in axes if axis in alone]
    found = [tuple(group) for group in _merged(groups, singles, base, runs, budget)]
    return sorted(found, key=lambda group: min(axes.index(axis) for axis in group))


def _paired(axes: Sequence[Axis], base: Lengths, runs: Runs, budget: Budget) -> list[list[Axis]]:
    """Return axes that can change two and two: what runs says more than the names that a file gives."""
    found: list[list[Axis]] = []
    left = list(axes) if len(axes) <= _PAIRS else []
    while left and not budget.spent:
        axis = left.pop(0)
        other = next((other for other in left if _together((axis, other), base, runs, _nearest)), None)
        if other is not None:
            left.remove(other)
            found.append([axis, other])
    return found


def _is_named_alike(axis: Axis, other: Axis, base: Lengths) -> bool:
    """Say whether the file gives two axes one name, and the lengths that ran do not contradict it."""
    return bool(axis.stated) and axis.stated == other.stated and base[axis] == base[other]


def _merged(
    groups: list[list[Axis]], singles: list[list[Axis]], base: Lengths, runs: Runs, budget: Budget
) -> list[list[Axis]]:
    """Put what cannot grow by itself together with what it grows with: another such group, a single axis, or all.

    A single axis that changes alone may still bound others, as a mask that is cut to the length of its texts.
    """
    stuck = [group for group in groups if not _together(group, base, runs, _longer)]
    if not stuck or len(stuck) + len(singles) > _PAIRS:
        return [*groups, *singles]
    found, left = [group for group in groups if group not in stuck], list(singles)
    alone: list[list[Axis]] = []
    while stuck:
        group = stuck.pop(0)
        others = [other for other in (*stuck, *left) if not budget.spent]
        other = next((other for other in others if _together([*group, *other], base, runs, _longer)), None)
        if other is None:
            alone.append(group)
            continue
        (stuck if other in stuck else left).remove(other)
        found.append([*group, *other])
    everything = [axis for group in alone for axis in group]
    if len(alone) > 1 and not budget.spent and _together(everything, base, runs):
        return [*found, *left, everything]
    return [*found, *left, *alone]


def _together(
    axes: Sequence[Axis], base: Lengths, runs: Runs, lengths: Callable[[int], tuple[int, ...]] | None = None
) -> bool:
    """Say whether these axes can change together from what they are now, to one of `lengths` (default: `_others`)."""
    if len({base[axis] for axis in axes}) > 1:
        return False
    return any(runs({**base, **dict.fromkeys(axes, n)}) for n in (lengths or _others)(base[axes[0]]))


def _longer(length: int) -> tuple[int, ...]:
    return (length + 1, 2 * length, 3 * length)


def _nearest(length: int) -> tuple[int, ...]:
    return _others(length)[:2]


def _others(length: int) -> tuple[int, ...]:
    """Return lengths beside one: nearly as long, twice as long, half as long, never one, which broadcasts."""
    near = (length + 1, 2 * length, 3 * length, length // 2, length - 1)
    return tuple(dict.fromkeys(n for n in near if n > 1 and n != length))


# -- which lengths a group takes


def _span(group: tuple[Axis, ...], base: Lengths, runs: Runs, budget: Budget, fits: Runs) -> Span:
    """Try lengths, small ones first, and say what those that ran have in common."""
    own = base[group[0]]
    outcome = {own: True}
    longest = math.inf  # what is longer takes too long

    def attempt(length: int) -> bool | None:
        lengths = {**base, **dict.fromkeys(group, length)}
        return runs(lengths) if length <= longest and fits(lengths) and not budget.spent else None

    soonest = [own + 1, 2 * own, *_SOONEST, 3 * own]
    for length in dict.fromkeys([*soonest, *_SMALL, *_LARGE]):
        if budget.spent or (length > 100 and sum(outcome.values()) == 1 and length > 3 * own):
            break
        if length in outcome or length > longest or not fits({**base, **dict.fromkeys(group, length)}):
            continue
        started = budget.clock()
        outcome[length] = runs({**base, **dict.fromkeys(group, length)})
        if outcome[length] and budget.clock() - started > _SLOW:
            longest = min(longest, length)
    if len(outcome) < _LEAST:
        return Span(group, UNTRIED, own, own, 1, False, (own,))

    def closely(length: int) -> bool:
        return length <= longest and _runs_closely(group, length, base, runs, fits)

    outcome |= {n: closely(n) for n in (*_SHORT, own // 2, own - 1) if 0 < n < own and n not in outcome}
    _try_steps(own, outcome, attempt)
    found = _described(group, outcome, closely, attempt)
    return (
        found if _is_known(found, own, outcome, longest, budget) else Span(group, UNTRIED, own, own, 1, False, (own,))
    )


def _is_known(span: Span, own: int, outcome: Mapping[int, bool], longest: float, budget: Budget) -> bool:
    """Say whether what lies between the lengths that ran was tried, too; not where the time was over before."""
    if span.kind == STEPS and (budget.spent or longest < span.low + 4 * span.step):
        return _is_certain(own, span, outcome)
    return not (budget.spent if span.kind == FIXED else span.kind == SOME and (budget.spent or longest < math.inf))


def _is_certain(own: int, span: Span, outcome: Mapping[int, bool]) -> bool:
    """Say whether no other step explains what ran, and no length beside the step did."""
    finer = [own + step for step in range(2, span.step) if span.step % step == 0]
    return bool(outcome.get(own + span.step)) and all(n in outcome for n in finer) and not span.also + span.remainders


def _runs_closely(group: tuple[Axis, ...], length: int, base: Lengths, runs: Runs, fits: Runs) -> bool:
    """Try a length between one that runs and one that fails: a few more runs, also where the time is over.

    Where other axes make the inputs too large, they are one.
    """
    for others in (base, dict.fromkeys(base, 1)):
        lengths = {**others, **dict.fromkeys(group, length)}
        if fits(lengths):
            return runs(lengths)
    return False


def _try_steps(own: int, outcome: dict[int, bool], attempt: Callable[[int], bool | None]) -> None:
    """Try what lies one, two and three steps from a length that runs, for every step that what ran may have."""
    common = math.gcd(*(length for length, good in outcome.items() if good))
    for step in (step for step in range(2, common) if common % step == 0):
        for length in (own + step, own + 2 * step, own + 3 * step):
            if length not in outcome and (found := attempt(length)) is not None:
                outcome[length] = found
        if outcome.get(own + step):
            return


def _described(
    group: tuple[Axis, ...],
    outcome: Mapping[int, bool],
    runs: Callable[[int], bool],
    attempt: Callable[[int], bool | None],
) -> Span:
    ran = tuple(sorted(length for length, good in outcome.items() if good))
    low, high = ran[0], ran[-1]
    failed = sorted(length for length, good in outcome.items() if not good)
    above = [length for length in failed if length > high]
    between = [length for length in failed if low < length < high]
    if len(ran) == 1:
        return Span(group, FIXED, low, low, 1, bool(above), ran)
    if not between and len(outcome) < _SURE:
        above = []
    if not between:
        limit = _bisected(high, above[0], runs) if above else high
        below = [length for length in failed if length < low]
        least = -_bisected(-low, -below[-1], lambda length: runs(-length)) if below else low
        return Span(group, ANY, least, limit, 1, bool(above), ran)
    step = _step(outcome, low, high)
    if step > 1:
        multiples = [length for length in ran if length % step == 0]
        beyond = [length // step for length in above if length % step == 0]
        low, high = multiples[0], multiples[-1]
        if step < low and step not in outcome:
            low = step if runs(step) else -step * _bisected(-low // step, -1, lambda count: runs(-step * count))
        if beyond:
            high = step * _bisected(high // step, beyond[0], lambda count: runs(step * count))
        beside = _beside(step, low, outcome, attempt)
        return Span(group, STEPS, low, high, step, bool(beyond), ran, False, *beside)
    return Span(group, SOME, low, high, 1, bool(above), ran)


def _step(outcome: Mapping[int, bool], low: int, high: int) -> int:
    """Return the step that has the most multiples, all of which run although other lengths fail; 1 for none.

    Of two steps that have as many the smaller one. A few other lengths may run, too.
    """
    tried = [length for length in outcome if low <= length <= high]
    best, most = 1, _LEAST - 1
    for step in range(2, high // 2 + 1):
        multiples = [length for length in tried if length % step == 0]
        if len(multiples) <= most or not all(outcome[length] for length in multiples):
            continue
        if sum(not outcome[length] for length in tried if length % step) >= _LEAST:
            best, most = step, len(multiples)
    return best


def _beside(
    step: int, low: int, outcome: Mapping[int, bool], attempt: Callable[[int], bool | None]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what runs although it is no multiple of the step: remainders of all lengths from `low` on, single lengths.

    Rounding up leaves remainders (29 to 31 of 32 where a stride of 4 comes first), a sum that broadcasts leaves single
    lengths (1). Where one such length ran, all below twice the step are tried, all of a later period, and the
    neighbours of every one that runs. `attempt` returns None for a length that it does not try.
    """
    known: dict[int, bool | None] = {length: good for length, good in outcome.items() if length % step}
    waiting = [length for length, good in known.items() if good]
    if waiting:
        waiting = [n for n in (*range(1, 2 * step), *range(low + 3 * step, low + 4 * step), *waiting) if n % step]
    while waiting and len(known) < _MOST_TRIED:
        length = waiting.pop(0)
        if length not in known:
            known[length] = attempt(length)
        if known[length]:
            waiting += [n for n in (length - 1, length + 1) if n > 0 and n % step and n not in known]
    by_rest: dict[int, list[bool]] = {}
    for length, good in known.items():
        if length > low and good is not None:
            by_rest.setdefault(length % step, []).append(good)
    remainders = tuple(rest for rest, found in sorted(by_rest.items()) if all(found) and len(found) > 1)
    also = sorted(n for n, good in known.items() if good and not (n > low and n % step in remainders))
    return remainders, tuple(also[:MAX_LISTED])


def _bisected(runs_at: int, fails_at: int, runs: Callable[[int], bool]) -> int:
    """Return the longest length between one that runs and one that fails."""
    while fails_at - runs_at > 1:
        middle = (runs_at + fails_at) // 2
        runs_at, fails_at = (middle, fails_at) if runs(middle) else (runs_at, middle)
    return runs_at
