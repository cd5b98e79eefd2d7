"""A sequence cut into chunks of one length, the form in which the matrix recurrences work."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def chunked(x: Tensor, length: int, fill: float = 0.0) -> Tensor:
    """(B, T, H, N) -> (n, B, H, L, N) contiguous, tokens appended at the end to fill the last
    chunk.
    """
    short = -x.shape[1] % length
    if short:
        x = F.pad(x, (0, 0, 0, 0, 0, short), value=fill)
    return x.unflatten(1, (-1, length)).permute(1, 0, 3, 2, 4).contiguous()
