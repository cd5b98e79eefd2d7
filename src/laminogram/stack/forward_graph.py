"""Forwards over whole texts as CUDA graphs: one for each shape, plan and set of taps.

A layer of a small model takes less time than launching its kernels; a graph launches them all at
once. What changes from batch to batch lies in buffers that the graph reads: the tokens, and what an
observer renews in `begin`.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.plans import Plan
from laminogram.stack import forward
from laminogram.stack.batch import Batch
from laminogram.stack.cache import Cache, grows
from laminogram.stack.conditions import Provision
from laminogram.stack.context import Context
from laminogram.stack.devices import capture_stream
from laminogram.stack.joined import JoinedProducts
from laminogram.stack.taps import Observer, Run

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack

MOST_GRAPHS = 8
"""Graphs that a stack keeps; beyond it the one that was used longest ago goes."""


@dataclass
class _Entry:
    """A shape that was met: what it reads, and the graph once it was met again.

    A graph knows addresses alone, so whatever it reads is held here: the tokens, the positions,
    rope tables and masks of the context, the observer with its buffers, and a memory of its own
    where the run has one."""

    batch: Batch
    observer: Observer | None
    ctx: Context | None = None
    cache: Cache | None = None
    run: Run | None = None
    graph: torch.cuda.CUDAGraph | None = None
    refused: str = ""
    out: Tensor | None = None


class FastForward:
    """What makes the forwards of one stack fast, and the graphs that it keeps.

    The first forward of a kind runs as it is, the second is captured, later ones are replayed.
    A prompt of recurrent layers is one, too: its states are copied to the graph's own and back.
    Batches with pads, token types, gradients or any other cache, and observers that are not
    `capturable` (they take tensors to where a graph cannot), run without a graph. Weights
    that were moved, or replaced, or other people's hooks end every graph; what was joined is joined
    anew. A copy of a stack begins without.
    """

    def __init__(self, stack: Stack) -> None:
        _check(stack)
        if stack.quantised is None:
            stack.compile_layers()
        self._joined = _joined(stack)
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._pool = torch.cuda.graph_pool_handle()
        self._anchor = _anchored(self._pool, stack.device)
        # What an observer launches beside the forward is to fill gaps, not to make it wait.
        self._stream = torch.cuda.Stream(stack.device, priority=-1)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()

    def run(
        self,
        stack: Stack,
        batch: Batch,
        plan: Plan,
        observer: Observer | None,
        logits: forward.Logits,
        v_first: Provision,
        cache: Cache | None = None,
    ) -> Tensor | None:
        """What `forward.run` gives, yours to keep; None where it must run without a graph.

        A cache is filled; its lengths are left to the caller.
        """
        if not self._joined.stand():
            self.forget()
            self._joined.part()
            self._joined = _joined(stack)
        if torch.is_grad_enabled() or not batch.uniform or batch.types is not None:
            return None
        if observer is not None and not getattr(observer, "capturable", False):
            return None
        if cache is not None and (observer is not None or not _is_prompt(cache)):
            return None
        key = (batch.shape, plan, logits, v_first, id(observer), cache is not None)
        entry = self._entries.get(key)
        if entry is None:
            self._remember(key, _Entry(batch, observer))
            return None
        self._entries.move_to_end(key)
        if entry.refused:
            return None
        if entry.graph is None:
            try:
                self._capture(entry, stack, batch, plan, logits, v_first, cache)
            except RuntimeError as error:  # something in it waits for the device
                entry.refused = str(error)
                shape = "x".join(map(str, batch.shape))
                warnings.warn(
                    f"no graph for {shape} tokens, launched singly: {error}", stacklevel=4
                )
                return None
        else:
            entry.batch.tokens.copy_(batch.tokens)
            if observer is not None and entry.run is not None:
                observer.begin(entry.run)
        assert entry.graph is not None
        assert entry.out is not None
        if cache is not None and entry.cache is not None:
            _copy_states(cache, entry.cache)
        entry.graph.replay()
        if cache is not None and entry.cache is not None:
            _copy_states(entry.cache, cache)
            cache.regime = entry.cache.regime
        return entry.out.clone()

    @property
    def reasons(self) -> dict[tuple[int, ...], str]:
        """Why forwards over (rows, tokens) are launched singly, though they could be captured."""
        return {key[0]: entry.refused for key, entry in self._entries.items() if entry.refused}

    def forget(self, observer: Observer | None = None) -> None:
        """Let go of the graphs of an observer that will not come back; without one, of all."""
        for key, entry in list(self._entries.items()):
            if observer is None or entry.observer is observer:
                del self._entries[key]

    def _remember(self, key: Any, entry: _Entry) -> None:
        self._entries[key] = entry
        if len(self._entries) > MOST_GRAPHS:
            self._entries.popitem(last=False)

    def _capture(
        self,
        entry: _Entry,
        stack: Stack,
        batch: Batch,
        plan: Plan,
        logits: forward.Logits,
        v_first: Provision,
        cache: Cache | None,
    ) -> None:
        batch = Batch(batch.tokens.clone(), batch.lengths, batch.offsets, batch.columns)
        cache = None if cache is None else cache.fork()
        ctx = forward.open_context(stack, batch, cache)  # copies from the host: not into the graph
        entry.batch, entry.ctx, entry.cache = batch, ctx, cache
        entry.run = Run(ctx.positions, batch.mask, batch.lengths, (0,) * len(batch.lengths))
        if entry.observer is not None:
            entry.observer.begin(entry.run)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            entry.out = forward.through(
                stack,
                batch,
                plan,
                ctx,
                cache=cache,
                observer=entry.observer,
                logits=logits,
                v_first=v_first,
            )
        entry.graph = graph


def _anchored(pool: Any, device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph that does next to nothing. While it lives its pool does, too: one whose last graph
    has gone takes no other as long as anything still lies in it, such as what an observer kept."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, stream=capture_stream(device)):
        torch.empty(1, device=device).zero_()
    return graph


def _is_prompt(cache: Cache) -> bool:
    """Whether a cache holds no token yet, and states alone, whose size is that of any length."""
    return not any(cache.lengths) and not any(grows(name) for name in cache.tensors())


def _copy_states(source: Cache, target: Cache) -> None:
    torch._foreach_copy_(list(target.tensors().values()), list(source.tensors().values()))


def _joined(stack: Stack) -> JoinedProducts:
    joined = JoinedProducts(stack)
    stack.together.moves += joined.moved
    return joined


def _check(stack: Stack) -> None:
    devices = sorted({str(parameter.device) for parameter in stack.parameters()})
    if len(devices) != 1 or stack.device.type != "cuda":
        where = ", ".join(devices)
        raise ConfigError(f"fast forwards need a stack on one CUDA device; it lies on {where}")
