"""Many plans over the same tokens as a tree: what they have in common at their beginning runs once.

Source of the idea: every variant of "Transformer Layers as Painters" (Sun et al., arXiv 2407.09298)
with one start layer begins alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from laminogram.plans.plan import Item, Plan


@dataclass
class Node:
    """A beginning that one plan or several share: the parent's items, and `item`.

    plans: the numbers of those that end here; children: how others go on; peak: hidden states that
    exist at one time while what follows is run depth-first, its own among them.
    """

    item: Item | None
    plans: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)
    peak: int = 1

    @property
    def some_plan(self) -> int:
        """The number of a plan that passes here."""
        node = self
        while not node.plans:
            node = node.children[0]
        return node.plans[0]


class PlanTree:
    """The plans, merged from their beginnings; equal plans run once.

    calls: layer calls of the tree, a half counting 0.5; calls_apart: of the plans one by one; peak:
    hidden states (B, T, C) that exist at one time, beside the work of one item.
    """

    def __init__(self, plans: Iterable[Plan]) -> None:
        self.plans: tuple[Plan, ...] = tuple(plans)
        self.root = _grow(self.plans)
        _order(self.root)
        self.calls = sum(_calls(node.item) for node in _nodes(self.root) if node.item is not None)
        self.calls_apart = sum(_calls(item) for plan in self.plans for item in plan.items)

    @property
    def peak(self) -> int:
        return self.root.peak

    def __str__(self) -> str:
        times = f", {self.calls_apart / self.calls:.2f}x fewer" if self.calls else ""
        return (
            f"{len(self.plans)} plans: {self.calls:,g} layer calls instead of "
            f"{self.calls_apart:,g}{times}; at most {self.peak} hidden states at a time"
        )

    __repr__ = __str__


def _grow(plans: Sequence[Plan]) -> Node:
    root = Node(None)
    ways: dict[tuple[int, Item], Node] = {}  # by parent and item
    for number, plan in enumerate(plans):
        node = root
        for item in plan.items:
            child = ways.get((id(node), item))
            if child is None:
                child = ways[id(node), item] = Node(item)
                node.children.append(child)
            node = child
        node.plans.append(number)
    return root


def _order(root: Node) -> None:
    """Visit the child that needs most last, when the parent's state is no longer kept."""
    for node in reversed(list(_nodes(root))):  # children before parents
        node.children.sort(key=lambda child: child.peak)
        last = len(node.children) - 1
        node.peak = max(
            (child.peak + (i < last) for i, child in enumerate(node.children)), default=1
        )


def _nodes(root: Node) -> Iterator[Node]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.children


def _calls(item: Item) -> float:
    return sum(1.0 if step.part == "both" else 0.5 for step in Plan([item]).steps)
