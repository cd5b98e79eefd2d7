"""Generation by captured steps: a feeder that takes each new token through a CUDA graph.

A graph is made once for a stack, its conditions, so many rows and a capacity, and kept on the
stack: a second text begins at once. Where no graph can serve, `graph_for` says why, and the usual
feeder takes over with the same output.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

import torch
from torch import Tensor

from laminogram.errors import CacheError, TokenError
from laminogram.infer.decode_graph import DecodeGraph
from laminogram.infer.feeding import CachedFeeder
from laminogram.infer.past import Past
from laminogram.probe.subject import Subject
from laminogram.stack.cache import Cache, grows
from laminogram.stack.hooks import is_hooked

_LOG = logging.getLogger(__name__)
_LEAST_CAPACITY = 256
LEAST_TOKENS = 32
"""New tokens below which a graph that is not there yet is not made."""
DEVICES: tuple[str, ...] = ("cuda",)
"""Kinds of device on which steps are captured."""
KEPT = 2
"""Graphs of a stack that are kept, the last used ones: each holds a cache of its capacity."""


class _Graphs(dict[Hashable, DecodeGraph]):
    """The graphs of a stack; a copy of the stack begins without any."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return _Graphs, ()


def graph_for(
    view: Subject, rows: int, tokens: int, new: int, *, watched: bool
) -> DecodeGraph | str:
    """What makes `new` tokens a row, for texts of up to `tokens` in all; or why nothing does."""
    reason = refusal(view, watched=watched)
    if reason is not None:
        return reason
    capacity = max(_LEAST_CAPACITY, 1 << (tokens - 1).bit_length())
    graphs: _Graphs = view.stack.__dict__.setdefault("_graphs", _Graphs())
    key = (view.conditions, rows, capacity)
    graph = graphs.pop((*key, _places(view)), None)
    if graph is None or graph.is_outdated:
        if new < LEAST_TOKENS:
            return f"{new} new tokens are too few to capture a step for"
        try:
            graph = DecodeGraph(view, rows, capacity)
        except (CacheError, TokenError, torch.OutOfMemoryError) as error:
            return str(error)
    graphs[*key, _places(view)] = graph  # a capture may have moved weights to join them
    while len(graphs) > KEPT:
        del graphs[next(iter(graphs))]
    return graph


def _places(view: Subject) -> int:
    """Changes when a weight lies elsewhere than before: a graph keeps addresses alone."""
    stack = view.stack
    tensors = (*stack.parameters(), *stack.buffers())
    return hash((*(x.data_ptr() for x in tensors), id(stack.run_layer)))


def refusal(view: Subject, *, watched: bool = False) -> str | None:
    """Why no step of a view is captured, whatever its rows and lengths; None where one may be.

    watched: whether the caller's own observer sees the generation.
    """
    if view.device.type not in DEVICES:
        return f"steps are captured on {', '.join(DEVICES)}, not on {view.device.type}"
    if watched or view.edits:
        return "probes and edits see every step of a generation"
    if view.kv != "exact":
        return f"kv={view.kv!r}"
    if any(is_hooked(module) for module in view.stack.modules()):
        return "hooks on modules see every step of a generation"
    return None


class CapturedFeeder(CachedFeeder):
    """Reads the prompts the usual way, then steps in the graph's own cache, which `past` holds
    until the end."""

    def __init__(self, view: Subject, past: Past, graph: DecodeGraph) -> None:
        super().__init__(view, past)
        self._graph, self._kept = graph, past.cache

    def first(self) -> Tensor:
        logits = super().first()
        self._kept = self.past.cache
        self._graph.cache.lengths = [0] * self._kept.batch
        _copy(self._kept, self._graph.cache)
        self._graph.place()
        self.past.cache = self._graph.cache
        return logits

    def next(self, ids: Tensor) -> Tensor:
        if self._frozen.rows:
            self._frozen.step_back()
            ids = self._again()
            self._graph.place()
        return self._graph.step(ids, lend=True)  # the next token is chosen before the next step

    def close(self) -> None:
        super().close()
        if self.past.cache is not self._kept:
            self._kept.reserve(max(self.past.cache.lengths))
            _copy(self.past.cache, self._kept)
            self.past.cache = self._kept


def _copy(source: Cache, target: Cache) -> None:
    """What one cache holds into another of the same kind."""
    columns, tensors = max(source.lengths), target.tensors()
    for name, x in source.tensors().items():
        if grows(name):
            tensors[name][:, :, :columns].copy_(x[:, :, :columns])
        else:
            tensors[name].copy_(x)
    target.lengths = list(source.lengths)


def feeder(view: Subject, past: Past, new: int, watching: object | None) -> CachedFeeder | None:
    """A feeder of captured steps for `new` more tokens a row; None where the usual one serves."""
    tokens = max(len(row) for row in past.tokens) + new
    graph = graph_for(view, past.rows, tokens, new, watched=watching is not None)
    past.uncaptured = graph if isinstance(graph, str) else None
    if isinstance(graph, str):
        _LOG.debug("generating step by step without a captured graph: %s", graph)
        return None
    return CapturedFeeder(view, past, graph)
