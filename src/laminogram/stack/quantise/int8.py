"""int8: whole numbers from -127 to 127 with one step for each output, or for the whole weight.

Source: absmax quantisation as in Dettmers et al., "LLM.int8()" (arXiv 2208.07339), section 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from laminogram.stack.quantise.base import Codes, Format, scale_for

LARGEST = 127


@dataclass(frozen=True)
class Int8(Format):
    """`codes` (O, I) int8 and `scale` (O, 1), or (1, 1) per tensor, fp32."""

    per: Literal["row", "tensor"] = "row"

    pattern: ClassVar = re.compile(r"int8(?:-per-(?P<per>row|tensor))?")
    grammar: ClassVar = "int8[-per-row|-per-tensor]"

    @classmethod
    def named(cls, match: re.Match[str]) -> Self:
        return cls(match["per"] or "row")  # type: ignore[arg-type]

    def __str__(self) -> str:
        return "int8" if self.per == "row" else "int8-per-tensor"

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        size = weight.abs()
        absmax = size.amax(1, keepdim=True) if self.per == "row" else size.amax().view(1, 1)
        codes, scale = to_int8(weight, absmax)
        return {"codes": codes, "scale": scale}

    def decode(self, codes: Codes, rows: slice, columns: int) -> Tensor:
        scale = codes["scale"]
        return codes["codes"][rows].float() * (scale[rows] if self.per == "row" else scale)


def to_int8(x: Tensor, absmax: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int8 and steps of `x` whose largest entries are `absmax`, both fp32 and broadcasting;
    an entry moves by half a step at most."""
    scale = scale_for(absmax, LARGEST)
    return (x / scale).round().clamp(-LARGEST, LARGEST).to(torch.int8), scale
