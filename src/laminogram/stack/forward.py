"""The one forward path: embedding, the steps of a plan, final norm, head.

`run` is all there is: it enters the stack, walks the items of a plan, and leaves. It writes to a
cache where one is given, hands named tensors to an observer, and never reads a layer's index for
anything but finding the layer.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from laminogram.errors import CacheError
from laminogram.plans import Group, Item, Plan, Step
from laminogram.stack import at_once, context, together
from laminogram.stack.batch import Batch
from laminogram.stack.cache import AveragedSlot, Cache, StepSlot
from laminogram.stack.conditions import Provision
from laminogram.stack.context import V_FIRST, Context
from laminogram.stack.devices import go_on, on
from laminogram.stack.kernels.shortened import Reader
from laminogram.stack.layer import Layer, passes_rows
from laminogram.stack.mixers.rwkv7 import TimeMix7
from laminogram.stack.sites import STACK_STEP
from laminogram.stack.taps import NO_TAPS, Observer, Run, Taps

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack

Logits = Literal["all", "last", "none"]


def run(
    stack: Stack,
    batch: Batch,
    plan: Plan,
    *,
    cache: Cache | None = None,
    observer: Observer | None = None,
    logits: Logits = "all",
    v_first: Provision = "embedding",
) -> Tensor:
    """Run a plan over rows of tokens.

    Returns logits (B, T, V) of every column (pads undefined), (B, 1, V) of each row's last token,
    or, with `none`, what enters the head, (B, T, C). With a cache the rows go on where it ended,
    and it is advanced. CacheError where the cache's rope regime no longer fits the length.
    """
    batch = batch.to(stack.device)
    if stack.fast is not None:
        tracked = torch.is_grad_enabled() and cache is None
        with on(stack.device), torch.set_grad_enabled(tracked):
            replayed = stack.fast.run(stack, batch, plan, observer, logits, v_first, cache)
        if replayed is not None:
            if cache is not None:
                _advance(cache, batch)
            return replayed
    if cache is not None and observer is None and logits != "none" and v_first == "embedding":
        with torch.no_grad():
            scores = at_once.token(stack, batch, plan, cache)
        if scores is not None:
            _advance(cache, batch)
            return scores
    ctx = open_context(stack, batch, cache)
    if observer is not None:
        begin(observer, batch, ctx, cache)
    if cache is None:
        return through(stack, batch, plan, ctx, observer=observer, logits=logits, v_first=v_first)
    # What a cache holds is written in place, so no gradient is kept through it.
    with cache.being_written(), torch.no_grad():
        out = through(
            stack,
            batch,
            plan,
            ctx,
            cache=cache,
            observer=observer,
            logits=logits,
            v_first=v_first,
        )
    _advance(cache, batch)
    return out


def _advance(cache: Cache, batch: Batch) -> None:
    """Count the tokens that a cache has seen now."""
    cache.prompts = cache.prompts or list(batch.lengths)
    cache.lengths = [a + b for a, b in zip(cache.lengths, batch.lengths)]


def through(
    stack: Stack,
    batch: Batch,
    plan: Plan,
    ctx: Context,
    *,
    cache: Cache | None = None,
    observer: Observer | None = None,
    logits: Logits = "all",
    v_first: Provision = "embedding",
) -> Tensor:
    """`run` under a context that exists: tensors in, tensors out, so that it can be captured."""
    walk = Walk(stack, cache, observer)
    with on(stack.device):
        flow = walk.enter(batch, ctx, v_first)
        found = walk.straight(plan.items, flow) if logits != "none" else None
        return walk.leave(walk.over(plan.items, flow), logits) if found is None else found


@dataclass(frozen=True)
class Flow:
    """Where a run stands: the residual stream, the context with its side streams, the next step."""

    x: Tensor
    ctx: Context
    step: int = 0


@dataclass(frozen=True)
class Walk:
    """The way of one run through a stack. A flow is a value: several can go on from the same."""

    stack: Stack
    cache: Cache | None = None
    observer: Observer | None = None

    def enter(self, batch: Batch, ctx: Context, v_first: Provision = "embedding") -> Flow:
        """From tokens to the flow before the first step."""
        stack, ends = self.stack, _taps(self.observer, STACK_STEP)
        x = stack.embed(batch.tokens, ctx.positions, batch.types).to(stack.residual_dtype)
        x = ends("embed", x)
        if v_first == "embedding":
            _provide_v_first(stack, x, ctx, self.cache, ends)
        _hand_over(self.observer, STACK_STEP, ends)
        return Flow(x, ctx)

    def straight(self, items: tuple[Item, ...], flow: Flow) -> Tensor | None:
        """Logits of one token that passes all there is in one call; None where it cannot."""
        if self.cache is None or self.observer is not None:
            return None
        return at_once.logits(self.stack, items, self.cache, flow.x, flow.ctx)

    def over(self, items: Iterable[Item], flow: Flow) -> Flow:
        """Run items one after the other."""
        x, ctx, number = flow.x, flow.ctx, flow.step
        left = list(items)
        while left:
            way = None if self.cache is None else at_once.way(x, ctx)
            layers = [] if way is None else self._layers_at_once(way, left, x, ctx, number)
            if way is not None and layers:
                go_on(x.device)
                x = way.run(layers, x, ctx)
                number += len(layers)
                del left[: len(layers)]
                continue
            item = left.pop(0)
            if isinstance(item, Step):
                x, ctx = self._step(item, x, ctx, number)
                number += 1
            else:
                x = self._group(item, Flow(x, ctx, number))
                number += sum(len(branch) for branch in item.branches)
        return Flow(x, ctx, number)

    def _layers_at_once(
        self, way: at_once.Way, items: list[Item], x: Tensor, ctx: Context, number: int
    ) -> list[tuple[Layer, StepSlot]]:
        """The layers of the next steps that a token passes this way."""
        found: list[tuple[Layer, StepSlot]] = []
        if self.cache is None or not passes_rows(self.stack.run_layer):
            return found
        for at, item in enumerate(items, number):
            if not isinstance(item, Step) or item.part != "both":
                break
            layer, slot = self.stack.layer(item.layer), self.cache.slots[at]
            if layer.device != x.device or _taps(self.observer, at).names:
                break
            if not isinstance(layer, Layer) or not way.takes(layer, x, ctx, slot):
                break
            found.append((layer, slot))
        return found

    def leave(self, flow: Flow, logits: Logits) -> Tensor:
        """From the flow after the last step to logits, or to what enters the head."""
        stack, ends = self.stack, _taps(self.observer, STACK_STEP)
        x = flow.x.to(stack.head_device)
        go_on(x.device)
        x = ends("final", stack.final_norm(x) if stack.config.final_norm else x)
        reader = None if self.cache is None else self.cache.reader
        scores = _scores(stack, x, flow.ctx, logits, ends, reader)
        _hand_over(self.observer, STACK_STEP, ends)
        return x if scores is None else scores

    def _step(self, step: Step, x: Tensor, ctx: Context, number: int) -> tuple[Tensor, Context]:
        stack, cache, observer = self.stack, self.cache, self.observer
        layer = stack.layer(step.layer)
        if x.device != layer.device:
            x, ctx = x.to(layer.device), ctx.to(layer.device)
        go_on(x.device)
        slot = None if cache is None else cache.slots[number]
        if observer is None:
            return stack.run_layer(layer, x, ctx, slot, NO_TAPS, step.part), ctx
        taps = observer.taps(number)
        x = stack.run_layer(layer, x, ctx, slot, taps, step.part)
        _hand_over(observer, number, taps)
        return x, ctx

    def _group(self, group: Group, flow: Flow) -> Tensor:
        total = self._together(group, flow)
        if total is None:
            total = self._one_by_one(group, flow)
        return _joined(group, total, flow.x)

    def _one_by_one(self, group: Group, flow: Flow) -> Tensor:
        """The sum of the branches' outputs. Side streams of a branch stay in it."""
        total: Tensor | None = None
        step, shared = flow.step, self._shared_memory(flow.step)
        for branch in group.branches:
            end = self.over(branch.items, Flow(flow.x, flow.ctx.branch(), step))
            step = end.step
            if shared is not None:
                shared.keep()
            # A sum of many is kept in fp32 and rounded once.
            x = end.x.to(flow.x.device, _wide(flow.x.dtype))
            x = x if group.kind == "mean" else x - flow.x
            total = x if total is None else total + x
        assert total is not None
        if shared is not None:
            shared.finish()
        return total

    def _together(self, group: Group, flow: Flow) -> Tensor | None:
        """The same from all branches at once; None where that is not possible or not faster."""
        layers = self.stack.together.layers(group) if together.is_faster(flow.x) else None
        if layers is None:
            return None
        steps = range(flow.step, flow.step + len(layers))
        if any(_taps(self.observer, step).names for step in steps):
            return None
        slot = None
        if self.cache is not None:
            slot = together.joint_slot([self.cache.slots[step] for step in steps])
            if slot is None:
                return None
        layer = self.stack.together.layer(layers)
        if layer is None:
            return None
        device = self.stack.layer(layers[0]).device
        go_on(device)
        rows = flow.x.to(device).repeat(len(layers), 1, 1)
        ctx = flow.ctx.to(device).repeated(len(layers))
        out = self.stack.run_layer(layer, rows, ctx, slot, NO_TAPS, "both")
        out = out.to(flow.x.device, _wide(out.dtype)).view(len(layers), *flow.x.shape)
        return (out if group.kind == "mean" else out - flow.x).sum(0)

    def _shared_memory(self, first: int) -> AveragedSlot | None:
        """The memory that the branches of a group share, if they do."""
        if self.cache is None or first >= len(self.cache.slots):
            return None
        slot = self.cache.slots[first].attn
        return slot if isinstance(slot, AveragedSlot) else None


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _joined(group: Group, total: Tensor, x: Tensor) -> Tensor:
    """What a group makes of its input `x` and the sum of its branches' outputs."""
    if group.kind == "mean":
        return (total / len(group.branches)).to(x.dtype)
    return (x + total).to(x.dtype)


def _scores(
    stack: Stack, x: Tensor, ctx: Context, logits: Logits, ends: Taps, reader: Reader | None
) -> Tensor | None:
    """What is wanted of the logits; a tap there sees every column, whatever is wanted."""
    tapped = ends.wants("logits")
    if not stack.config.head.present or (logits == "none" and not tapped):
        return ctx.to(x.device).last(x)[:, None] if logits == "last" else None
    if logits == "last" and not tapped:
        x = ctx.to(x.device).last(x)[:, None]
    scores = ends("logits", stack.head(x, stack.tied_table, reader))
    if logits == "none":
        return None
    return ctx.to(x.device).last(scores)[:, None] if logits == "last" and tapped else scores


def regime_of(stack: Stack, lengths: tuple[int, ...]) -> tuple[Hashable, ...]:
    """The rope regime of rows of these total lengths; all None where no length matters."""
    return tuple(stack.rotary.regime(length) for length in lengths)


def begin(observer: Observer, batch: Batch, ctx: Context, cache: Cache | None = None) -> None:
    """Tell an observer which rows and positions come next."""
    starts = (0,) * len(batch.lengths) if cache is None else tuple(cache.lengths)
    observer.begin(Run(ctx.positions, batch.mask, batch.lengths, starts))


def open_context(stack: Stack, batch: Batch, cache: Cache | None) -> Context:
    """The context of a forward over a batch; with a cache, where it goes on, with room made."""
    rows, width = batch.shape
    starts = (0,) * rows if cache is None else tuple(cache.lengths)
    totals = tuple(a + b for a, b in zip(starts, batch.lengths))
    stack.embed.check_length(max(totals))
    planned = totals
    if cache is not None:
        if not stack.config.causal:
            raise CacheError(
                f"{stack.config.family} looks both ways: it has no cache to go on from"
            )
        planned = tuple(max(total, cache.planned) for total in totals)
        _keep_regime(stack, cache, planned)
        cache.reserve(max(starts) + width)
    return context.build(
        stack.rotary,
        stack.mask_keys,
        batch.lengths,
        width,
        starts,
        planned,
        device=stack.device,
        dtype=stack.dtype,
    )


def _keep_regime(stack: Stack, cache: Cache, planned: tuple[int, ...]) -> None:
    """Fix the regime of a new cache; refuse to go on in another one."""
    regime = regime_of(stack, planned)
    if not any(cache.lengths):
        cache.regime = regime
    elif cache.regime != regime:
        raise CacheError(
            f"the rotary frequencies change at length {max(planned)}: the cache was filled under "
            f"regime {cache.regime}, this run needs {regime}; make the cache with the full length "
            "planned, or start a new one"
        )


def _provide_v_first(
    stack: Stack, x: Tensor, ctx: Context, cache: Cache | None, taps: Taps
) -> None:
    """Compute the side stream from the embedding, so that every plan has it."""
    layer = stack.provider
    if layer is None or not isinstance(layer.attn, TimeMix7):
        return
    h = layer.attn_norm(x.to(layer.device))
    ctx_here = ctx.to(layer.device)
    last = None if cache is None else cache.streams[V_FIRST].to(layer.device)
    values = taps(V_FIRST, layer.attn.first_values(h, last))
    if cache is not None:
        cache.streams[V_FIRST].copy_(ctx_here.last(h))
    ctx.streams[V_FIRST] = values


def _taps(observer: Observer | None, step: int) -> Taps:
    return NO_TAPS if observer is None else observer.taps(step)


def _hand_over(observer: Observer | None, step: int, taps: Taps) -> None:
    """Give what a step's taps read to the observer, and let go of it."""
    if observer is None:
        return
    for site, x in taps.out.items():
        observer.take(site, step, x)
    taps.out = {}
