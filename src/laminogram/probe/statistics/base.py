"""What a streaming statistic is, and the rows that it reads.

Axes: B batch, T tokens, C channels (all trailing axes of a site, flattened), N selected tokens.

A statistic is two functions on plain tensors: `reduce` turns rows into a state, `combine` joins two
states. Everything else (updating, merging, saving) follows from these, so that a new statistic is
one file with a subclass of `Statistic` that has a `name`.

Policy for non-finite values: an infinity or NaN takes no part in any statistic, and every statistic
counts those that it left out.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError

State = dict[str, Tensor]
"""Named tensors that summarise rows; empty before the first row."""

# Elements that are worked on at a time. One thread is fastest when two fp64 buffers of this size
# stay in its L2 cache; several need more for waking each other up to be worth it (measured on
# 8 x 256 x 768). On a GPU the limit only bounds the memory of temporaries.
_CHUNK_CPU = 1 << 16
_CHUNK_THREAD = 1 << 17
_CHUNK_GPU = 1 << 22


@dataclass(frozen=True)
class Rows:
    """The selected tokens of one batch at one site, prepared once for all statistics.

    `values` (N, C) is float32, or float64 where the site is; the half types are widened, which is
    exact. `documents` and `positions` (N,) say where a row comes from, or are None. `keep` (N,) is
    None where every row counts. On the CPU unselected rows are dropped; on a GPU they stay and are
    masked, because dropping them would wait for the device.

    `batch` holds the documents (B,) of the batch and for each row the number (N,) of its own among
    them; `trailing` the shape of the site's axes after the tokens, which `values` has as one.
    """

    values: Tensor
    documents: Tensor | None = None
    positions: Tensor | None = None
    keep: Tensor | None = None
    batch: tuple[Tensor, Tensor] | None = None
    trailing: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Rows:
        """Select rows of a site's tensor.

        x: (B, T, ...), any floating dtype and device. mask: (B, T) bool, true where a token counts;
        None for all. documents: (B,) ids. positions: (B, T); by default the column, which is right
        for rows that are aligned at the left. Raises ConfigError for shapes that do not fit.
        """
        _check(x, mask, documents, positions)
        x = x.detach()
        if x.device.type == "mps":  # has no float64
            x = x.cpu()
        batch, length = x.shape[:2]
        values = x.reshape(batch * length, -1)
        if values.dtype not in (torch.float32, torch.float64):
            values = values.to(torch.float32)
        device = values.device
        chosen = None
        if documents is not None:
            ids = documents.to(device).long()
            if positions is None:
                positions = torch.arange(length, device=device).expand(batch, length)
            documents = ids[:, None].expand(batch, length).reshape(-1)
            positions = positions.to(device).long().reshape(-1)
            where = torch.arange(batch, device=device)[:, None].expand(batch, length).reshape(-1)
            chosen = (ids, where)
        keep = None if mask is None else mask.to(device=device, dtype=torch.bool).reshape(-1)
        trailing = tuple(x.shape[2:])
        if keep is None or device.type != "cpu":
            return cls(values, documents, positions, keep, chosen, trailing)
        if bool(keep.all()):
            return cls(values, documents, positions, None, chosen, trailing)
        if documents is None or positions is None or chosen is None:
            return cls(values[keep], trailing=trailing)
        chosen = (chosen[0], chosen[1][keep])
        return cls(values[keep], documents[keep], positions[keep], None, chosen, trailing)

    @cached_property
    def groups(self) -> tuple[Tensor, Tensor]:
        """The documents (B,) of the batch, and for each row the number (N,) of its own among them;
        B where a row does not count. ConfigError for rows without documents."""
        if self.documents is None:
            raise ConfigError("rows can be told apart by document only where documents are given")
        if self.batch is None:
            ids, index = self.documents.unique(return_inverse=True)
        else:
            ids, index = self.batch
        if self.keep is not None:
            index = index.masked_fill(~self.keep, len(ids))
        return ids, index

    @cached_property
    def valid(self) -> Tensor | None:
        """(N, C) bool, true where a value counts; None where all do."""
        # A sum is a cheap test: any infinity or NaN stays visible in it. (A finite sum that
        # overflows only costs the exact test.) On a GPU the answer would have to be waited for.
        if self.values.device.type == "cpu" and bool(self.values.sum().isfinite()):
            return None
        finite = self.values.abs() < float("inf")  # a quarter of the time of isfinite()
        return finite if self.keep is None else finite & self.keep[:, None]

    @cached_property
    def clean(self) -> Tensor:
        """`values` (N, C) with 0 where a value does not count."""
        return self.values if self.valid is None else self.values.masked_fill(~self.valid, 0.0)

    @cached_property
    def channel_counts(self) -> tuple[Tensor, Tensor]:
        """Of every channel, the values that count and those left out as non-finite, (C,) int64."""
        return self._counts(0)

    @cached_property
    def row_counts(self) -> tuple[Tensor, Tensor]:
        """Of every row, the values that count and those left out as non-finite, (N,) int64."""
        return self._counts(1)

    def _counts(self, axis: int) -> tuple[Tensor, Tensor]:
        values = self.values
        total, kept = values.shape[axis], values.shape[1 - axis]
        if self.valid is None:
            counted = torch.full((kept,), total, dtype=torch.int64, device=values.device)
            return counted, torch.zeros_like(counted)
        counted = count_true(self.valid, axis)
        if self.keep is None:
            return counted, total - counted
        return counted, (self.keep.sum() if axis == 0 else self.keep * total) - counted

    @cached_property
    def channel_range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of every channel, (C,) each; +inf and -inf where none."""
        if self.valid is None:
            return self.values.amin(0), self.values.amax(0)
        hidden = ~self.valid
        low = self.values.masked_fill(hidden, float("inf")).amin(0)
        return low, self.values.masked_fill(hidden, float("-inf")).amax(0)

    @cached_property
    def row_absmax(self) -> Tensor:
        """Largest |x| of every row, (N,); -1 where a row has no value that counts."""
        # Twice a reduction is faster than one over a copy of |x|.
        largest = torch.maximum(self.clean.amax(1), self.clean.amin(1).neg_())
        return largest if self.valid is None else largest.masked_fill(~self.valid.any(1), -1.0)

    def chunks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of rows, each with two fp64 buffers of its shape that the next slice overwrites.

        Small enough to stay in the cache; fresh memory at every step would cost more than the
        arithmetic.
        """
        sizes = self.slices()
        shape = (2, sizes[0].stop if sizes else 0, self.values.shape[1])
        buffers = torch.empty(shape, dtype=torch.float64, device=self.values.device)
        for part in sizes:
            length = part.stop - part.start
            yield part, buffers[0, :length], buffers[1, :length]

    def slices(self) -> list[slice]:
        """The rows in slices of a size at which temporaries are small."""
        rows, channels = self.values.shape
        budget, threads = _CHUNK_GPU, torch.get_num_threads()
        if self.values.device.type == "cpu":
            budget = _CHUNK_CPU if threads == 1 else threads * _CHUNK_THREAD
        size = max(1, budget // max(1, channels))
        return [slice(start, min(rows, start + size)) for start in range(0, rows, size)]


def count_true(found: Tensor, axis: int) -> Tensor:
    """How many are true along an axis, int64."""
    # Adding bytes into int32 takes a fraction of the time of adding bools into int64.
    return found.view(torch.uint8).sum(axis, dtype=torch.int32).long()


def _check(
    x: Tensor, mask: Tensor | None, documents: Tensor | None, positions: Tensor | None
) -> None:
    if x.dim() < 2 or not x.dtype.is_floating_point:
        raise ConfigError(
            "a statistic reads floating-point tensors (batch, tokens, ...); this one has shape "
            f"{tuple(x.shape)} and dtype {x.dtype}"
        )
    expected = tuple(x.shape[:2])
    for name, given in (("mask", mask), ("positions", positions)):
        if given is not None and tuple(given.shape) != expected:
            raise ConfigError(
                f"the {name} must have shape {expected}, batch by tokens, and has "
                f"{tuple(given.shape)}"
            )
    if documents is not None and tuple(documents.shape) != expected[:1]:
        raise ConfigError(
            f"documents must have shape {expected[:1]}, one id a row, and has "
            f"{tuple(documents.shape)}"
        )


class Statistic(ABC):
    """A statistic that streams and merges.

    A subclass sets `name`, takes its options as keyword arguments and gives them back in
    `options()`, and defines `reduce`, `combine` and `describe`.
    """

    name: ClassVar[str]
    addressed: ClassVar[bool] = False
    """Whether it needs to know the document and position of every row."""
    of_pattern: ClassVar[bool] = False
    """Whether it reads attention patterns (heads by keys) instead of channels."""
    grows_by: ClassVar[Literal["tokens", "documents"] | None] = None
    """What its memory grows with; None where it has one size for any data."""

    def __init__(self) -> None:
        self._state: State = {}

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "name" not in cls.__dict__:
            return
        known = _REGISTRY.get(cls.name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ConfigError(
                f"two statistics are called {cls.name!r}: {known.__qualname__} of "
                f"{known.__module__} and {cls.__qualname__} of {cls.__module__}"
            )
        _REGISTRY[cls.name] = cls

    def options(self) -> dict[str, Any]:
        """The keyword arguments that make this statistic again, as JSON values."""
        return {}

    @abstractmethod
    def reduce(self, rows: Rows) -> State:
        """The state of these rows alone (at least one row)."""

    @abstractmethod
    def combine(self, a: State, b: State) -> State:
        """The state of two disjoint sets of rows, from theirs. Changes neither."""

    @abstractmethod
    def describe(self, state: State) -> dict[str, np.ndarray]:
        """What a reader wants to know, from a state on the CPU."""

    def update(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> None:
        """Take in one batch; see `Rows.of` for the arguments. Several statistics of one tensor
        share the work when they `observe` the same rows."""
        self.observe(Rows.of(x, mask, documents, positions))

    @torch.no_grad()
    def observe(self, rows: Rows) -> None:
        """Take in prepared rows; no rows change nothing."""
        if self.addressed and (rows.documents is None or rows.positions is None):
            raise ConfigError(f"the statistic {self.name!r} needs the document of every row")
        if rows.values.shape[0]:
            self.take(self.reduce(rows))

    def take(self, state: State) -> None:
        """Take in the state of further rows."""
        self._state = self.combine(self._state, state) if self._state else state

    def memory(self, channels: int, tokens: int = 1, documents: int = 1) -> int:
        """Bytes that the state takes at a site of so many channels (of a pattern: heads), after so
        much data."""
        site = torch.zeros(1, 1, channels, 1) if self.of_pattern else torch.zeros(1, 1, channels)
        one = self.fresh().reduce(Rows.of(site, documents=torch.zeros(1)))
        items = {"tokens": tokens, "documents": documents, None: 1}[self.grows_by]
        return items * sum(value.nbytes for value in one.values())

    @property
    def state(self) -> State:
        """The tensors that hold what was seen, where they live; empty before the first row."""
        return self._state

    @torch.no_grad()
    def merge(self, other: Statistic) -> Self:
        """A new statistic of what either has seen, on this one's device.

        Raises ConfigError for another kind of statistic, other options or another width.
        """
        if type(other) is not type(self) or other.options() != self.options():
            raise ConfigError(f"{other!r} cannot be merged into {self!r}")
        mine, theirs = self.state, other.state
        merged = self.fresh()
        if mine and theirs:
            device = next(iter(mine.values())).device
            theirs = {key: value.to(device) for key, value in theirs.items()}
            self._check_width(mine, theirs)
            merged._state = self.combine(mine, theirs)
        else:
            merged._state = {key: value.clone() for key, value in (mine or theirs).items()}
        return merged

    def _check_width(self, a: State, b: State) -> None:
        for key, value in a.items():
            if value.shape != b[key].shape:
                raise ConfigError(
                    f"{self.name!r} of {tuple(value.shape)} and of {tuple(b[key].shape)} "
                    "channels cannot be merged"
                )

    def result(self) -> dict[str, np.ndarray]:
        """Named numpy arrays; see the class for their meaning. Raises ConfigError if nothing was
        seen."""
        if not self.state:
            raise ConfigError(f"the statistic {self.name!r} has seen no tokens")
        owned = {key: value.to("cpu", copy=True) for key, value in self.state.items()}
        return self.describe(owned)

    def state_dict(self) -> State:
        """The state as contiguous CPU tensors, for a file."""
        return {key: value.cpu().contiguous() for key, value in self.state.items()}

    @classmethod
    def from_state(cls, options: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """The statistic that gave these `options()` and this `state_dict()`."""
        statistic = cls(**options)
        statistic._state = dict(state)
        return statistic

    def fresh(self) -> Self:
        """A statistic of the same kind and options that has seen nothing."""
        return type(self)(**self.options())

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.options().items())
        return f"{type(self).__name__}({options})"


_REGISTRY: dict[str, type[Statistic]] = {}


def available() -> tuple[str, ...]:
    """The names of all statistics: every module of this package is asked."""
    package = importlib.import_module("laminogram.probe.statistics")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return tuple(sorted(_REGISTRY))


def find(name: str) -> type[Statistic]:
    """The class of a statistic. Raises ConfigError naming what exists."""
    names = available()
    if name not in names:
        raise ConfigError(f"there is no statistic {name!r}; there are: {', '.join(names)}")
    return _REGISTRY[name]


def create(what: str | Statistic | type[Statistic]) -> Statistic:
    """A statistic that has seen nothing, from a name, a class or another one with its options."""
    if isinstance(what, Statistic):
        return what.fresh()
    return find(what)() if isinstance(what, str) else what()
