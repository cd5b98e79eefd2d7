"""Two codes of four bits in a byte.

Axes: R rows, I columns.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pack(codes: Tensor) -> Tensor:
    """Codes (R, I) of 0 to 15 as bytes (R, ceil(I / 2)) uint8, the even column in the low half."""
    codes = torch.nn.functional.pad(codes.to(torch.uint8), (0, codes.shape[1] % 2))
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def unpack(packed: Tensor, columns: int) -> Tensor:
    """The codes (R, `columns`) uint8 that `pack` was given."""
    both = torch.stack((packed & 15, packed >> 4), -1)
    return both.flatten(1)[:, :columns]
