"""Many plans over rows that begin alike: trunks read once, and what plans share read once too.

Both savings meet in one walk over the tree of plans: at each item the trunks go first and leave
their keys or states in a cache of that item alone, which is forked for the branches. So no more
than one item's memory exists at a time, whatever the plans.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor

from laminogram.plans import Plan
from laminogram.plans.plan import Item
from laminogram.plans.tree import PlanTree
from laminogram.probe.subject import Subject
from laminogram.stack import rope
from laminogram.stack.batch import Batch
from laminogram.stack.cache import Cache
from laminogram.stack.forward import Flow, Walk, open_context

_NAME = "one item of a plan"


def can_branch(view: Subject) -> bool:
    """Whether a text may be read in two parts here and give what it gives in one.

    Not under edits, which tell a prompt from what follows, nor where the rotary frequencies depend
    on the whole length.
    """
    regimes = any(rope.depends_on_length(one) for one in view.stack.rotary.ropes)
    return view.config.causal and not view.edits and not regimes


@dataclass(frozen=True)
class _Pair:
    """Where a plan stands in the trunks and in the branches."""

    trunk: Flow
    branch: Flow

    def own(self) -> _Pair:
        """The same with side streams of its own."""
        return _Pair(*(replace(one, ctx=one.ctx.branch()) for one in (self.trunk, self.branch)))


def sweep_branches(
    view: Subject, tree: PlanTree, trunks: Batch, branches: Batch
) -> Iterator[tuple[int, Tensor]]:
    """Yield (number of the plan, what enters the head at every column of the branches).

    trunks: (R, P) tokens; branches: (R * copies, S) tokens that follow them, those of one trunk as
    neighbours. The result is (R * copies, S, C), pads undefined, in the order of the tree.
    """
    run = _Run(view, trunks.to(view.device), branches.to(view.device))
    waiting = [(tree.root, run.enter())]
    while waiting:
        node, pair = waiting.pop()
        if node.item is not None:
            pair = run.through(node.item, pair)
        for number in node.plans:
            yield number, Walk(view.stack).leave(pair.branch, "none")
        shared = len(node.children) > 1
        waiting += [(child, pair.own() if shared else pair) for child in reversed(node.children)]


@dataclass(frozen=True)
class _Run:
    """The two batches, which go through a stack item by item."""

    view: Subject
    trunks: Batch
    branches: Batch

    def enter(self) -> _Pair:
        """Both batches before the first step."""
        stack, cache = self.view.stack, self._cache(())
        trunk_ctx = open_context(stack, self.trunks, cache)
        trunk = Walk(stack, cache).enter(self.trunks, trunk_ctx, self.view.v_first)
        cache = self._forked(cache)
        branch_ctx = open_context(stack, self.branches, cache)
        branch = Walk(stack, cache).enter(self.branches, branch_ctx, self.view.v_first)
        return _Pair(trunk, branch)

    def through(self, item: Item, pair: _Pair) -> _Pair:
        """Both batches through one item, with a memory that is let go afterwards."""
        stack, cache = self.view.stack, self._cache((item,))
        cache.reserve(self.trunks.shape[1] + self.branches.shape[1])
        trunk = Walk(stack, cache).over([item], replace(pair.trunk, step=0))
        branch = Walk(stack, self._forked(cache)).over([item], replace(pair.branch, step=0))
        return _Pair(trunk, branch)

    def _cache(self, items: tuple[Item, ...]) -> Cache:
        return self.view.stack.new_cache(self.trunks.shape[0], Plan(items), _NAME)

    def _forked(self, cache: Cache) -> Cache:
        """After the trunks: the same for the branches."""
        cache.lengths = list(self.trunks.lengths)
        return cache.fork(self.branches.shape[0] // self.trunks.shape[0])
