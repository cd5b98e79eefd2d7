"""The shape of a plan: its runs, loops and groups, as its canonical text and its diagram show them.

A plan itself keeps no loops or ranges, only what runs. The shape finds them: the longest repetition
becomes a loop, neighbours that count up or down a run.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from laminogram.plans.plan import Group, Item, Kind, Plan, Step


@dataclass(frozen=True)
class Run:
    """Whole layers that count up or down from `first` to `last`, or one step."""

    first: Step
    last: Step

    @property
    def count(self) -> int:
        """How many layers it runs."""
        return abs(self.last.layer - self.first.layer) + 1

    def __str__(self) -> str:
        return str(self.first) if self.count == 1 else f"{self.first}-{self.last}"


@dataclass(frozen=True)
class Loop:
    """The same `times` times in sequence."""

    times: int
    body: tuple[Shape, ...]

    def __str__(self) -> str:
        return f"{self.times}x({shape_text(self.body)})"


@dataclass(frozen=True)
class Branches:
    """Branches beside each other. Where each is one item, `listed` is their list as a shape."""

    kind: Kind
    branches: tuple[tuple[Shape, ...], ...]
    listed: tuple[Shape, ...] | None

    def __str__(self) -> str:
        if self.listed is not None:
            return f"{self.kind}({shape_text(self.listed)})"
        return f"{self.kind}({' | '.join(shape_text(branch) for branch in self.branches)})"


_LONGEST_LOOP = 200
"""Items of the longest loop that is looked for: a search through all would be quadratic."""

Shape = Run | Loop | Branches
_Made = dict[int, Branches]
"""Groups that have been shaped, by identity."""


def shape_of(plan: Plan) -> tuple[Shape, ...]:
    """What the plan runs, in sequence."""
    return tuple(_shapes(plan.items, {}))


def shape_text(shapes: Sequence[Shape]) -> str:
    """Shapes in the plan language; `none` where there are none."""
    return ", ".join(str(shape) for shape in shapes) or "none"


def _shapes(items: Sequence[Item], made: _Made) -> Iterator[Shape]:
    """Loops where something repeats, runs between them."""
    numbers: dict[Item, int] = {}
    ids = [numbers.setdefault(item, len(numbers)) for item in items]
    places = _places(ids)
    single: list[Item] = []  # items since the last loop
    i = 0
    while i < len(items):
        period, times = _repetition(ids, i, places[ids[i]])
        if times == 1:
            single.append(items[i])
            i += 1
            continue
        yield from _runs(single, made)
        single = []
        yield Loop(times, tuple(_shapes(items[i : i + period], made)))
        i += period * times
    yield from _runs(single, made)


def _places(ids: Sequence[int]) -> dict[int, list[int]]:
    """Where each item stands, in rising order."""
    places: dict[int, list[int]] = {}
    for place, one in enumerate(ids):
        places.setdefault(one, []).append(place)
    return places


def _repetition(ids: Sequence[int], i: int, places: Sequence[int]) -> tuple[int, int]:
    """The period and number of times of the longest repetition that begins at `i`, where the item
    stands at `places`."""
    best = 1, 1
    limit = min((len(ids) - i) // 2, _LONGEST_LOOP)
    for place in places[bisect_right(places, i) :]:
        period = place - i
        if period > limit:
            break
        block, times = ids[i : i + period], 1
        while ids[i + times * period : i + (times + 1) * period] == block:
            times += 1
        if times > 1 and period * times > best[0] * best[1]:
            best = period, times
    return best


def _runs(items: Sequence[Item], made: _Made) -> Iterator[Shape]:
    """Single items, those that count up or down as a run."""
    i = 0
    while i < len(items):
        item, end = items[i], _run_end(items, i)
        if isinstance(item, Group):
            yield _branches(item, made)
        else:
            last = items[end]
            assert isinstance(last, Step)
            yield Run(item, last)
        i = end + 1


def _run_end(items: Sequence[Item], i: int) -> int:
    """The last index of the longest run of whole layers going up, or down, from `i`."""
    stride = _stride(items, i)
    if stride not in (1, -1):
        return i
    end = i + 1
    while _stride(items, end) == stride:
        end += 1
    return end


def _stride(items: Sequence[Item], i: int) -> int | None:
    """From a whole layer to the whole layer that follows it; None where there is no such pair."""
    pair = items[i : i + 2]
    whole = [item for item in pair if isinstance(item, Step) and item.part == "both"]
    return whole[1].layer - whole[0].layer if len(whole) == 2 else None


def _branches(group: Group, made: _Made) -> Branches:
    """A group, shaped once however often it is met: else nested ones would take twice as long for
    every level."""
    if id(group) not in made:
        branches = tuple(tuple(_shapes(branch.items, made)) for branch in group.branches)
        single = all(len(branch.items) == 1 for branch in group.branches)
        first = [branch.items[0] for branch in group.branches] if single else []
        listed = tuple(_shapes(first, made)) if single else None
        made[id(group)] = Branches(group.kind, branches, listed)
    return made[id(group)]
