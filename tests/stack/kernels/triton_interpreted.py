"""Run by test_wkv4_triton in a process of its own, for Triton reads TRITON_INTERPRET on import.

Compares the Triton kernels, interpreted on the CPU, with autograd through the naive loop, and
prints one line each.
"""

from __future__ import annotations

import pytest
import torch
from tests.stack.kernels.kernel_cases import wkv4_case, worst

from laminogram.stack.kernels import wkv4_naive, wkv4_triton


def compare(tokens: int, width: int, spread: float, dtype: torch.dtype, empty: bool) -> None:
    """Forward, returned state and all four gradients, for a ragged batch of two rows."""
    exact = wkv4_case(tokens, 2, tokens, width, spread=spread, empty=empty)
    k, v = (x.to(dtype).requires_grad_() for x in exact[:2])
    w, u = (x.float().requires_grad_() for x in exact[2:4])
    state = exact[4].float()
    lengths = torch.tensor([tokens, tokens // 2])
    weights = torch.randn(2, tokens, width, generator=torch.Generator().manual_seed(0))

    y, after = wkv4_triton(k, v, w, u, None if empty else state, lengths)
    got = torch.autograd.grad((y * weights).sum(), (k, v, w, u))
    wide = tuple(x.detach().double().requires_grad_() for x in (k, v, w, u))
    wanted_y, _ = wkv4_naive(*wide, state.double())
    _, wanted_state = wkv4_naive(*wide, state.double(), lengths)
    wanted = torch.autograd.grad((wanted_y * weights.double()).sum(), wide)

    tolerance = 1e-4
    assert worst(y.double(), wanted_y) < tolerance
    assert worst(after.double(), wanted_state) < tolerance
    for name, one, other in zip("kvwu", got, wanted, strict=True):
        rounding = tolerance if one.dtype == torch.float32 else torch.finfo(one.dtype).eps
        assert worst(one.double(), other) < rounding, (name, worst(one.double(), other))
    print(f"T={tokens} A={width} spread={spread} {dtype} empty={empty}: equal")


def refuse() -> None:
    """The state has no gradient, on either side, and the message names the kernel."""
    k, v, w, u, state = (x.float() for x in wkv4_case(0, 1, 3, 4))
    k.requires_grad_()
    _, after = wkv4_triton(k, v, w, u)
    with pytest.raises(RuntimeError, match="wkv4_triton has no gradient for the state"):
        wkv4_triton(k, v, w, u, state.requires_grad_())
    with pytest.raises(RuntimeError, match="wkv4_triton has no gradient through the state"):
        after.sum().backward()
    print("refused")


if __name__ == "__main__":
    compare(7, 40, 3.0, torch.float32, True)
    compare(5, 8, 40.0, torch.float32, False)
    compare(6, 8, 3.0, torch.bfloat16, True)
    compare(3, 8, 3.0, torch.float16, False)
    refuse()
