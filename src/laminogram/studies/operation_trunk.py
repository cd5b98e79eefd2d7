"""What runs under edits have in common: the unchanged run below the first step that one changes.

Axes: B rows, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from torch import Tensor

from laminogram.plans import Item, Plan, Step
from laminogram.probe.program import Program
from laminogram.probe.subject import Subject
from laminogram.stack.batch import Batch
from laminogram.stack.forward import Flow, Walk, begin, open_context


class Trunk:
    """One unchanged run over a batch, from which others branch off.

    out (B, T, C): what enters the head. Kept are the flows before the items of the plan that hold
    `steps`, each a residual stream (B, T, C): what a run under edits meets there, to the bit.
    """

    def __init__(self, view: Subject, batch: Batch, program: Program, steps: Iterable[int]) -> None:
        self._batch = batch.to(view.stack.device)
        self._items = {item_of(view.plan, step) for step in steps}
        self._flows: dict[int, Flow] = {}
        ctx = open_context(view.stack, self._batch, None)
        begin(program, self._batch, ctx)
        walk = Walk(view.stack, None, program)
        flow = walk.enter(self._batch, ctx, view.v_first)
        for number, item in enumerate(view.plan.items):
            if number in self._items:
                self._flows[number] = _own(flow)
            flow = walk.over([item], flow)
        self.out = walk.leave(flow, "none")

    def branch(self, view: Subject, program: Program, step: int) -> Tensor:
        """What enters the head (B, T, C) under edits of `step` and later ones: the run goes on from
        the item that holds that step. `view` has the trunk's stack and plan, and `program` its
        edits; steps below are neither run nor read again."""
        number = item_of(view.plan, step)
        flow = _own(self._flows[number])
        begin(program, self._batch, flow.ctx)
        walk = Walk(view.stack, None, program)
        return walk.leave(walk.over(view.plan.items[number:], flow), "none")


def item_of(plan: Plan, step: int) -> int:
    """The number of the item of a plan that holds a step."""
    last = -1
    for number, item in enumerate(plan.items):
        last += _steps(item)
        if step <= last:
            return number
    raise IndexError(f"step {step} of a plan of {last + 1} steps")


def _steps(item: Item) -> int:
    return 1 if isinstance(item, Step) else sum(len(branch) for branch in item.branches)


def _own(flow: Flow) -> Flow:
    """The flow with side streams of its own: a layer sets them in place."""
    return replace(flow, ctx=flow.ctx.branch())
