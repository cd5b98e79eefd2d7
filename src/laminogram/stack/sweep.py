"""Many plans over the same tokens, depth-first over the tree of their beginnings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.plans.tree import Node, PlanTree
from laminogram.stack import narrow
from laminogram.stack.batch import Batch
from laminogram.stack.conditions import Provision
from laminogram.stack.context import Context
from laminogram.stack.forward import Flow, Logits, Walk, begin, open_context
from laminogram.stack.taps import Observer

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack


def sweep(
    stack: Stack,
    batch: Batch,
    tree: PlanTree,
    *,
    observers: Sequence[Observer | None] | None = None,
    logits: Logits = "all",
    v_first: Provision = "embedding",
    ctx: Context | None = None,
    columns: Tensor | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield (number of the plan, what `run` gives for it) in the order of the tree.

    observers: one for each plan, which must do the same on what plans share; what is shared is seen
    by one of them. ctx: where the rows are not plain texts (`context.build_tree`). columns (B, W):
    what alone is wanted of what enters the head, (B, W, C), with logits "none" and no observer.
    Memory: `tree.peak` hidden states, the logits that are yielded, and the work of one item.
    """
    if columns is not None and observers:
        raise ConfigError("single columns are asked for under edits, which may name any column")
    batch = batch.to(stack.device)
    ctx = open_context(stack, batch, None) if ctx is None else ctx
    seen = observers or [None] * len(tree.plans)
    for observer in seen:
        if observer is not None:
            begin(observer, batch, ctx)
    walks = [Walk(stack, None, observer) for observer in seen]
    if not walks:
        return
    # Every waiting node holds the flow it goes on from; the last of siblings lets go of it.
    waiting = [(tree.root, walks[tree.root.some_plan].enter(batch, ctx, v_first))]
    while waiting:
        node, flow = waiting.pop()
        asked = None if columns is None else _asked(stack, node, flow, columns)
        if asked is None and node.item is not None:
            flow = walks[node.some_plan].over([node.item], flow)
        for number in node.plans:
            if columns is not None and asked is None:
                asked = narrow.picked(flow, columns)
            yield number, walks[number].leave(flow if asked is None else asked, logits)
        waiting += [(child, _own(flow, node)) for child in reversed(node.children)]


def _own(flow: Flow, node: Node) -> Flow:
    """The flow for one of several that go on from it: side streams are set in place."""
    return flow if len(node.children) == 1 else replace(flow, ctx=flow.ctx.branch())


def _asked(stack: Stack, node: Node, flow: Flow, columns: Tensor) -> Flow | None:
    """The asked columns after a last item; None where it is run for all."""
    few = columns.shape[1] * 4 <= flow.x.shape[1] * 3  # their keys and values are made twice
    if few and not node.children and narrow.can_narrow(node.item, stack):
        return narrow.step(stack, node.item, flow, columns)
    return None
