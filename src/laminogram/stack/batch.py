"""Rows of tokens, left-aligned.

Whatever side the user pads, inside a stack every row begins at column 0. Then causal attention
needs no pad mask, a token shift is the previous column, and a pad can only follow what is real.
`Batch.restore` brings results back to the layout they were given in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import TokenError


@dataclass(frozen=True)
class Batch:
    """Tokens (B, T) with real tokens first.

    `lengths` and `offsets` (the user's left pads) are one number a row, `columns` the user's width.
    """

    tokens: Tensor
    lengths: tuple[int, ...]
    offsets: tuple[int, ...]
    columns: int
    types: Tensor | None = None

    @classmethod
    def of(
        cls,
        tokens: Tensor | np.ndarray | Sequence[int] | Sequence[Sequence[int]],
        mask: Tensor | None = None,
        types: Tensor | None = None,
        *,
        vocab_size: int,
    ) -> Batch:
        """Align and check rows of ids.

        tokens: ids (T,), ragged lists of ids, or rows of one length (B, T) with `mask` (B, T) true
        where a token is real; types: (B, T). Raises TokenError for an empty row, a hole in the
        mask, another shape of mask or types, an id outside the vocabulary (named with its place).
        """
        if isinstance(tokens, np.ndarray):
            tokens = torch.from_numpy(np.array(tokens))
        if not isinstance(tokens, Tensor):
            tokens, mask = _from_lists(tokens, mask)
        if tokens.is_floating_point():
            raise TokenError(f"token ids are whole numbers; these are {tokens.dtype}")
        if tokens.dim() == 1:
            tokens = tokens[None]
        if tokens.dim() == 2 and tokens.shape[0] == 1:
            mask, types = (x[None] if x is not None and x.dim() == 1 else x for x in (mask, types))
        for name, beside in (("mask has", mask), ("types have", types)):
            if beside is not None and beside.shape != tokens.shape:
                raise TokenError(
                    f"the {name} the shape {tuple(beside.shape)}, the tokens {tuple(tokens.shape)}"
                )
        if tokens.dim() != 2:
            raise TokenError(f"tokens have shape {tuple(tokens.shape)}; it must be (T,) or (B, T)")
        if not tokens.numel():
            raise TokenError("row 0 holds no real token: a text needs at least one")
        tokens = _own(tokens)
        rows, columns = tokens.shape
        if mask is None:
            _check_vocabulary(tokens, None, vocab_size)
            return cls(tokens, (columns,) * rows, (0,) * rows, columns, types)
        real = mask.bool().cpu().numpy()
        lengths, offsets = _spans(real)
        _check_vocabulary(tokens, real, vocab_size)
        if any(offsets):
            index = (torch.arange(tokens.shape[1])[None] + torch.tensor(offsets)[:, None]).clamp(
                max=tokens.shape[1] - 1
            )
            tokens = tokens.gather(1, index.to(tokens.device))
            types = None if types is None else types.gather(1, index.to(types.device))
        batch = cls(tokens, lengths, offsets, columns, types)
        tokens = torch.where(batch.mask, tokens, 0)
        width = max(lengths)
        types = None if types is None else types[:, :width]
        return cls(tokens[:, :width], lengths, offsets, columns, types)

    @property
    def shape(self) -> tuple[int, int]:
        return self.tokens.shape[0], self.tokens.shape[1]

    @property
    def uniform(self) -> bool:
        """No pad at all."""
        return all(length == self.tokens.shape[1] for length in self.lengths)

    @property
    def mask(self) -> Tensor:
        """(B, T), true where a token is real, in the aligned layout."""
        columns = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        return columns[None] < torch.tensor(self.lengths, device=self.tokens.device)[:, None]

    @property
    def restored_mask(self) -> Tensor:
        """(B, columns), true where a token is real, in the user's layout."""
        columns = torch.arange(self.columns)[None] - torch.tensor(self.offsets)[:, None]
        return (columns >= 0) & (columns < torch.tensor(self.lengths)[:, None])

    def to(self, device: torch.device) -> Batch:
        """The same rows on another device."""
        types = None if self.types is None else sent(self.types, device)
        return Batch(sent(self.tokens, device), self.lengths, self.offsets, self.columns, types)

    def restore(self, x: Tensor, axes: tuple[int, ...] = (1,)) -> Tensor:
        """`x`, aligned along `axes` (counted with the batch as axis 0), in the user's layout.

        Columns that the user padded hold copies of the nearest column.
        """
        width = self.tokens.shape[1]
        if not any(self.offsets) and width == self.columns:
            return x
        offsets = torch.tensor(self.offsets)
        index = torch.arange(self.columns)[None] - offsets[:, None]
        index = index.clamp(0, width - 1).to(x.device)
        for axis in axes:
            shape = [1] * x.dim()
            shape[0], shape[axis] = index.shape
            target = list(x.shape)
            target[axis] = index.shape[1]
            x = x.gather(axis, index.reshape(shape).expand(target))
        return x


def _own(tokens: Tensor) -> Tensor:
    """A copy as int64, so that what the caller does to theirs later changes nothing here.

    Here and below numpy does what is small: on a host of many cores torch hands even some ten
    thousand numbers to all of its threads, and takes milliseconds to wake them.
    """
    if tokens.device.type == "cpu":
        return torch.from_numpy(tokens.numpy().astype(np.int64))
    return tokens.to(torch.long, copy=True)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """`x` on another device. On the way to a GPU the host does not wait until it has caught up."""
    if device.type != "cuda":
        return x.to(device)
    return (x.pin_memory() if x.is_cpu else x).to(device, non_blocking=True)


def _from_lists(
    tokens: Sequence[int] | Sequence[Sequence[int]], mask: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Rows side by side (B, T), and where they are real: as given, or as long as each list is; no
    mask for lists of one length without any."""
    if not len(tokens):
        raise TokenError("no token was given: a text needs at least one")
    if not isinstance(tokens[0], Sequence | Tensor | np.ndarray):
        return _ids(tokens)[None], mask
    rows = [_ids(row) for row in tokens]
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    if bool((lengths == padded.shape[1]).all()):
        return padded, mask
    if mask is not None:
        raise TokenError(
            f"a mask marks the real tokens of rows of one length; these are {min(lengths)} to "
            f"{max(lengths)} tokens long, which says that all of them are real"
        )
    return padded, torch.arange(padded.shape[1])[None] < lengths[:, None]


def _ids(row: Any) -> Tensor:
    """One row's ids (T,), a list or an array, as int64; TokenError where they are not whole."""
    try:
        ids = row if isinstance(row, Tensor) else torch.from_numpy(np.array(row))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TokenError(f"a row of token ids holds whole numbers; got {row!r:.60}") from error
    if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
        raise TokenError(f"token ids are whole numbers; got {row!r:.60}")
    return ids.long()


def _spans(real: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Length and left padding of each row; TokenError for an empty row or a hole."""
    counts = real.sum(1).tolist()
    firsts = real.argmax(1).tolist()
    spans = (real.shape[1] - real[:, ::-1].argmax(1)).tolist()
    for row, (count, first, end) in enumerate(zip(counts, firsts, spans)):
        if count == 0:
            raise TokenError(f"row {row} holds no real token: a text needs at least one")
        if end - first != count:
            raise TokenError(f"the mask of row {row} has a hole: real tokens must be neighbours")
    return tuple(counts), tuple(firsts)


def _check_vocabulary(tokens: Tensor, real: np.ndarray | None, vocab_size: int) -> None:
    """TokenError for an id outside the vocabulary; `real` None: every token is."""
    ids = tokens.cpu().numpy()
    wrong = (ids < 0) | (ids >= vocab_size)
    if real is not None:
        wrong &= real
    if wrong.any():
        row, column = (int(i) for i in np.argwhere(wrong)[0])
        raise TokenError(
            f"token id {int(ids[row, column])} at row {row}, column {column} is outside the "
            f"vocabulary: ids are 0 to {vocab_size - 1}"
        )
