"""One decode step with static buffers: captured in a CUDA graph on a GPU, run as it is elsewhere.

    graph = DecodeGraph(view, rows=2, capacity=256)
    logits = graph.start(prompts)
    for _ in range(100):
        logits = graph.step(logits.argmax(-1))

Everything that changes from step to step (tokens, positions, the cache, what edits write) lies in
buffers that the graph reads, so one capture serves every token, and every edit of the same sites.

Axes: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from laminogram.errors import CacheError, FamilyError
from laminogram.probe.program import Program
from laminogram.probe.subject import Subject, Text
from laminogram.stack import context, forward
from laminogram.stack.batch import Batch
from laminogram.stack.cache import grows
from laminogram.stack.context import Rotary
from laminogram.stack.devices import capture_stream, on
from laminogram.stack.forward import Logits
from laminogram.stack.hooks import hooked_modules, hooks_so_far
from laminogram.stack.joined import joining
from laminogram.stack.sites import STACK_STEP
from laminogram.stack.taps import Observer, Run

_WARM_UPS = 3
"""Eager runs before a capture, in which libraries allocate and kernels are chosen."""


class StaticReads:
    """A sink whose buffers stay where they are, so that a captured step can write to them.

    Give it to `view.program(reads=..., sink=reads)`; `reads[site, step]` is the tensor of the last
    step (B, 1, ...), overwritten by the next one.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, int, tuple[int, ...]], Tensor] = {}
        self._last: dict[tuple[str, int], Tensor] = {}

    def __call__(self, site: str, step: int, x: Tensor) -> None:
        """Copy a reading into its buffer, which the first reading of a shape makes."""
        key = (site, step, tuple(x.shape))
        if key not in self._buffers:
            self._buffers[key] = torch.empty_like(x, memory_format=torch.contiguous_format)
        self._buffers[key].copy_(x)
        self._last[site, step] = self._buffers[key]

    def __getitem__(self, key: tuple[str, int]) -> Tensor:
        return self._last[key]


class DecodeGraph:
    """Decode steps of `rows` rows of up to `capacity` tokens each.

    observer: reads and edits inside the step; it must carry the view's edits (`view.program` makes
    such), and copy what it takes into buffers that stay (`StaticReads`). Without one the view's own
    edits are made. It serves the steps alone: prompts are read under the view's edits. `capture`
    False runs the same step without a graph.

    Raises FamilyError for an encoder, CacheError where a rotary changes within `capacity`, the
    layers are spread over several devices, or a step is to be captured while modules have hooks,
    which a graph does not call (also in `step`, for hooks put on later).
    """

    def __init__(
        self,
        view: Subject,
        rows: int,
        capacity: int,
        observer: Observer | None = None,
        *,
        capture: bool | None = None,
    ) -> None:
        _check(view, capacity)
        self.view, self.rows, self.capacity = view, rows, capacity
        self.observer = view.program() if observer is None and view.edits else observer
        self.cache = view.new_cache(rows, capacity=capacity, planned=capacity)
        # Its own: the stack's tables are replaced as texts grow, and a graph keeps addresses alone.
        self._rotary = Rotary(view.config)
        device = view.device
        self.tokens = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.logits: Tensor | None = None
        self._mask = torch.ones(rows, 1, dtype=torch.bool, device=device)
        # Keys and values of before are hidden by the mask; the rest must be emptied.
        self._empty = {
            name: x.clone() for name, x in self.cache.tensors().items() if not grows(name)
        }
        self._graph: torch.cuda.CUDAGraph | None = None
        self._hooks = hooks_so_far()
        if device.type == "cuda" if capture is None else capture:
            _check_hooks(view)
            with on(device):
                self._capture_joined()
        self._moves = view.stack.together.moves if self._graph is not None else None

    @property
    def lengths(self) -> tuple[int, ...]:
        """How many tokens of each row have been read."""
        return tuple(self.cache.lengths)

    @property
    def is_outdated(self) -> bool:
        """Whether weights lie elsewhere than when the step was captured."""
        return self._moves not in (None, self.view.stack.together.moves)

    def place(self) -> None:
        """Set the positions to where the rows of the cache stand, after its lengths were set."""
        self.positions.copy_(torch.tensor(self.cache.lengths)[:, None])

    @torch.no_grad()
    def start(self, prompts: Text) -> Tensor:
        """Read prompts, one a row, from an empty cache: the logits (B, V) after each."""
        batch = self.view.tokens(prompts)
        if len(batch.lengths) != self.rows:
            raise CacheError(f"the graph has {self.rows} rows, {len(batch.lengths)} were given")
        if max(batch.lengths) > self.capacity:
            raise CacheError(
                f"a prompt has {max(batch.lengths)} tokens; the capacity is {self.capacity}"
            )
        self.reset()
        # An observer of its own: buffers of the shape of a prompt would replace those of the step.
        reader = self.view.program()
        tapped = reader.taps(STACK_STEP).wants("logits")
        logits: Logits = "all" if tapped else "last"
        out = self.view.run(batch, cache=self.cache, logits=logits, observer=reader)
        if isinstance(self.observer, Program):
            self.observer.prompt_lengths = batch.lengths
        self.place()
        if not tapped:
            return out[:, 0]
        last = torch.tensor(batch.lengths, device=out.device) - 1
        return out[torch.arange(self.rows, device=out.device), last]

    @torch.no_grad()
    def step(self, tokens: Tensor, *, lend: bool = False) -> Tensor:
        """One more token each (B,): the logits (B, V) after it, yours to keep. With `lend` they
        are the graph's own, which the next step overwrites."""
        if self.is_outdated:
            raise CacheError(
                "weights were moved since this graph was captured (layers of a parallel group were "
                "stacked, or products of one input joined): make a new graph"
            )
        if max(self.cache.lengths) >= self.capacity:
            raise CacheError(f"the graph's capacity of {self.capacity} tokens a row is used up")
        if self._graph is not None and self._hooks != hooks_so_far():
            _check_hooks(self.view)
            self._hooks = hooks_so_far()
        self.tokens.copy_(tokens.reshape(self.rows, 1))
        self._begin(self._mask)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()
        self.cache.lengths = [length + 1 for length in self.cache.lengths]
        assert self.logits is not None
        return self.logits if lend else self.logits.clone()

    def reset(self) -> None:
        """Forget every token."""
        self.cache.lengths = [0] * self.rows
        self.positions.zero_()
        tensors = self.cache.tensors()
        for name, empty in self._empty.items():
            tensors[name].copy_(empty)

    def _run(self) -> None:
        """The step itself: from buffers to buffers, no number of the host in between."""
        view = self.view
        stack = view.stack
        ctx = context.build_static(
            self._rotary,
            stack.mask_keys,
            self.positions,
            self.capacity,
            self.capacity,
            stack.dtype,
        )
        batch = Batch(self.tokens, (1,) * self.rows, (0,) * self.rows, 1)
        out = forward.through(
            stack,
            batch,
            view.plan,
            ctx,
            cache=self.cache,
            observer=self.observer,
            logits="all",
            v_first=view.v_first,
        )[:, 0]
        self.logits = out  # of a captured step: the graph's own, which every replay fills
        self.positions.add_(1)

    def _begin(self, mask: Tensor) -> None:
        """Let the observer renew what depends on the positions, in its own buffers."""
        if self.observer is not None:
            starts = tuple(self.cache.lengths)
            self.observer.begin(Run(self.positions, mask, (1,) * self.rows, starts))

    def _capture_joined(self) -> None:
        """Capture with products of one input as one, but for groups, whose weights are stacked by
        layer. Also for one row, so that a later graph of more rows moves no weight."""
        if self.view.plan.placed_groups:
            self._capture()
            return
        with joining(self.view.stack) as joined:
            self.view.stack.together.moves += joined.moved
            self._capture()

    @torch.no_grad()
    def _capture(self) -> None:
        # Of a warm-up no token counts: edits select nothing, and the state is emptied after it.
        nothing = torch.zeros_like(self._mask)
        side = torch.cuda.Stream(self.view.device)
        side.wait_stream(torch.cuda.current_stream(self.view.device))
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self.positions.zero_()
                self._begin(nothing)
                self._run()
        torch.cuda.current_stream(self.view.device).wait_stream(side)
        self.positions.zero_()
        self._begin(nothing)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=capture_stream(self.view.device)):
            self._run()
        self._graph = graph
        self.reset()


def _check(view: Subject, capacity: int) -> None:
    stack = view.stack
    if not view.config.causal:
        raise FamilyError(
            f"{view.name} ({view.config.family}) is an encoder: it has no token after token step"
        )
    if capacity < 1:
        raise CacheError(f"capacity is {capacity}; it must be at least 1")
    stack.embed.check_length(capacity)
    if forward.regime_of(stack, (1,)) != forward.regime_of(stack, (capacity,)):
        raise CacheError(
            f"the rotary frequencies change within {capacity} tokens, so the cache must be rebuilt "
            "on the way: use generate, or a capacity below the change"
        )
    devices = sorted({str(parameter.device) for parameter in stack.parameters()})
    if len(devices) > 1:
        raise CacheError(f"one graph serves one device; the stack lies on {', '.join(devices)}")


def _check_hooks(view: Subject) -> None:
    names = hooked_modules(view.stack)
    if names:
        raise CacheError(
            f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''} of {view.name} have "
            "hooks, which a captured step does not call: take them off, or use capture=False"
        )
