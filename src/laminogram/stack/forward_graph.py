"""Forwards over whole texts as CUDA graphs: one for each shape, plan and set of taps.

A layer of a small model takes less time than launching its kernels; a graph launches them all at
once. What changes from batch to batch lies in buffers that the graph reads: the tokens, and what an
observer renews in `begin`. An observer that takes tensors to where a graph cannot is given copies
of them when the graph has run.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

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
READ_SHARE = 8
"""What graphs keep for those who read them is at most this part of the device's memory."""


class _Way(NamedTuple):
    """What of a run is not tensors."""

    plan: Plan
    logits: forward.Logits
    v_first: Provision


@dataclass
class _Entry:
    """A shape that was met: what it reads, and the graph once it was met again.

    A graph knows addresses alone, so whatever it reads is held here: the tokens, the positions,
    rope tables and masks of the context, the observer with its buffers, and a memory of its own
    where the run has one. `reads` is what an observer that is not held takes: site, step, tensor.
    """

    batch: Batch
    observer: Observer | None
    ctx: Context | None = None
    cache: Cache | None = None
    run: Run | None = None
    graph: torch.cuda.CUDAGraph | None = None
    refused: str = ""
    out: Tensor | None = None
    reads: list[tuple[str, int, Tensor]] = field(default_factory=list)

    @property
    def read_bytes(self) -> int:
        """What the graph keeps for those who read it."""
        return sum(x.nbytes for _, _, x in self.reads)


class _Reads:
    """Stands in for an observer while a graph is captured, and keeps what that would be given."""

    def __init__(self, observer: Observer) -> None:
        self.taps = observer.taps
        self.taken: list[tuple[str, int, Tensor]] = []

    def begin(self, run: Run) -> None:
        """Nothing to renew."""

    def take(self, site: str, step: int, x: Tensor) -> None:
        """Keep one tensor, whose place is that of every replay."""
        self.taken.append((site, step, x))


class FastForward:
    """What makes the forwards of one stack fast, and the graphs that it keeps.

    The first forward of a kind runs as it is, the second is captured, later ones are replayed.
    A prompt of recurrent layers is one, too: its states are copied to the graph's own and back.
    Batches with pads, token types, gradients or any other cache run without a graph. So do
    observers that edit. One that is `capturable` becomes part of the graph; one that says what it
    reads (`only_reads`) shares a graph with all who read the same, and takes copies, which are its
    own. Weights that were moved, or replaced, or other people's hooks end every graph; what was
    joined is joined anew. A copy of a stack begins without.
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
        if cache is not None and (observer is not None or not _is_prompt(cache)):
            return None
        held = observer if getattr(observer, "capturable", False) else None
        reads = None if observer is held else getattr(observer, "only_reads", None)
        if observer is not held and reads is None:
            return None
        way = _Way(plan, logits, v_first)
        key = (batch.shape, way, id(held), reads, cache is not None)
        entry = self._entries.get(key)
        if entry is None:
            self._remember(key, _Entry(batch, held))
            return None
        self._entries.move_to_end(key)
        if entry.graph is None and not entry.refused:
            self._try(entry, stack, batch, way, observer, cache)
        elif not entry.refused:
            entry.batch.tokens.copy_(batch.tokens)
            if held is not None and entry.run is not None:
                held.begin(entry.run)
        return None if entry.refused else _replayed(entry, observer, cache)

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

    def _try(
        self,
        entry: _Entry,
        stack: Stack,
        batch: Batch,
        way: _Way,
        observer: Observer | None,
        cache: Cache | None,
    ) -> None:
        """Capture a forward, or know why not."""
        try:
            self._capture(entry, stack, batch, way, observer, cache)
        except RuntimeError as error:  # something in it waits for the device
            entry.refused = str(error)
            shape = "x".join(map(str, batch.shape))
            warnings.warn(f"no graph for {shape} tokens, launched singly: {error}", stacklevel=5)
        self._bound_reads(entry, stack.device)

    def _capture(
        self,
        entry: _Entry,
        stack: Stack,
        batch: Batch,
        way: _Way,
        observer: Observer | None,
        cache: Cache | None,
    ) -> None:
        batch = Batch(batch.tokens.clone(), batch.lengths, batch.offsets, batch.columns)
        cache = None if cache is None else cache.fork()
        ctx = forward.open_context(stack, batch, cache)  # copies from the host: not into the graph
        entry.batch, entry.ctx, entry.cache = batch, ctx, cache
        entry.run = Run(ctx.positions, batch.mask, batch.lengths, (0,) * len(batch.lengths))
        if entry.observer is not None:
            entry.observer.begin(entry.run)
        kept = _Reads(observer) if observer is not None and entry.observer is None else None
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            entry.out = forward.through(
                stack,
                batch,
                way.plan,
                ctx,
                cache=cache,
                observer=kept or entry.observer,
                logits=way.logits,
                v_first=way.v_first,
            )
        entry.graph, entry.reads = graph, [] if kept is None else kept.taken

    def _bound_reads(self, newest: _Entry, device: torch.device) -> None:
        """Let go of the oldest graphs that keep readings where all keep too much, and of the newest
        where it does so alone."""
        if not newest.reads:
            return
        most = torch.cuda.mem_get_info(device)[1] // READ_SHARE
        total = sum(entry.read_bytes for entry in self._entries.values())
        for key, entry in list(self._entries.items()):
            if total > most and entry.reads and entry is not newest:
                total -= entry.read_bytes
                del self._entries[key]
        if total > most:
            newest.refused = f"what is read takes {total:,} bytes of the {most:,} for all graphs"
            newest.graph, newest.out, newest.reads = None, None, []


def _replayed(entry: _Entry, observer: Observer | None, cache: Cache | None) -> Tensor:
    """What a captured forward gives for the tokens that lie in its buffer."""
    assert entry.graph is not None
    assert entry.out is not None
    if cache is not None and entry.cache is not None:
        _copy_states(cache, entry.cache)
    entry.graph.replay()
    if cache is not None and entry.cache is not None:
        _copy_states(entry.cache, cache)
        cache.regime = entry.cache.regime
    if observer is not None and entry.observer is None and entry.run is not None:
        observer.begin(entry.run)
        for site, step, x in entry.reads:  # each renewed by the next replay
            observer.take(site, step, x.clone())
    return entry.out.clone()


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
