"""Cutting tensors among tensor-parallel ranks and putting them together: pure functions.

Megatron's rules: queries, keys and values lie group by group and a rank has its share of the rows,
also where there are more ranks than groups; gate and up are cut each for itself; output projections
are cut by columns; the vocabulary is padded to a multiple first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from laminogram.checkpoint.megatron.naming import Cut
from laminogram.errors import ConfigError

Padding = Literal["zero", "last"]


def part(tensor: Tensor, cut: Cut, rank: int, ranks: int) -> Tensor:
    """What rank `rank` of `ranks` has of a tensor, a view where that is possible.

    ConfigError where the tensor cannot be cut into that many equal parts.
    """
    check_cut(tuple(tensor.shape), cut, ranks)
    if cut == "whole" or ranks == 1:
        return tensor
    if cut == "halves":
        return torch.cat([half.chunk(ranks)[rank] for half in tensor.chunk(2)])
    return tensor.chunk(ranks, dim=1 if cut == "columns" else 0)[rank]


def merge(parts: Sequence[Tensor], cut: Cut) -> Tensor:
    """The tensor whose parts these are, in the order of the ranks."""
    if cut == "whole" or len(parts) == 1:
        return parts[0]
    if cut == "halves":
        halves = [piece.chunk(2) for piece in parts]
        return torch.cat([gate for gate, _ in halves] + [up for _, up in halves])
    return torch.cat(tuple(parts), dim=1 if cut == "columns" else 0)


def check_cut(shape: tuple[int, ...], cut: Cut, ranks: int) -> None:
    """ConfigError unless a tensor of this shape has equal parts for that many ranks."""
    if cut == "whole":
        return
    axis, pieces = 1 if cut == "columns" else 0, ranks * (2 if cut == "halves" else 1)
    if len(shape) <= axis or shape[axis] % pieces:
        raise ConfigError(
            f"a tensor of shape {shape} cannot be cut by {cut} for {ranks} tensor-parallel ranks: "
            f"its axis {axis} is no multiple of {pieces}"
        )


def part_shape(shape: tuple[int, ...], cut: Cut, ranks: int) -> tuple[int, ...]:
    """The shape of every rank's part."""
    check_cut(shape, cut, ranks)
    if cut == "whole":
        return shape
    axis = 1 if cut == "columns" else 0
    return (*shape[:axis], shape[axis] // ranks, *shape[axis + 1 :])


def merged_shape(shape: tuple[int, ...], cut: Cut, ranks: int) -> tuple[int, ...]:
    """The shape of the tensor whose parts have this shape."""
    if cut == "whole":
        return shape
    axis = 1 if cut == "columns" else 0
    return (*shape[:axis], shape[axis] * ranks, *shape[axis + 1 :])


def padded_size(vocab_size: int, divisible_by: int, ranks: int) -> int:
    """The rows of a vocabulary that every rank has an equal, aligned share of."""
    multiple = divisible_by * ranks
    return -(-vocab_size // multiple) * multiple


def pad(tensor: Tensor, rows: int, padding: Padding) -> Tensor:
    """The tensor with rows added at its end: zeros, or copies of its last row."""
    missing = rows - tensor.shape[0]
    if missing <= 0:
        return tensor
    filler = tensor[-1:] if padding == "last" else torch.zeros_like(tensor[-1:])
    return torch.cat([tensor, filler.expand(missing, *tensor.shape[1:])])


def vocabulary_part(tensor: Tensor, rows: int, padding: Padding, rank: int, ranks: int) -> Tensor:
    """Rank `rank`'s share of a vocabulary padded to `rows`, without padding the whole of it."""
    share = rows // ranks
    piece = tensor[rank * share : (rank + 1) * share]
    if piece.shape[0]:
        return pad(piece, share, padding)
    return pad(tensor[-1:], share + 1, padding)[1:]


def grouped_rows(tensor: Tensor, heads: int, version: float) -> Tensor:
    """A rank's fused queries, keys and values of an early checkpoint in today's order.

    heads: the rank's attention heads, each with keys of its own. Before version 1 the rows were
    (3, heads, size), before version 2 (heads, size, 3); since then (heads, 3, size).
    """
    if version >= 2:
        return tensor
    if tensor.shape[0] % (3 * heads):
        raise ConfigError(
            f"a fused projection with {tensor.shape[0]} rows is none of {heads} heads, each with a "
            f"query, a key and a value, as checkpoint version {version:g} stores them"
        )
    rest = tensor.shape[1:]
    if version < 1:
        rows = tensor.view(3, heads, -1, *rest).transpose(0, 1)
    else:
        rows = tensor.view(heads, -1, 3, *rest).transpose(1, 2)
    return rows.reshape(tensor.shape)
