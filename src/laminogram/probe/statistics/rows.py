"""The rows that statistics read: the tokens of a batch that count, at one site.

Axes: B batch, T tokens, C channels (all trailing axes of a site, flattened), N selected tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics import passes
from laminogram.probe.statistics.passes import Summary, Wanted

# Elements that are worked on at a time. One thread is fastest when two fp64 buffers of this size
# stay in its L2 cache; several need more for waking each other up to be worth it (measured on
# 8 x 256 x 768). On a GPU the limit only bounds the memory of temporaries.
_CHUNK_CPU = 1 << 16
_CHUNK_THREAD = 1 << 17
_CHUNK_GPU = 1 << 22
_NOTHING = Wanted()


@dataclass(frozen=True)
class Rows:
    """The selected tokens of one batch at one site, prepared once for all statistics.

    `values` (N, C) is float32, or float64 where the site is; the half types are widened, which is
    exact. `documents` and `positions` (N,) say where a row comes from, or are None. `keep` (N,) is
    None where every row counts. On the CPU unselected rows are dropped; on a GPU they stay and are
    masked, because dropping them would wait for the device.

    `batch` holds the documents (B,) of the batch and for each row the number (N,) of its own among
    them; `trailing` the shape of the site's axes after the tokens, which `values` has as one;
    `wanted` what the statistics ask of a compiled pass.
    """

    values: Tensor
    documents: Tensor | None = None
    positions: Tensor | None = None
    keep: Tensor | None = None
    batch: tuple[Tensor, Tensor] | None = None
    trailing: tuple[int, ...] = ()
    wanted: Wanted = _NOTHING

    @classmethod
    def of(
        cls,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
        wanted: Wanted = _NOTHING,
    ) -> Rows:
        """Select rows of a site's tensor.

        x: (B, T, ...), any floating dtype and device. mask: (B, T) bool, true where a token counts;
        None for all. documents: (B,) ids. positions: (B, T); by default the column, which is right
        for rows that are aligned at the left. Raises ConfigError for shapes that do not fit.
        """
        return Selection.of(x, mask, documents, positions).rows(x, wanted)

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
        if self._passed is not None and self._passed.finite:
            return None
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

    @property
    def compiled(self) -> bool:
        """Whether the compiled `passes` take these rows: all values count, in fp32 on a CPU."""
        return self._passed is not None and self.valid is None

    @cached_property
    def _passed(self) -> Summary | None:
        taken = self.keep is None and len(self.values) and passes.compiled(self.values)
        return passes.summary(self.values, self.wanted) if taken else None

    @property
    def summary(self) -> Summary:
        """What one pass over `compiled` rows found."""
        assert self._passed is not None
        return self._passed

    @cached_property
    def channel_range(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest value of every channel, (C,) each; +inf and -inf where none."""
        if self.compiled:
            return self.summary.moments["min"], self.summary.moments["max"]
        if self.valid is None:
            return self.values.amin(0), self.values.amax(0)
        hidden = ~self.valid
        low = self.values.masked_fill(hidden, float("inf")).amin(0)
        return low, self.values.masked_fill(hidden, float("-inf")).amax(0)

    @cached_property
    def row_absmax(self) -> Tensor:
        """Largest |x| of every row, (N,); -1 where a row has no value that counts."""
        if self.compiled:
            return self.summary.largest
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


@dataclass(frozen=True)
class Selection:
    """Which tokens of a batch count: prepared once for all tensors of one shape (B, T, ...) and
    device. Fields as in `Rows`; `chosen` (N,) are places among the B * T, None for all.
    """

    documents: Tensor | None
    positions: Tensor | None
    keep: Tensor | None
    batch: tuple[Tensor, Tensor] | None
    chosen: Tensor | None = None

    @classmethod
    def of(
        cls,
        x: Tensor,
        mask: Tensor | None = None,
        documents: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Selection:
        """That of the tensor x and all like it; see `Rows.of`."""
        _check(x, mask, documents, positions)
        device = torch.device("cpu") if x.is_mps else x.device
        shape, batch = x.shape[:2], None
        if documents is not None:
            ids = documents.to(device).long()
            if positions is None:
                positions = torch.arange(shape[1], device=device).expand(shape)
            documents = ids[:, None].expand(shape).reshape(-1)
            positions = positions.to(device).long().reshape(-1)
            where = torch.arange(shape[0], device=device)[:, None].expand(shape).reshape(-1)
            batch = (ids, where)
        keep = None if mask is None else mask.to(device=device, dtype=torch.bool).reshape(-1)
        if keep is None or device.type != "cpu":
            return cls(documents, positions, keep, batch)
        if bool(keep.all()):
            return cls(documents, positions, None, batch)
        chosen = keep.nonzero().flatten()
        if documents is None or positions is None or batch is None:
            return cls(None, None, None, None, chosen)
        batch = (batch[0], batch[1][chosen])
        return cls(documents[chosen], positions[chosen], None, batch, chosen)

    def rows(self, x: Tensor, wanted: Wanted = _NOTHING) -> Rows:
        """The selected tokens of x (B, T, ...)."""
        x = x.detach()
        if x.is_mps:  # has no float64
            x = x.cpu()
        values = x.reshape(x.shape[0] * x.shape[1], -1)
        if values.dtype not in (torch.float32, torch.float64):
            values = values.to(torch.float32)
        if self.chosen is not None:
            values = values[self.chosen]
        where = (self.documents, self.positions, self.keep, self.batch)
        return Rows(values, *where, tuple(x.shape[2:]), wanted)


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
