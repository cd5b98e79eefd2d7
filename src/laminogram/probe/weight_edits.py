"""Edits of weights: one entry, rows, columns, or the basis of the residual stream.

    edits.weights.scale_entry("layers.1.ffn.down.weight", 788, 2427, factor=0)
    edits.weights.zero_rows("layers.3.ffn_norm.weight", [133])
    edits.weights.rotate(seed=1)

A weight edit is a value, as an edit at a site is, and a view carries both kinds. Nothing is written
in place: the view has a stack of its own that shares all parameters but those that change, and the
view it was made from is as it was. A row is an output of a product, a column an input.
"""

from __future__ import annotations

import difflib
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import EditError
from laminogram.probe.numbers import Numbers, numbers
from laminogram.stack.config import StackConfig
from laminogram.stack.rebuild import rebuild
from laminogram.stack.residual_basis import random_rotation, rotated
from laminogram.stack.stack import Stack

__all__ = [
    "WeightEdit",
    "rotate",
    "scale_columns",
    "scale_entry",
    "scale_rows",
    "set_to",
    "zero_columns",
    "zero_rows",
]

Values = float | Sequence[float] | np.ndarray | Tensor
_numbers = partial(numbers, error=EditError, why="the edit would select nothing")
_ORTHOGONAL = 1e-4
"""How far `matrix @ matrix.T` may lie from one, in its largest entry."""


class WeightEdit(ABC):
    """One edit of weights; make it with the functions of this module."""

    @abstractmethod
    def change(
        self, config: StackConfig, weights: Mapping[str, Tensor]
    ) -> tuple[StackConfig, dict[str, Tensor]]:
        """The configuration and all weights after the edit; what it leaves alone is shared."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WeightEdit) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


def edited(stack: Stack, edits: Sequence[WeightEdit]) -> Stack:
    """The stack after edits, in order; itself where there are none.

    Parameters that change are new ones, to which no gradient of the old ones leads. EditError names
    what does not exist, and for stacks whose weights are packed or run by another library.
    """
    if not edits:
        return stack
    if stack.quantised is not None:
        raise EditError(
            f"the weights are {stack.quantised} already: edit those that they were made from"
        )
    if type(stack) is not Stack:
        raise EditError(
            f"the weights of {stack.config.family} lie in a {type(stack).__name__}, which another "
            "library runs; they cannot be edited there"
        )
    own: dict[str, Tensor] = dict(stack.named_parameters())
    config, weights = stack.config, dict(own)
    for edit in edits:
        config, weights = edit.change(config, weights)
    changed = {name: x.detach() for name, x in weights.items() if x is not own.get(name)}
    return rebuild(stack, config, changed)


@dataclass(frozen=True, eq=False, repr=False)
class _Entries(WeightEdit):
    """`w -> w * scale + shift` at rows x columns (None: all) of one parameter."""

    kind: str
    parameter: str
    rows: tuple[int, ...] | None
    columns: tuple[int, ...] | None
    scale: float
    shift: Tensor

    @cached_property
    def _text(self) -> str:
        parts = [repr(self.parameter)]
        for name in ("rows", "columns"):
            chosen = getattr(self, name)
            if chosen is not None:
                parts.append(f"{name}={list(chosen)}")
        return f"weights.{self.kind}({', '.join(parts)}, values={self.scale!r}/{self._shift()})"

    def __str__(self) -> str:
        return self._text

    __repr__ = __str__

    def _shift(self) -> str:
        return repr(float(self.shift)) if self.shift.numel() == 1 else _hash(self.shift)

    def change(
        self, config: StackConfig, weights: Mapping[str, Tensor]
    ) -> tuple[StackConfig, dict[str, Tensor]]:
        """See `WeightEdit.change`. EditError for a parameter or an entry that does not exist."""
        old = _find(weights, self.parameter).detach()
        place = self._place(old)
        wide = old[place].to(torch.float64)
        shift = self.shift.to(old.device)
        try:
            new = (shift if self.scale == 0 else wide * self.scale + shift).expand(wide.shape)
        except RuntimeError:
            raise EditError(
                f"{self} was given values of shape {tuple(self.shift.shape)}; it selects "
                f"{tuple(wide.shape)} of {tuple(old.shape)}"
            ) from None
        made = old.clone()
        made[place] = new.to(old.dtype)
        return config, {**weights, self.parameter: made}

    def _place(self, weight: Tensor) -> tuple[Tensor, ...]:
        if self.columns is not None and weight.dim() < 2:
            raise EditError(f"{self.parameter} has the shape {tuple(weight.shape)}: no columns")
        found = []
        for axis, (word, chosen) in enumerate((("row", self.rows), ("column", self.columns))):
            if axis >= weight.dim():
                break
            size = weight.shape[axis]
            for one in chosen or ():
                if not -size <= one < size:
                    raise EditError(
                        f"{word} {one} of {self.parameter} does not exist: there are 0-{size - 1}"
                    )
            index = torch.arange(size) if chosen is None else torch.tensor(chosen)
            found.append(index.to(weight.device))
        return (found[0][:, None], found[1]) if len(found) == 2 else (found[0],)


@dataclass(frozen=True, eq=False, repr=False)
class _Rotation(WeightEdit):
    """The residual stream in another basis, the function the same."""

    seed: int
    matrix: Tensor | None

    def __str__(self) -> str:
        which = f"seed={self.seed}" if self.matrix is None else f"matrix={_hash(self.matrix)}"
        return f"weights.rotate({which})"

    __repr__ = __str__

    def change(
        self, config: StackConfig, weights: Mapping[str, Tensor]
    ) -> tuple[StackConfig, dict[str, Tensor]]:
        """See `WeightEdit.change`. EditError where the blocks do not allow it."""
        size = config.hidden_size
        matrix = random_rotation(size, self.seed) if self.matrix is None else self.matrix
        if len(matrix) != size:
            raise EditError(f"a matrix of {len(matrix)} channels for a residual of {size}")
        return rotated(config, weights, matrix)


def scale_entry(parameter: str, row: int, column: int | None = None, *, factor: float) -> _Entries:
    """One entry of a parameter times a factor; 0 takes it out, as for a super weight (Yu et al.
    2024). A vector has no column."""
    columns = None if column is None else (int(column),)
    return _entries("scale_entry", parameter, row, columns, scale=factor)


def scale_rows(parameter: str, rows: Numbers, *, factor: float) -> _Entries:
    """Rows (outputs of a product, entries of a vector) times a factor."""
    return _entries("scale_rows", parameter, rows, None, scale=factor)


def scale_columns(parameter: str, columns: Numbers, *, factor: float) -> _Entries:
    """Columns (inputs of a product) times a factor."""
    return _entries("scale_columns", parameter, None, columns, scale=factor)


def zero_rows(parameter: str, rows: Numbers) -> _Entries:
    """Rows at 0: outputs of a product, or entries of a vector such as a norm's gain."""
    return _entries("zero_rows", parameter, rows, None, scale=0.0)


def zero_columns(parameter: str, columns: Numbers) -> _Entries:
    """Columns at 0: inputs of a product."""
    return _entries("zero_columns", parameter, None, columns, scale=0.0)


def set_to(
    parameter: str,
    value: Values,
    *,
    rows: Numbers | None = None,
    columns: Numbers | None = None,
) -> _Entries:
    """A number at the selected rows and columns (None: all), or values that broadcast to them."""
    return _entries("set", parameter, rows, columns, scale=0.0, shift=value)


def rotate(matrix: np.ndarray | Tensor | None = None, *, seed: int = 0) -> _Rotation:
    """The residual stream turned by an orthogonal matrix (C, C), `x @ matrix`, by default one drawn
    from a seed; the function stays the same up to rounding.

    Gains of norms are folded into the weights beside them (and LayerNorm's mean and bias), a tied
    head gets a table of its own. It is possible for pre-norm and parallel blocks of attention and
    plain, gated or mixed feed-forward networks; EditError names what stands in the way elsewhere.
    """
    if matrix is None:
        return _Rotation(int(seed), None)
    found = _values(matrix)
    check_orthogonal(found)
    return _Rotation(int(seed), found)


def check_orthogonal(matrix: Tensor) -> None:
    """EditError unless a matrix is square and orthogonal to 1e-4."""
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise EditError(f"a rotation is a square matrix; this one is {tuple(matrix.shape)}")
    wide = matrix.to(torch.float64)
    away = float((wide @ wide.T - torch.eye(len(wide), dtype=wide.dtype)).abs().max())
    if not away <= _ORTHOGONAL:
        raise EditError(
            f"the matrix is not orthogonal: its product with its transpose is {away:.2g} away from "
            f"one, and at most {_ORTHOGONAL:g} is rounding"
        )


def _entries(
    kind: str,
    parameter: str,
    rows: Numbers | None,
    columns: Numbers | None,
    *,
    scale: float,
    shift: Values = 0.0,
) -> _Entries:
    return _Entries(
        kind,
        parameter,
        _numbers("rows", rows),
        _numbers("columns", columns),
        float(scale),
        _values(shift),
    )


def _find(weights: Mapping[str, Tensor], name: str) -> Tensor:
    if name in weights:
        return weights[name]
    near = difflib.get_close_matches(name, weights, n=4, cutoff=0.4)
    beside = [other for other in weights if other.rpartition(".")[0] == name.rpartition(".")[0]]
    there = ", ".join(dict.fromkeys([*beside, *near])) or ", ".join(list(weights)[:8])
    raise EditError(f"parameter {name!r} does not exist; there are {there}, ...")


def _values(value: Values) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu().to(torch.float64)
    return torch.tensor(np.asarray(value, dtype=np.float64))


def _hash(tensor: Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:12]
