"""int4 in groups: along the inputs, so many neighbours share a step, and a zero point if asked for.

Source: group-wise rounding to nearest as in Frantar et al., "GPTQ" (arXiv 2210.17323), and Lin et
al., "AWQ" (arXiv 2306.00978), without their calibration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.stack.quantise import nibbles
from laminogram.stack.quantise.base import Codes, Format, grouped, scale_for, spread

MIDDLE, STEPS = 8, 15
DEFAULT_GROUP = 128


@dataclass(frozen=True)
class Int4(Format):
    """`codes` (O, ceil(I / 2)) uint8, two to a byte, and `scale` (O, groups) fp32.

    Symmetric codes stand for -7 to 7 steps. Asymmetric ones (`zero` (O, groups) uint8 beside them)
    span the group's smallest and largest entry, and 0, in 15 steps.
    """

    group: int = DEFAULT_GROUP
    symmetric: bool = True

    pattern: ClassVar = re.compile(r"int4(?:-g(?P<group>\d+))?(?:-(?P<kind>sym|asym))?")
    grammar: ClassVar = "int4[-g128][-sym|-asym]"

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ConfigError(f"a group of int4 has one entry at least, not {self.group}")

    @classmethod
    def named(cls, match: re.Match[str]) -> Self:
        return cls(int(match["group"] or DEFAULT_GROUP), match["kind"] != "asym")

    def __str__(self) -> str:
        return f"int4-g{self.group}" + ("" if self.symmetric else "-asym")

    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        groups = grouped(weight, self.group)
        if self.symmetric:
            scale = scale_for(groups.abs().amax(-1), MIDDLE - 1)
            zero = torch.full_like(scale, MIDDLE)
        else:
            low, high = groups.amin(-1).clamp(max=0), groups.amax(-1).clamp(min=0)
            scale = scale_for(high - low, STEPS)
            zero = (-low / scale).round()
        steps = (groups / scale[..., None]).round() + zero[..., None]
        codes = steps.clamp(0, STEPS).to(torch.uint8).flatten(1)[:, : weight.shape[1]]
        kept = {"codes": nibbles.pack(codes), "scale": scale}
        return kept if self.symmetric else kept | {"zero": zero.to(torch.uint8)}

    def decode(self, codes: Codes, rows: slice, columns: int) -> Tensor:
        steps = nibbles.unpack(codes["codes"][rows], columns).float()
        if self.symmetric:
            steps -= MIDDLE
        else:
            steps -= spread(codes["zero"][rows], self.group, columns)
        return steps.mul_(spread(codes["scale"][rows], self.group, columns))
