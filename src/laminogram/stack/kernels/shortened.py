"""fp32 weights that are numbers of 16 bits, kept as such beside themselves for whoever multiplies
them with one row on a CPU.

Nearly all published weights are stored in bf16. Read into fp32, half of their bytes are zeros, and
one token costs what reading its weights costs. From a copy in bf16 the kernels make the very same
fp32 numbers and add them in the same order: equal results for half of the reading.

A copy is only as good as its weight is what it was. Writes that autograd counts, other memory and
other parameters are seen by a `stamp`; a write past its eyes (`weight.data[...] = 0`, a numpy view)
is not, so whoever asks for a copy has it compared with the weight, bit by bit.
"""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .crew import crew
from .matvec import fits, fits_by_inputs, lies_by_inputs
from .room import has_room
from .wkv4_decode import stamp

AFTER = 4
"""Tokens for which a weight is read as it is before a copy is asked for. Comparing costs as much as
three tokens save with it and making one as much as four or five, so a text that ends at once has
lost little, and any other not much more than knowing its length would have saved."""
_LOOKS = 256
"""Numbers looked at before all are. Of full fp32 one in 65,536 passes: such weights end here."""
_copies = WeakTensorKeyDictionary()
"""By parameter, dying with it: a copy in the order in which its numbers lie in memory."""


@cache
def _kernel() -> ModuleType:
    return importlib.import_module("._shorten_numba", __package__)


def shortened(weight: Tensor) -> Tensor | None:
    """A copy in bf16 of an fp32 weight (O, I) that `matvec` multiplies, each number equal to the
    last bit and laid as the weight is; None where there is a number that bf16 does not hold, or no
    room. Both are read once, in some milliseconds per 100 MB."""
    if weight.dtype is not torch.float32 or weight.is_inference():  # whose writes nobody counts
        return None
    if not fits(weight) and not fits_by_inputs(weight):
        return None
    by_inputs = lies_by_inputs(weight)
    laid = weight.detach().t() if by_inputs else weight.detach()
    copy: Tensor | None = _copies.get(weight)
    if copy is None or copy.shape != laid.shape or not _pass(_kernel().COMPARE, laid, copy):
        copy = _made(laid)
        if copy is None:
            _copies.pop(weight, None)
            return None
        _copies[weight] = copy
    return copy.t() if by_inputs else copy


def forget(weight: Tensor) -> None:
    """Let go of a weight's copy; whoever reads it keeps it."""
    _copies.pop(weight, None)


def _made(laid: Tensor) -> Tensor | None:
    looks = laid.view(-1)[:: max(1, laid.numel() // _LOOKS)].contiguous().view(torch.int32)
    if (looks & 0xFFFF).any() or not has_room(2 * laid.numel()):
        return None
    copy = torch.empty_like(laid, dtype=torch.bfloat16)
    return copy if _pass(_kernel().COPY, laid, copy) else None


def _pass(work: int, laid: Tensor, copy: Tensor) -> bool:
    """Copy or compare all numbers; whether they were equal."""
    table = np.array([laid.data_ptr(), copy.data_ptr(), laid.numel(), 0], np.int64)
    with crew().at_work() as job:
        equal: bool = _kernel().whole(job, work, table)
    return equal


class Reader:
    """Reads one weight for the tokens of one run: as it is for the first `AFTER` of them, and then
    its copy, for as long as it is not written to."""

    def __init__(self) -> None:
        self._weight: Tensor | None = None
        self._memory: Tensor | None = None
        self._stamp = (0, 0)
        self._copy: Tensor | None = None
        self._tokens = 0

    def __reduce__(self) -> tuple[type[Reader], tuple[()]]:
        return Reader, ()  # a copy of a cache looks for itself

    def __call__(self, weight: Tensor) -> Tensor:
        """What to multiply with in place of `weight`, which `matvec` takes."""
        now = stamp(weight)
        if weight is not self._weight or now != self._stamp:
            self._weight, self._stamp, self._copy, self._tokens = weight, now, None, 0
            self._memory = weight.detach()  # held, so that nothing else can come to lie there
        self._tokens += 1
        if self._tokens == AFTER + 1:
            self._copy = shortened(weight)
        return weight if self._copy is None else self._copy
