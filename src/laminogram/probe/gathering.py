"""Gathering on a GPU: the usual statistics of a site in one read, without waiting for the device.

A `Gatherer` stands before a measurement: tensors that its kernel can read go into running buffers,
one slot for each step of a site, and become states of the plain statistics at the end. The plain
statistics, which say what every number means, take the rest.

Axes: B rows, T tokens, C channels, S slots, P places (a span of a row's tokens), k largest values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from laminogram.probe.kernels import one_read
from laminogram.probe.statistics import Measurement, Statistic
from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.bootstrap import variant_weights
from laminogram.probe.statistics.exceedances import Exceedances
from laminogram.probe.statistics.histogram import LogHistogram, edges
from laminogram.probe.statistics.moments import Moments
from laminogram.probe.statistics.thresholds import round_down
from laminogram.probe.statistics.topk import TopK
from laminogram.stack.batch import sent

_KINDS = (Moments, LogHistogram, TopK, Exceedances)
_PLACES = 1 << 30  # of values in a batch that a key can tell apart
_TOKENS = 1 << 19  # of a row, whose spans are counted in 16 bits by each thread
_NEVER = 3.0e38


class Rows:
    """What batches of so many rows are read with: a table on the device, its place never changing.

    order (B,): the batch's documents, rising; lengths (B,): real tokens; ranks (B,): the place of
    the row's document in that order; weights (V, B): how often it counts in each variant; int64.
    """

    def __init__(self, rows: int, replicates: int | None, device: torch.device) -> None:
        self._replicates = replicates
        variants = 0 if replicates is None else len(_weights([0], replicates))
        self._table = torch.zeros(3 + variants, rows, dtype=torch.int64, device=device)
        self.order, self.lengths, self.ranks = self._table[:3]
        self.weights = self._table[3:]
        self.counts = torch.zeros(2, variants, dtype=torch.int64)

    def fill(self, lengths: Sequence[int], documents: Sequence[int]) -> None:
        """Write a batch in place, without waiting; `counts` (2, V) are the variants' tokens and
        documents in it."""
        order = sorted(documents)
        ranks = [order.index(document) for document in documents]
        table = torch.tensor([order, lengths, ranks])
        if self._replicates is not None:
            weights = _weights(documents, self._replicates)
            present = torch.stack([table[1], (table[1] > 0).long()])
            self.counts = (weights[:, None] * present).sum(-1).T
            table = torch.cat([table, weights])
        self._table.copy_(sent(table, self._table.device))


def _weights(documents: Sequence[int], replicates: int) -> Tensor:
    return variant_weights(torch.tensor(documents), replicates).long()


class Gatherer:
    """Takes what it can of a measurement: see the module.

    `capturable` once every tensor of a batch went through the kernel, and nothing beside it: then a
    graph may hold the reading. `reasons` says by site why something was left to the plain code.
    Tensors are read on a stream of their own, beside the kernels of the layer that comes next.
    """

    def __init__(
        self, measurement: Measurement, reads: Mapping[int, Any], rows: int, device: torch.device
    ) -> None:
        self.measurement, self.rows, self.device = measurement, rows, device
        self.reasons: dict[str, str] = {}
        self.capturable = False
        self._steps: dict[str, list[int]] = {}
        for step, names in reads.items():
            for name in names:
                self._steps.setdefault(name, []).append(step)
        self._sites: dict[str, _Site] = {}
        self._shapes: dict[int, Rows] = {}
        self._now: Rows | None = None
        self._shape, self._tokens, self._missed = (0, 0), 0, 0
        self._latest = -1  # the highest number of a document so far
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._held: list[Tensor] = []  # what the stream is reading
        self._step = 0  # where that is from
        self._wanted = sum(map(len, self._steps.values()))
        self._taken: set[tuple[str, int]] = set()
        kinds = (one for name in self._steps for one in measurement.templates(name))
        replicates = [one.replicates for one in kinds if isinstance(one, Exceedances)]
        self._replicates = max(replicates, default=None)

    def begin(self, lengths: Sequence[int], documents: Sequence[int]) -> None:
        """The batch that comes: real tokens of each row, numbers of their documents."""
        count = len(lengths)
        if count not in self._shapes:
            self._shapes[count] = Rows(count, self._replicates, self.device)
        self._now = self._shapes[count]
        self._now.fill(lengths, documents)
        if min(documents) <= self._latest:
            for site in self._sites.values():
                site.admit_equals()
        self._latest = max(self._latest, *documents)
        self._shape, self._tokens, self._missed = (count, max(lengths)), sum(lengths), 0
        self._taken.clear()

    def take(self, site: str, step: int, x: Tensor) -> frozenset[str]:
        """Read a tensor (B, T, ...); the names of the statistics that it went into."""
        found = self._site(site, x)
        if found is None or self._now is None:
            self._missed += 1
            return frozenset()
        if (site, step) in self._taken:  # a capture broke off, and the batch begins anew
            self._taken.clear()
        if step != self._step:
            self._wait()
        with self._beside():
            found.read(found.steps.index(step), x.detach().flatten(2), self._now)
        self._held.append(x)
        self._step = step
        self._taken.add((site, step))
        if len(self._taken) == self._wanted:
            self._close()
        self._missed += len(found.names) < len(self.measurement.templates(site))
        return found.names

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """What is launched here waits for what was launched before, and nothing for it yet."""
        if self._stream is None:
            yield
            return
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self._stream):
            yield

    def _close(self) -> None:
        """What follows a batch's last tensor: part of the graph where a forward is captured."""
        assert self._now is not None
        with self._beside():
            for site in self._sites.values():
                site.close(self._now, self._shape)
        self._wait()

    def _wait(self) -> None:
        """Until everything handed over was read: then its memory may be used again."""
        if self._held and self._stream is not None:
            torch.cuda.current_stream(self.device).wait_stream(self._stream)
        self._held.clear()

    def end(self) -> None:
        """The batch is over."""
        assert self._now is not None
        if 0 < len(self._taken) < self._wanted:  # else it was closed, by a graph where none is here
            self._close()
        for site in self._sites.values():
            site.end(self._now, self._tokens)
        self.capturable = not self._missed and bool(self._sites)

    def finish(self) -> None:
        """Give everything to the measurement's statistics."""
        for name, site in self._sites.items():
            for slot, step in enumerate(site.steps):
                for template in site.templates:
                    self.measurement.statistic(template, name, step).take(
                        site.state(template, slot)
                    )

    def _site(self, name: str, x: Tensor) -> _Site | None:
        why = _refusal(name, x)
        found = self._sites.get(name)
        if why is None and found is not None and not found.fits(x):
            why = "its width, dtype or number of rows changes"
        if why is None and found is None:
            served = [one for one in self.measurement.templates(name) if type(one) in _KINDS]
            why = None if served else "its statistics have no kernel"
            if served:
                found = self._sites[name] = _Site(self._steps[name], x, served, self.rows)
        if why is not None:
            self.reasons[name] = why
            return None
        return found


def _refusal(name: str, x: Tensor) -> str | None:
    if name == "pattern" or x.dim() < 3:
        return "it has no channels"
    if not x.is_contiguous() or x.data_ptr() % 16:
        return "its tensors are not contiguous"
    if x.dtype not in one_read.DTYPES:
        return f"its dtype is {x.dtype}"
    if x[0, 0].numel() % one_read.PER_LANE:
        return f"its {x[0, 0].numel()} channels are not a multiple of {one_read.PER_LANE}"
    if x.shape[1] >= _TOKENS:
        return f"a row holds {x.shape[1]} tokens"
    if x.numel() >= _PLACES:
        return f"a batch holds {x.numel()} values"
    return one_read.missing(x.device)


class _Site:
    """The slots of one site: running buffers on the device."""

    def __init__(
        self, steps: Sequence[int], x: Tensor, templates: Sequence[Statistic], rows: int
    ) -> None:
        self.steps, self.templates = list(steps), tuple(templates)
        self.names = frozenset(template.name for template in templates)
        self.dtype, self.rows = x.dtype, rows
        device, slots = x.device, len(steps)
        channels = self.channels = x[0, 0].numel()
        places = self.places = one_read.most_places(rows, channels, device)
        topk = next((one for one in templates if isinstance(one, TopK)), None)
        self.k = topk.k if topk else 0
        self._exceedances = next((one for one in templates if isinstance(one, Exceedances)), None)
        self.threshold = _least_float(self._exceedances.threshold) if self._exceedances else _NEVER

        def empty(*shape: int, dtype: torch.dtype = torch.float32, value: float = 0) -> Tensor:
            return torch.full((slots, *shape), value, dtype=dtype, device=device)

        blocks, k = -(-channels // one_read.BLOCK), self.k or 1
        self.centers = empty(channels)
        self.sums = empty(4, places, channels, dtype=torch.float64)
        self.ranges = empty(2, places, channels, value=float("inf"))
        self.ranges[:, 1] = float("-inf")
        self.above = empty(places, channels, dtype=torch.int32)
        self.missing = empty(channels, dtype=torch.int32)
        self.histogram = empty(one_read.FIELDS + 2, dtype=torch.int64)
        self.keys = empty(places * blocks * k, dtype=torch.int64)
        self.found = empty(dtype=torch.int32)
        # No value reaches the floor until the first batch was counted.
        self.floors = empty(value=float("inf"))
        # Of these the first half of the slots' numbers is held, the second is room to sort in.
        self.values = empty(k, value=float("nan")).repeat(2, 1, 1)
        self.documents = empty(k, dtype=torch.int64, value=-1).repeat(2, 1, 1)
        self.positions = empty(k, dtype=torch.int32, value=-1).repeat(2, 1, 1)
        self.columns = self.positions.clone()
        self._begun: set[int] = set()
        self._tokens = 0
        variants = len(_weights([0], self._exceedances.replicates)) if self._exceedances else 0
        # Of every variant: values and documents that reach the threshold; tokens and documents.
        self.reached = (
            empty(variants, channels, dtype=torch.int32),
            empty(variants, channels, dtype=torch.int32),
        )
        self.counts = torch.zeros(2, variants, dtype=torch.int64)

    def fits(self, x: Tensor) -> bool:
        """Whether a tensor belongs into these buffers."""
        alike = x.dtype == self.dtype and x[0, 0].numel() == self.channels
        return alike and x.shape[0] <= self.rows

    def admit_equals(self) -> None:
        """Lower the floors to the least values held: of equal ones an earlier document's is kept,
        and the batch that comes holds one."""
        least = self.values[0, :, -1].abs()
        torch.where(least.isnan(), self.floors, least, out=self.floors)

    def read(self, slot: int, x: Tensor, rows: Rows) -> None:
        """One read of x (B, T, C); the first one of a slot finds its center and its floor."""
        spans, span = one_read.spans_of(x.shape[0], x.shape[1], self.channels, x.device)
        sizes = (self.threshold, self.k, x.shape[1], self.channels, spans, span, self.places)
        buffers = (
            rows.lengths,
            rows.ranks,
            self.floors[slot],
            self.centers[slot],
            self.sums[slot],
            self.ranges[slot],
            self.above[slot],
            self.missing[slot],
            self.histogram[slot],
            self.keys[slot],
            self.found[slot],
        )
        first = slot not in self._begun
        if first:
            self._begun.add(slot)
            self.centers[slot] = _means(x, rows.lengths)
        one_read.read(x, buffers, (*sizes, 0), spans)
        if first and self.k:
            self.floors[slot] = _floor(self.histogram[slot], self.k)
            one_read.read(x, buffers, (*sizes, 1), spans)

    def end(self, rows: Rows, tokens: int) -> None:
        """What the host counts of a batch."""
        self._tokens += tokens
        if self._exceedances is not None:
            self.counts += rows.counts[:, : self.counts.shape[1]]

    def close(self, rows: Rows, shape: tuple[int, int]) -> None:
        """After a batch (B, T): the largest values, and what is counted by document."""
        if self.k:
            one_read.join(
                len(self.steps),
                (
                    self.keys,
                    self.found,
                    rows.order,
                    self.values,
                    self.documents,
                    self.positions,
                    self.columns,
                    self.floors,
                ),
                (self.k, shape[1], self.channels, self.keys.shape[1]),
            )
        if self._exceedances is not None:
            variants = self.counts.shape[1]  # the first ones: another site may want more
            spans, _ = one_read.spans_of(*shape, self.channels, self.above.device)
            one_read.count(shape[0], spans, self.above, rows.weights[:variants], self.reached)

    def state(self, template: Statistic, slot: int) -> State:
        """What a statistic would hold of a slot."""
        missing = self.missing[slot].long()
        if isinstance(template, Moments):
            return self._moments(slot, missing)
        if isinstance(template, LogHistogram):
            return {"counts": self.histogram[slot].clone()}
        if isinstance(template, TopK):
            return self._largest(slot) | {"nonfinite": missing.sum()}
        values, documents = (counts[slot].clone() for counts in self.reached)
        tokens, all_documents = self.counts.to(values.device)
        return {
            "above": values,
            "documents_above": documents,
            "tokens": tokens.clone(),
            "documents": all_documents.clone(),
            "nonfinite": missing,
        }

    def _moments(self, slot: int, missing: Tensor) -> State:
        """Sums about the fixed center become those about the mean, as in `Moments.reduce`."""
        counted = self._tokens - missing
        number = counted.clamp(min=1).double()
        s1, s2, s3, s4 = self.sums[slot].sum(1)
        rest = s1 / number
        return {
            "count": counted,
            "nonfinite": missing,
            "mean": self.centers[slot].double(),
            "rest": rest,
            "s2": (s2 - number * rest**2).clamp(min=0),
            "s3": s3 - 3 * rest * s2 + 2 * number * rest**3,
            "s4": (s4 - 4 * rest * s3 + 6 * rest**2 * s2 - 3 * number * rest**4).clamp(min=0),
            "min": self.ranges[slot, 0].amin(0).double(),
            "max": self.ranges[slot, 1].amax(0).double(),
        }

    def _largest(self, slot: int) -> State:
        value = self.values[0, slot].double()
        vacant = value.isnan()
        return {
            "size": value.abs().masked_fill(vacant, -1.0),
            "value": value.masked_fill(vacant, 0.0),
            "document": self.documents[0, slot].clone(),
            "position": self.positions[0, slot].long(),
            "channel": self.columns[0, slot].long(),
        }


def _least_float(threshold: float) -> float:
    """The least float32 that is not below the threshold: |x| reaches one where it reaches both."""
    below = round_down(threshold, torch.float32)
    if below == threshold:
        return below
    return float(torch.nextafter(torch.tensor(below), torch.tensor(float("inf"))))


def _means(x: Tensor, lengths: Tensor) -> Tensor:
    """A number near the mean of every channel of x (B, T, C), from finite values of first tokens.

    Sums about it lose digits only where later values lie many deviations away from it.
    """
    x = x[:, :64]
    real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    wide = x.float()
    kept = real[..., None] & wide.isfinite()
    total = torch.where(kept, wide.double(), 0.0).sum((0, 1))
    return (total / kept.sum((0, 1)).clamp(min=1)).float()


def _floor(histogram: Tensor, k: int) -> Tensor:
    """A size that at least k of the finite values reach, where there are so many; else 0."""
    lower = torch.tensor([0.0, 0.0, *edges().tolist()], device=histogram.device)
    reaching = histogram[:-1].flip(0).cumsum(0)
    place = (reaching < k).sum()
    return lower.flip(0)[place.clamp(max=len(lower) - 1)]
