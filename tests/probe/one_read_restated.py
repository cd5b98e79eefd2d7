"""What the kernels of one_read.cu do, restated in torch: a stand-in where there is no GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from laminogram.probe.statistics import Rows
from laminogram.probe.statistics.histogram import LogHistogram

PLACES = 6


def spans_of(rows: int, tokens: int, channels: int, device: object) -> tuple[int, int]:
    span = -(-tokens // max(1, PLACES // rows))
    return -(-tokens // span), span


def most_places(rows: int, channels: int, device: object) -> int:
    return max(rows, PLACES)


def read(x: Tensor, buffers: tuple[Tensor, ...], options: tuple[Any, ...], spans: int) -> None:
    lengths, ranks, floor, centers, sums, ranges, above, missing, histogram, keys, found = buffers
    threshold, k, tokens, channels, _, span, _, only_keys = options
    for place in range(x.shape[0] * spans):
        row, begin = place // spans, place % spans * span
        part = x[row, begin : min(begin + span, int(lengths[row]))].float()
        if not only_keys and len(part):
            finite = part.isfinite()
            d = torch.where(finite, part.double() - centers.double(), 0.0)
            for power in range(4):
                sums[power, place] += (d ** (power + 1)).sum(0)
            low = torch.where(finite, part, float("inf")).amin(0)
            high = torch.where(finite, part, float("-inf")).amax(0)
            ranges[0, place] = torch.minimum(ranges[0, place], low)
            ranges[1, place] = torch.maximum(ranges[1, place], high)
            missing += (~finite).sum(0).int()
            histogram += LogHistogram().reduce(Rows.of(part[None]))["counts"]
        if not only_keys:
            above[place] = (part.isfinite() & (part.abs() >= threshold)).sum(0).int()
        t, c = (part.isfinite() & (part.abs() >= floor)).nonzero(as_tuple=True)
        order = (int(ranks[row]) * tokens + begin + t) * channels + c
        bits = part[t, c].view(torch.int32).long()
        made = ((bits & 0x7FFFFFFF) << 32) | ((0x7FFFFFFF - order) << 1) | (bits < 0).long()
        # A block of the kernel keeps k of 128 channels; here all channels are one block.
        made = made.sort(descending=True).values[:k].flip(0)  # and in any order
        keys[int(found) : int(found) + len(made)] = made
        found += len(made)


def join(slots: int, buffers: tuple[Tensor, ...], sizes: tuple[int, ...]) -> None:
    keys, found, order, values, documents, positions, columns, floors = buffers
    k, tokens, channels, _ = sizes
    for slot in range(slots):
        rows = [
            (-abs(v), d, p, c, v)
            for v, d, p, c in zip(
                values[0, slot].tolist(),
                documents[0, slot].tolist(),
                positions[0, slot].tolist(),
                columns[0, slot].tolist(),
            )
            if v == v
        ]
        for key in keys[slot, : int(found[slot])].tolist():
            at = 0x7FFFFFFF - ((key & 0xFFFFFFFF) >> 1)
            size = float(torch.tensor(key >> 32, dtype=torch.int32).view(torch.float32))
            document = int(order[at // channels // tokens])
            value = -size if key & 1 else size
            rows.append((-size, document, at // channels % tokens, at % channels, value))
        for rank, (_, d, p, c, v) in enumerate(sorted(rows)[:k]):
            values[0, slot, rank], documents[0, slot, rank] = v, d
            positions[0, slot, rank], columns[0, slot, rank] = p, c
        found[slot] = 0
        if len(rows) >= k:
            floors[slot] = torch.nextafter(values[0, slot, k - 1].abs(), torch.tensor(float("inf")))


def count(
    rows: int, spans: int, above: Tensor, weights: Tensor, counts: tuple[Tensor, Tensor]
) -> None:
    for slot, places in enumerate(above):
        found = places[: rows * spans].unflatten(0, (rows, spans)).sum(1)
        counts[0][slot] += (weights[:, :, None] * found).sum(1).int()
        counts[1][slot] += (weights[:, :, None] * (found > 0)).sum(1).int()
