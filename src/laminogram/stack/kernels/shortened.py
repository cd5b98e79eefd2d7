"""fp32 weights that are numbers of 16 bits, kept as such beside themselves for whoever multiplies
them with one row on a CPU.

Nearly all published weights are stored in bf16. Read into fp32, half of their bytes are zeros, and
one token costs what reading its weights costs. From a copy in 16 bits the kernels make the very
same fp32 numbers and add them in the same order: equal results for half of the reading.

A copy is only as good as its weight is what it was. Writes that autograd counts, other memory and
other parameters are seen by a `stamp`; a write past its eyes (`weight.data[...] = 0`, a numpy view)
is not, so whoever asks for a copy has it compared with the weight, bit by bit: by the product of a
token that reads both (`Check`), or by a pass over all of it.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .crew import kernels, lead
from .matvec import PAIRED, fits, fits_by_inputs, kind_of, lies_by_inputs, product
from .room import has_room
from .wkv4_decode import stamp

CHECKED, AFTER = 1, 4
"""Tokens for which a weight is read as it is before one compares it with a copy that there is, and
before a copy is made. A token that compares costs half a token more, as much as the next one saves;
making a copy costs as much as four or five save. So a text that ends at once has lost little, and
any other not much more than knowing its length would have saved."""
_LOOKS = 256
"""Numbers looked at before all are. Of full fp32 one in 65,536 passes: such weights end here."""
_copies = WeakTensorKeyDictionary()
"""By parameter, dying with it: a copy in the order in which its numbers lie in memory."""
_full = WeakTensorKeyDictionary()
"""By parameter: the stamp under which it was found to have a number that bf16 does not hold."""


@cache
def _kernel() -> ModuleType:
    return importlib.import_module(".token.shorten", __package__)


def shortened(weight: Tensor) -> Tensor | None:
    """A copy in 16 bits of an fp32 weight (O, I) that `matvec` multiplies, each number equal to the
    last bit: `PAIRED` (O, I / 2), or bf16 (O, I) laid as a weight that lies by its inputs; None
    where there is a number that bf16 does not hold, or no room. Both are read once, in some
    milliseconds per 100 MB."""
    if not _can_have_one(weight) or _full.get(weight) == stamp(weight):
        return None
    by_inputs = lies_by_inputs(weight)
    laid = weight.detach().t() if by_inputs else weight.detach()
    copy: Tensor | None = _copies.get(weight)
    dtype = torch.bfloat16 if by_inputs else PAIRED
    if copy is None or not _is_of(copy, laid, dtype) or not _pass("COMPARE", laid, copy):
        _copies.pop(weight, None)
        copy = _made(weight, laid, dtype)
        if copy is None:
            return None
        _copies[weight] = copy
    return copy.t() if by_inputs else copy


class Check:
    """An fp32 weight and a copy of it in pairs that is compared with it, bit by bit, by the next
    product of both. `kind` and `address` stand for the weight's kind and scale there."""

    def __init__(self, copy: Tensor) -> None:
        self._copy = copy
        self._table = np.array([copy.data_ptr(), 0], np.int64)
        self.kind: int = kernels().FP32_CHECKED
        self.address: int = self._table.ctypes.data

    def copy(self) -> Tensor | None:
        """After the product: the copy, or None where it is not the weight's."""
        return None if self._table[1] else self._copy


def check_of(weight: Tensor) -> Check | None:
    """A check of the copy that there is of this weight (O, I) from before, if there is one."""
    copy: Tensor | None = _copies.get(weight)
    if copy is None or not _can_have_one(weight) or not fits(weight):
        return None
    return Check(copy) if _is_of(copy, weight, PAIRED) else None


def forget(weight: Tensor) -> None:
    """Let go of a weight's copy; whoever reads it keeps it."""
    _copies.pop(weight, None)


def _can_have_one(weight: Tensor) -> bool:
    """Whether it is fp32 that a kernel multiplies, and writes to it are counted."""
    if weight.dtype is not torch.float32 or weight.is_inference():
        return False
    return fits(weight) or fits_by_inputs(weight)


def _width(inputs: int, dtype: torch.dtype) -> int:
    """Entries of a row of a copy."""
    return inputs // 2 if dtype is PAIRED else inputs


def _is_of(copy: Tensor, laid: Tensor, dtype: torch.dtype) -> bool:
    """Whether it may be a copy in this dtype of a weight that lies so."""
    rows, inputs = laid.shape
    return copy.dtype is dtype and copy.shape == (rows, _width(inputs, dtype))


def _made(weight: Tensor, laid: Tensor, dtype: torch.dtype) -> Tensor | None:
    looks = laid.view(-1)[:: max(1, laid.numel() // _LOOKS)].contiguous().view(torch.int32)
    if not (looks & 0xFFFF).any():
        if not has_room(2 * laid.numel()):
            return None
        copy = torch.empty(len(laid), _width(laid.shape[1], dtype), dtype=dtype)
        if _pass("COPY", laid, copy):
            return copy
    _full[weight] = stamp(weight)
    return None


def _pass(what: str, laid: Tensor, copy: Tensor) -> bool:
    """`COPY` or `COMPARE` all numbers; whether they were equal."""
    work = getattr(_kernel(), f"{what}_PAIRS" if copy.dtype is PAIRED else what)
    table = np.array([laid.data_ptr(), copy.data_ptr(), laid.numel(), 0], np.int64)
    lead(_kernel().WAY, work, table.ctypes.data)
    return not table[_kernel().ODD]


class Reader:
    """Multiplies with one weight for the tokens of one run: as it is for the first of them, and
    then with its copy, for as long as it is not written to."""

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._memory: Tensor | None = None
        self._stamp = (0, 0)
        self._copy: Tensor | None = None
        self._tokens = 0

    def __reduce__(self) -> tuple[type[Reader], tuple[()]]:
        return Reader, ()  # a copy of a cache looks for itself

    def product(self, x: Tensor, weight: Tensor) -> Tensor:
        """`matvec(x, weight)`."""
        now = stamp(weight)
        if weight is not self._weight or now != self._stamp:
            self._weight, self._stamp, self._copy, self._tokens = weight, now, None, 0
            self._memory = weight.detach()  # held, so that nothing else can come to lie there
        self._tokens += 1
        check = check_of(weight) if self._tokens == CHECKED + 1 else None
        if check is not None:
            y = product(x, (check.kind, weight.data_ptr(), check.address, *weight.shape))
            self._copy = check.copy()
            return y
        if self._tokens == AFTER + 1 and self._copy is None:
            self._copy = shortened(weight)
        read = weight if self._copy is None else self._copy
        return product(x, (kind_of(read), read.data_ptr(), 0, *weight.shape))
