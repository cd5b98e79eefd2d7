"""fp8: floating point in eight bits, scaled per tensor, per output, or per block of 128 x 128.

Source: Micikevicius et al., "FP8 Formats for Deep Learning" (arXiv 2209.05433); blocks as in
DeepSeek-AI, "DeepSeek-V3" (arXiv 2412.19437), section 3.3.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from laminogram.stack.quantise.base import Codes, Format, grouped, scale_for, spread

BLOCK = 128
Kind = Literal["e4m3", "e5m2"]
_DTYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


@dataclass(frozen=True)
class Fp8(Format):
    """`codes` (O, I) fp8 and `scale` fp32: (1, 1), (O, 1), or (blocks of O, blocks of I), the last
    blocks cut short."""

    kind: Kind = "e4m3"
    per: Literal["tensor", "row", "block"] = "tensor"

    pattern: ClassVar = re.compile(
        r"fp8(?:-(?P<kind>e4m3|e5m2))?(?:-per-(?P<per>tensor|row)|-(?P<blocks>blocks))?"
    )
    grammar: ClassVar = "fp8[-e4m3|-e5m2][-per-tensor|-per-row|-blocks]"

    @classmethod
    def named(cls, match: re.Match[str]) -> Self:
        per = "block" if match["blocks"] else match["per"] or "tensor"
        return cls(match["kind"] or "e4m3", per)  # type: ignore[arg-type]

    def __str__(self) -> str:
        name = "fp8" if self.kind == "e4m3" else "fp8-e5m2"
        return name + {"tensor": "", "row": "-per-row", "block": "-blocks"}[self.per]

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        size = weight.abs()
        if self.per == "tensor":
            absmax = size.amax().view(1, 1)
        elif self.per == "row":
            absmax = size.amax(1, keepdim=True)
        else:
            by_columns = grouped(size, BLOCK).amax(-1)
            absmax = grouped(by_columns.t(), BLOCK).amax(-1).t()
        scale = scale_for(absmax, largest(self.kind)).contiguous()
        spread_out = self._spread(scale, slice(0, weight.shape[0]), weight.shape[1])
        return {"codes": to_fp8(weight / spread_out, self.kind), "scale": scale}

    def decode(self, codes: Codes, rows: slice, columns: int) -> Tensor:
        return codes["codes"][rows].float() * self._spread(codes["scale"], rows, columns)

    def _spread(self, scale: Tensor, rows: slice, columns: int) -> Tensor:
        """The scale of every entry of some rows, to be broadcast."""
        if self.per != "block":
            return scale[rows] if self.per == "row" else scale
        blocks = torch.arange(rows.start, rows.stop, device=scale.device) // BLOCK
        return spread(scale[blocks], BLOCK, columns)


def largest(kind: Kind) -> float:
    """The largest finite number of a kind of fp8."""
    return torch.finfo(_DTYPES[kind]).max


def to_fp8(x: Tensor, kind: Kind) -> Tensor:
    """`x` rounded to fp8; what lies beyond its range by a rounding error is its largest number."""
    return x.clamp(-largest(kind), largest(kind)).to(_DTYPES[kind])
