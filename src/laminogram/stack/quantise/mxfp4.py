"""MXFP4: fp4 (one sign bit, two of exponent, one of fraction), 32 neighbours to a power of two.

Source: Open Compute Project, "OCP Microscaling Formats (MX) Specification" 1.0, sections 5 and 6.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from laminogram.stack.quantise import nibbles
from laminogram.stack.quantise.base import Codes, Format, grouped, spread

BLOCK = 32
_BETWEEN = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_TIES_UP = (False, True, False, True, False, True, False)  # to the even fraction bit
_HIGHEST = 2  # exponent of the largest value
_BIAS, _LEAST, _MOST = 127, 1, 254  # 0 would be 2^-127, which fp32 holds with fewer bits


@dataclass(frozen=True)
class MXFP4(Format):
    """`codes` (O, ceil(I / 2)) uint8, two to a byte, and `exponent` (O, blocks) uint8 with a bias
    of 127.

    The exponent is that of the block's largest entry, so entries beyond 6 units become 6.
    """

    pattern: ClassVar = re.compile("mxfp4")
    grammar: ClassVar = "mxfp4"

    @classmethod
    def named(cls, match: re.Match[str]) -> Self:
        return cls()

    def __str__(self) -> str:
        return "mxfp4"

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        blocks = grouped(weight, BLOCK)
        _, above = torch.frexp(blocks.abs().amax(-1))  # one above floor(log2), 0 for zero
        exponent = (above - 1 - _HIGHEST + _BIAS).clamp(_LEAST, _MOST)
        size = (blocks.abs() / _unit(exponent)[..., None]).contiguous()
        bounds = torch.tensor(_BETWEEN, device=weight.device)
        below, above_tie = torch.bucketize(size, bounds), torch.bucketize(size, bounds, right=True)
        up = torch.tensor([*_TIES_UP, False], device=weight.device)[below]
        code = torch.where(up, above_tie, below) + 8 * torch.signbit(blocks)
        codes = code.flatten(1)[:, : weight.shape[1]]
        return {"codes": nibbles.pack(codes), "exponent": exponent.to(torch.uint8)}

    def decode(self, codes: Codes, rows: slice, columns: int) -> Tensor:
        code = nibbles.unpack(codes["codes"][rows], columns).int()
        # By arithmetic: a table would have to come from the host, also while a graph is captured.
        power, fraction = (code >> 1) & 3, code & 1
        quarters = (fraction + 2 * (power > 0)) << power.clamp(min=1)
        entries = quarters.float() / 4 * (1 - 2 * (code >> 3))
        return entries * spread(_unit(codes["exponent"][rows]), BLOCK, columns)


def _unit(exponent: Tensor) -> Tensor:
    """The power of two that a stored exponent stands for, fp32."""
    return (exponent.int() << 23).view(torch.float32)  # the very bits of its exponent
