"""The plan: the order in which layers run, as a value.

A plan is a sequence of items. An item is a step (one execution of one layer, or of half of it) or a
group: branches, each a plan, that read the same input and whose outputs are averaged or added. A
loop is only a way to write repeated items. `plans.text` is the language in which plans are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import TYPE_CHECKING, Literal, get_args

from laminogram.errors import PlanError

if TYPE_CHECKING:
    from laminogram.plans.cost import Cost, Figures

Part = Literal["both", "attn", "ffn"]
Kind = Literal["mean", "sum"]
MOST_STEPS = 10_000
"""Longer plans are refused: they are slips, not experiments."""
MOST_NESTED = 50
"""Groups and loops may lie so deep in each other."""


@dataclass(frozen=True)
class Step:
    """One execution of one layer; `part` is a half of it or both."""

    layer: int
    part: Part = "both"

    def __str__(self) -> str:
        return str(self.layer) if self.part == "both" else f"{self.layer}.{self.part}"


@dataclass(frozen=True)
class Group:
    """Branches that read the same `h`: with `f_i(h) = branch_i(h) - h`, `mean` gives
    `h + mean f_i(h)` and `sum` gives `h + sum f_i(h)`."""

    kind: Kind
    branches: tuple[Plan, ...]

    @property
    def single(self) -> bool:
        """Whether every branch is one whole layer, as in the parallel groups of the paper."""
        return all(
            len(branch.items) == 1
            and isinstance(branch.items[0], Step)
            and branch.items[0].part == "both"
            for branch in self.branches
        )

    def __str__(self) -> str:
        return str(Plan([self]))


Item = Step | Group


@dataclass(frozen=True)
class Plan:
    """An order of layers. `Plan.parse(str(plan)) == plan`, always; equal plans run alike.

    Steps are numbered in the order of `steps`: a group's branches one after the other. Made
    canonical on construction: neighbouring halves `12.attn, 12.ffn` are layer 12, run by its own
    block equation; a group of one branch is that branch; a plan among the items is its items.
    `Plan("0-7, 9")` reads text, as `Plan.parse` does.
    """

    items: tuple[Item, ...]
    steps: tuple[Step, ...] = field(compare=False, repr=False)

    def __init__(self, items: str | Iterable[Item | Plan | int] = ()) -> None:
        if isinstance(items, str):
            items = Plan.parse(items).items
        if not isinstance(items, Iterable):
            raise PlanError(f"a plan is text such as '0-7, 9' or layers in order, not {items!r}")
        object.__setattr__(self, "items", tuple(_canonical(items)))
        # Made at once: a compiler that follows a forward cannot look into a cached property.
        object.__setattr__(self, "steps", tuple(_steps(self.items)))
        if len(self.steps) > MOST_STEPS:
            raise PlanError(f"the plan has {len(self.steps)} steps; at most {MOST_STEPS} are run")
        if _depth(self) > MOST_NESTED:
            raise PlanError(f"the plan is nested deeper than {MOST_NESTED} times")

    @classmethod
    def full(cls, num_layers: int) -> Plan:
        """Every layer once, in order."""
        return cls(range(num_layers))

    @classmethod
    def mean(cls, branches: Iterable[Plan | int]) -> Plan:
        """Branches that read the same input, their outputs averaged."""
        return cls([_group("mean", branches)])

    @classmethod
    def sum(cls, branches: Iterable[Plan | int]) -> Plan:
        """Branches that read the same input, what each adds to it added together."""
        return cls([_group("sum", branches)])

    @classmethod
    def of(cls, plan: Plan | str | Iterable[Item | Plan | int]) -> Plan:
        """A plan from itself, from text, or from layers in order."""
        if isinstance(plan, Plan):
            return plan
        return cls(plan)

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read a plan from text; PlanError says where it is none and what was expected."""
        from laminogram.plans.text import parse

        return parse(text)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that the plan runs, each once, in rising order."""
        return tuple(sorted({step.layer for step in self.steps}))

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every group, also those inside branches, in the order in which they begin."""
        return tuple(group for group, _ in self.placed_groups)

    @property
    def placed_groups(self) -> tuple[tuple[Group, int], ...]:
        """Every group with the number of its first step."""
        return tuple(_groups(self.items, 0))

    def check(self, num_layers: int) -> Plan:
        """Itself, if a stack of `num_layers` layers can run it; else PlanError names the place."""
        for number, step in enumerate(self.steps):
            if step.layer >= num_layers:
                raise PlanError(
                    f"step {number} of the plan {_clipped(self)} runs layer {step.layer}, but this "
                    f"stack has layers 0-{num_layers - 1}"
                )
        return self

    def cost(self, figures: Figures | None = None) -> Cost:
        """What it costs before it runs: see `plans.cost`; FLOPs and bytes need `figures`."""
        from laminogram.plans.cost import cost

        return cost(self, figures)

    def __len__(self) -> int:
        """How many steps there are."""
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __add__(self, other: Plan) -> Plan:
        return Plan((*self.items, *other.items))

    def __mul__(self, times: int) -> Plan:
        if times < 1:
            raise PlanError(f"a loop runs at least once, not {times} times")
        if len(self) * times > MOST_STEPS:
            raise PlanError(f"{times}x({_clipped(self)}) has more than {MOST_STEPS} steps")
        return Plan(self.items * times)

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        from laminogram.plans.text import write

        return write(self)

    def __repr__(self) -> str:
        return f"Plan({str(self)!r})"

    def _repr_html_(self) -> str:
        """A diagram, where a notebook shows it."""
        from laminogram.plans.diagram import html

        return html(self)


def _group(kind: Kind, branches: Iterable[Plan | int]) -> Group:
    return Group(kind, tuple(Plan([one]) for one in branches))


def _canonical(items: Iterable[Item | Plan | int]) -> list[Item]:
    made: list[Item] = []
    for item in _spread(items):
        if isinstance(item, Step):
            _check(item)
            if item.part == "ffn" and made and made[-1] == Step(item.layer, "attn"):
                made[-1] = Step(item.layer)
                continue
        made.append(item)
    return made


def _spread(items: Iterable[Item | Plan | int]) -> Iterator[Item]:
    """Items alone: plans and groups of one branch give theirs."""
    for item in items:
        if isinstance(item, Plan):
            yield from item.items
        elif isinstance(item, Group):
            if item.kind not in get_args(Kind) or not item.branches:
                raise PlanError(f"a group is a mean or a sum of at least one branch, not {item!r}")
            if len(item.branches) == 1:
                yield from item.branches[0].items
            else:
                yield item
        else:
            # numpy's whole numbers as Python's own, which print and compare as text does
            own = hasattr(item, "__index__") and not isinstance(item, bool | Step)
            yield item if isinstance(item, Step) else Step(index(item) if own else item)


def _depth(plan: Plan) -> int:
    """How deep groups lie in each other. Branches were checked when they were made."""
    inner = (branch for item in plan.items if isinstance(item, Group) for branch in item.branches)
    return max((1 + _depth(branch) for branch in inner), default=0)


def _clipped(plan: Plan) -> str:
    text = str(plan)
    return text if len(text) <= 200 else f"{text[:200]}…"


def _check(step: Step) -> None:
    if isinstance(step.layer, bool) or not isinstance(step.layer, int):
        raise PlanError(f"{step.layer!r} in a plan is no layer: layers are whole numbers from 0")
    if step.layer < 0:
        raise PlanError(f"layer {step.layer} in a plan: layers count from 0")
    if step.part not in get_args(Part):
        raise PlanError(f"{step.part!r} is no part of a layer; there are attn, ffn and both")


def _steps(items: Iterable[Item]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, Step):
            yield item
        else:
            for branch in item.branches:
                yield from branch.steps


def _groups(items: Iterable[Item], step: int) -> Iterator[tuple[Group, int]]:
    for item in items:
        if isinstance(item, Step):
            step += 1
            continue
        yield item, step
        for branch in item.branches:
            yield from _groups(branch.items, step)
            step += len(branch)
