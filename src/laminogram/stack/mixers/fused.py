"""Layers for one token of one row in one call of compiled kernels (`kernels/token/layers.py`): one
of them, where somebody looks at what is between two, or all; weights in fp32, bf16 or int8.

Weights and memories are read where they lie, but for fp32 weights that are numbers of 16 bits, of
which a copy is read after some tokens (`kernels/shortened.py`). Vectors are copied in fp32. A write
to what is copied past autograd's eyes (`.data`, a numpy view) is seen by a new cache only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import chain
from operator import attrgetter, is_
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from laminogram.stack.cache import StepSlot
from laminogram.stack.context import V_FIRST, Context
from laminogram.stack.kernels.crew import lead
from laminogram.stack.kernels.matvec import fits, kind_of
from laminogram.stack.kernels.shortened import AFTER, CHECKED, Check, check_of, shortened

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer
    from laminogram.stack.linear import Linear
    from laminogram.stack.norms import Norm

STREAMS = (torch.float32, torch.bfloat16)
"""What the residual stream and a memory may be held in."""
_SERVED = (*STREAMS, torch.float64)
Stored = tuple[Tensor, Tensor | None]
"""What is read of a weight: its numbers (O, I), and the steps (O,) of int8 ones."""
Memories = Callable[[StepSlot], tuple[Any, ...]]
"""From a slot to the tensors in it that a decoder has the addresses of."""


@cache
def _layers() -> ModuleType:
    return importlib.import_module("laminogram.stack.kernels.token.layers")


def is_one_row(x: Tensor, ctx: Context) -> bool:
    """Whether `x` is one token of one row on a CPU, in fp32, fp64 or bf16, and nothing is
    differentiated, captured or compiled."""
    return (
        x.numel() == x.shape[-1]
        and ctx.lengths is None
        and ctx.start is not None
        and x.is_cpu
        and x.dtype in _SERVED
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


class Product(Protocol):
    """What multiplies with a weight (O, I): a `Linear`, a table, or one that a decoder has laid for
    its kernel."""

    @property
    def weight(self) -> Any: ...


def stored(
    products: Sequence[Product], served: Callable[[Tensor], bool] = fits
) -> list[Stored] | None:
    """What a kernel reads of the weights of products; None where it does not take one of them, or
    one is too small to be worth it, which `served` says of its numbers."""
    found = []
    for product in products:
        one = _stored(product.weight)
        if one is None or not served(one[0]):
            return None
        found.append(one)
    return found


def is_readable(weight: Tensor) -> bool:
    """Whether a kernel takes the weight, worth it or not."""
    return fits(weight, least=0)


def _stored(weight: Any) -> Stored | None:
    """None for a weight that is not stored in rows."""
    if isinstance(weight, Tensor):
        return weight.detach(), None
    rows = getattr(weight, "int8_rows", None)
    found: Stored | None = None if rows is None else rows()
    return found


class Weights:
    """The weights of a decoder's products as its kernel takes them. `table` (weights, 5): kind,
    addresses of numbers and steps, shape. With `short` fp32 ones give way to copies in 16 bits: to
    those that there are once a token has read both, to new ones after some more tokens.

    found: what `stored` says of the products, kept for as long as the kernel has the addresses. It
    is kept beside a copy, too: else other weights could come to lie at an address that is watched.
    """

    def __init__(self, products: Sequence[Product], found: list[Stored], short: bool) -> None:
        self._products, self._found, self._short = products, found, short
        self._checks: list[Check | None] = []
        self._copies: list[Tensor | None] = [None] * len(found)
        self._tokens = 0
        self.table = np.array([(*_read(*one), *one[0].shape) for one in found], np.int64)
        self.outputs = int(self.table[-1, 3])

    def address_of(self, place: int) -> int:
        """Where a product stands in the table."""
        return int(self.table.ctypes.data) + place * self.table.strides[0]

    def count(self) -> None:
        """A token comes."""
        self._tokens += 1
        if not self._short or self._tokens > AFTER + 1:
            return
        if self._tokens == CHECKED + 1:
            self._checks = [None if x is None else check_of(x) for x in self._dense()]
            for row, check in zip(self.table, self._checks):
                if check is not None:
                    row[0], row[2] = check.kind, check.address
        elif self._tokens == CHECKED + 2:
            self._take([None if check is None else check.copy() for check in self._checks])
            self._checks = []
        elif self._tokens == AFTER + 1:
            self._take(
                [
                    copy if copy is not None or weight is None else shortened(weight)
                    for weight, copy in zip(self._dense(), self._copies)
                ]
            )

    def _dense(self) -> list[Tensor | None]:
        weights: list[Any] = [product.weight for product in self._products]
        return [weight if isinstance(weight, Tensor) else None for weight in weights]

    def _take(self, copies: list[Tensor | None]) -> None:
        """Read copies where there are some."""
        self._copies = copies
        for i, copy in enumerate(copies):
            read, steps = self._found[i] if copy is None else (copy, None)
            self.table[i, :3] = _read(read, steps)


def _read(numbers: Tensor, steps: Tensor | None) -> tuple[int, int, int]:
    return kind_of(numbers), numbers.data_ptr(), 0 if steps is None else steps.data_ptr()


def vector(x: Tensor) -> np.ndarray:
    """A vector in fp32."""
    array: np.ndarray = x.detach().float().numpy()
    return array


def bias_of(product: Linear) -> np.ndarray:
    """What a product adds (O,), zeros where that is nothing."""
    bias, outputs = product.bias, product.weight.shape[0]
    return np.zeros(outputs, np.float32) if bias is None else vector(bias)


def scaled(norm: Norm) -> tuple[np.ndarray, np.ndarray]:
    """What a norm multiplies with, its offset included, and what it adds."""
    bias = np.zeros(norm.size, np.float32) if norm.bias is None else vector(norm.bias)
    return vector(norm.weight) + np.float32(norm.offset), bias


def kind_of_norm(norm: Norm) -> int:
    """The number by which the kernels know it."""
    vectors = importlib.import_module("laminogram.stack.kernels.token.vectors")
    kind: int = vectors.RMS if norm.kind == "rms" else vectors.LAYER
    return kind


_place, _version = Tensor.data_ptr, attrgetter("_version")


class Watch:
    """What a decoder took for granted: modules, parameters, other `tables` of objects. Asked at
    every token with cold caches, so it is loops of the interpreter's own wherever it can be."""

    def __init__(self, roots: Iterable[nn.Module], tables: Sequence[dict[str, Any]] = ()) -> None:
        modules = list(roots)
        for module in modules:  # grows; what `modules()` gives, in a fifth of its time
            modules += [child for child in module._modules.values() if child is not None]
        self._modules = _Entries([*tables, *(module._modules for module in modules)])
        self._parameters = _Entries(module._parameters for module in modules)
        found = [x for x in self._parameters.kept if x is not None]
        self._tensors = found
        self._counted = [x for x in found if not x.is_inference()]  # others count no writes
        self._now = list(map(_place, found)), list(map(_version, self._counted))

    def unchanged(self) -> bool:
        """Whether all is as it was."""
        places, versions = self._now
        return (
            self._modules.unchanged()
            and self._parameters.unchanged()
            and list(map(_place, self._tensors)) == places
            and list(map(_version, self._counted)) == versions
        )


class _Entries:
    """The values of some tables, each the very object that it was."""

    def __init__(self, tables: Iterable[dict[str, Any]]) -> None:
        self._views = [table.values() for table in tables if table]
        self.kept = list(chain.from_iterable(self._views))

    def unchanged(self) -> bool:
        """Whether nothing was replaced, added or taken away."""
        if sum(map(len, self._views)) != len(self.kept):
            return False
        return all(map(is_, chain.from_iterable(self._views), self.kept))


class Entries:
    """A table of what a compiled function takes. values: by name, as numbers, or as what has an
    address, kept for as long as the function has it: arrays, weights and other tables."""

    def __init__(self, kernel: ModuleType, values: Mapping[str, Value]) -> None:
        self._kept = values
        table = np.zeros(kernel.ENTRIES, np.int64)
        for name, value in values.items():
            table[getattr(kernel, name)] = _number(value)
        self._table = table
        self.address: int = table.ctypes.data


Value = int | np.ndarray | Weights | Entries


def _number(value: Value) -> int:
    """A number as it is, of anything else the address."""
    if isinstance(value, Weights):
        value = value.table
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    return value.address if isinstance(value, Entries) else value


class Called(NamedTuple):
    """A compiled function that a stage calls by its address, and what it takes."""

    function: int
    entries: Entries


class Stage:
    """A part of a token's way that a compiled kernel does.

    weights: those of which copies may be read; kernel: the module of its `step`; values: what that
    takes, see `Entries`.
    """

    def __init__(
        self, weights: Weights | None, kernel: ModuleType, values: Mapping[str, Value]
    ) -> None:
        self.weights = weights
        self._entries = Entries(kernel, values)
        self.entry: tuple[int, int] = kernel.step.address, self._entries.address

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()  # addresses mean nothing in a copy of a cache, which makes its own


class FusedDecoder(Stage):
    """`Layer.forward` of one token in one call; what the slot remembers moves on. `dtype` is that
    of the residual stream; weights, kernel and values as a stage takes them."""

    def __init__(
        self,
        layer: Layer,
        slot: StepSlot,
        dtype: torch.dtype,
        memories: Memories,
        weights: Weights,
        kernel: ModuleType,
        values: Mapping[str, Value],
    ) -> None:
        super().__init__(weights, kernel, values)
        self._layer, self._dtype, self._memories = layer, dtype, memories
        self._watch, self._remembered = Watch([layer]), memories(slot)

    def serves(self, layer: Layer, slot: StepSlot, dtype: torch.dtype) -> bool:
        """Whether it was made for this layer, as it is now, for this very memory and dtype."""
        same = layer is self._layer and dtype is self._dtype
        return same and self.remembers(slot) and self._watch.unchanged()

    def remembers(self, slot: StepSlot) -> bool:
        """Whether the memory of this slot lies where it was."""
        return all(map(is_, self._memories(slot), self._remembered))

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """`x (1, 1, C) -> (1, 1, C)`."""
        return through((self,), x, ctx)


def several_layers(layers: Iterable[tuple[Layer, StepSlot]], x: Tensor, ctx: Context) -> Tensor:
    """Layers one after the other, `x (1, 1, C)`, each by the decoder that its slot keeps."""
    return through([slot.decoder for _, slot in layers], x, ctx)


def through(stages: Sequence[Stage], x: Tensor, ctx: Context) -> Tensor:
    """`x (1, 1, C)` after these stages."""
    count(stages)
    out = x.clone(memory_format=torch.contiguous_format)
    pass_through(table_of(stages), out, ctx)
    return out


def count(stages: Iterable[Stage]) -> None:
    """A token comes: what reads weights may turn to their copies."""
    for stage in stages:
        if stage.weights is not None:
            stage.weights.count()


def table_of(stages: Sequence[Stage]) -> np.ndarray:
    """What `pass_through` takes of stages (stages, 2)."""
    return np.array([stage.entry for stage in stages], np.int64)


def pass_through(
    table: np.ndarray, x: Tensor, ctx: Context, logits: Tensor | None = None, number: int = 0
) -> None:
    """A token's residual stream `x` through stages, in place; the first may write it, as that of
    the token of this `number`, and the last may write `logits (V,)`."""
    ropes = [(cos.data_ptr(), sin.data_ptr(), cos.shape[-1]) for cos, sin in ctx.rope]
    first = ctx.streams.get(V_FIRST)
    values = None if first is None else first.float().contiguous()
    ends = x.data_ptr(), ctx.columns, _place_of(logits), number, _place_of(values)
    token = np.array([*ends, *chain.from_iterable(ropes)], np.int64)
    lead(_layers().WAY, table.ctypes.data, len(table), token.ctypes.data)


def _place_of(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
