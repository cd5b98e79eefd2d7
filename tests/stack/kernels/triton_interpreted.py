"""Run by test_recurrence_triton in a process of its own, for Triton reads TRITON_INTERPRET on
import.

Compares the Triton kernels, interpreted on the CPU, with autograd through the naive loops, and
prints one line each.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stack.kernels.kernel_cases import wkv4_case, wkv6_case, wkv7_case, worst
from torch import Tensor

from laminogram.stack.kernels import (
    _wkv4_triton_kernels,
    wkv4_empty_state,
    wkv4_naive,
    wkv4_triton,
    wkv6_naive,
    wkv6_triton,
    wkv7_naive,
    wkv7_triton,
)

TOLERANCE = 1e-4


def compare_wkv4(tokens: int, width: int, spread: float, dtype: torch.dtype, empty: bool) -> None:
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

    assert worst(y.double(), wanted_y) < TOLERANCE
    assert worst(after.double(), wanted_state) < TOLERANCE
    for name, one, other in zip("kvwu", got, wanted, strict=True):
        rounding = TOLERANCE if one.dtype == torch.float32 else torch.finfo(one.dtype).eps
        assert worst(one.double(), other) < rounding, (name, worst(one.double(), other))
    print(f"wkv4 T={tokens} A={width} spread={spread} {dtype} empty={empty}: equal")


def compare_no_tokens() -> None:
    """The state after no token is the one before it."""
    k, v, w, u, state = (x.float() for x in wkv4_case(0, 2, 0, 5))
    first = wkv4_empty_state(2, 5, device=None, dtype=k.dtype)
    for before, wanted in ((state, state), (None, first)):
        y, after = wkv4_triton(k, v, w, u, before)
        assert y.shape == (2, 0, 5) and torch.equal(after, wanted)


def compare_matrix_state(name: str, case: Sequence[Tensor], tokens: list[int], chunk: int) -> None:
    """Forward, returned state and all gradients of RWKV-6 (r w k v u S) or RWKV-7 (r w k v a b S),
    a row for each of the lengths."""
    kernel, naive, names = _MATRIX_STATES[len(case)]
    lengths = torch.tensor(tokens)
    real = (torch.arange(max(tokens)) < lengths[:, None])[..., None, None]
    make = torch.Generator().manual_seed(0)
    by_o = torch.randn(case[0].shape, generator=make, dtype=torch.float64)
    by_state = torch.randn(case[-1].shape, generator=make, dtype=torch.float64)

    def both(run, dtype):
        inputs = tuple(x.detach().to(dtype).requires_grad_() for x in case)
        o, after = run(*inputs, lengths if len(tokens) > 1 else None)
        o = torch.where(real, o, 0)
        loss = (o * by_o).sum() + (after * by_state).sum()
        return (o, after, *torch.autograd.grad(loss, inputs))

    wanted = both(naive, torch.float64)
    got = both(lambda *inputs: kernel(*inputs, chunk=chunk), torch.float32)
    for key, one, other in zip(("o", "after", *names), got, wanted, strict=True):
        assert worst(one.double(), other) < TOLERANCE, (name, key, worst(one.double(), other))
    print(f"{name} T={tokens} N={case[0].shape[-1]} L={chunk}: equal")


_MATRIX_STATES = {
    6: (wkv6_triton, wkv6_naive, "rwkvuS"),
    7: (wkv7_triton, wkv7_naive, "rwkvabS"),
}


def compare_wkv6(tokens: list[int], size: int, chunk: int, mean: float) -> None:
    case = wkv6_case(3, len(tokens), max(tokens), 1, size, mean=mean)
    compare_matrix_state(f"wkv6 mean={mean}", case, tokens, chunk)


def compare_wkv5(tokens: int) -> None:
    """One decay for all tokens and the channels of a head, and one bonus for them."""
    r, w, k, v, u, state = wkv6_case(4, 1, tokens, 2, 16)
    compare_matrix_state("wkv5", (r, w[0, 0, :, :1], k, v, u[:, :1], state), [tokens], 16)


@settings(max_examples=4, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 34), st.sampled_from([-20.0, -2.0, 0.0, 6.0]))
def compare_lengths(tokens: int, mean: float) -> None:
    """Decays so near 1 that none shows, and so fast that they are 0, which have gradients too."""
    compare_wkv6([tokens], 16, 16, mean)


def compare_wkv7(tokens: list[int], size: int, chunk: int, repeat: bool = False) -> None:
    case = wkv7_case(3, len(tokens), max(tokens), 1, size, repeat=repeat)
    compare_matrix_state(f"wkv7 repeat={repeat}", case, tokens, chunk)


def trace() -> None:
    """What the compiler is told of the operators' results, for any length, is what they return."""
    kinds = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    k, v, w, u, state = (x.float() for x in wkv4_case(0, 2, 9, 8))
    lengths = torch.tensor([9, 4])
    for save in (False, True):
        call = (k, v, w, u, state, lengths, torch.float16, save)
        torch.library.opcheck(torch.ops.laminogram.wkv4.default, call, test_utils=kinds)
    tracked = [x.clone().requires_grad_() for x in (k, v, w, u)]
    call = (*tracked, state, lengths, torch.float32, True)
    one, other = torch.ops.laminogram.wkv4(*call)[0], wkv4_triton(*tracked, state, lengths)[0]
    for a, b in zip(*(torch.autograd.grad(y.sum(), tracked) for y in (one, other)), strict=True):
        assert torch.equal(one, other) and torch.equal(a, b)
    r, w, k, v, u, state = (x.float() for x in wkv6_case(0, 2, 20, 1, 16))
    six = (r, w[0, 0].expand(w.shape), k, v, u, state)
    seven = tuple(x.float() for x in wkv7_case(0, 2, 20, 1, 16))
    for save in (False, True):
        for case, name in ((six, "wkv6"), (seven, "wkv7")):
            operator = getattr(torch.ops.laminogram, name).default
            torch.library.opcheck(operator, (*case, None, 16, save), test_utils=kinds)
    print("traced")


def refuse() -> None:
    """RWKV-4's state has no gradient, on either side, and the message names the kernel."""
    k, v, w, u, state = (x.float() for x in wkv4_case(0, 1, 3, 4))
    k.requires_grad_()
    _, after = wkv4_triton(k, v, w, u)
    with pytest.raises(RuntimeError, match="wkv4_triton has no gradient for the state"):
        wkv4_triton(k, v, w, u, state.requires_grad_())
    with pytest.raises(RuntimeError, match="wkv4_triton has no gradient through the state"):
        after.sum().backward()
    print("refused")


if __name__ == "__main__":
    compare_wkv4(7, 40, 3.0, torch.float32, True)
    compare_wkv4(5, 8, 40.0, torch.float32, False)
    compare_wkv4(6, 8, 3.0, torch.bfloat16, True)
    compare_wkv4(3, 8, 3.0, torch.float16, False)
    _wkv4_triton_kernels.SHORTEST = 8  # chunks, as long rows have them
    compare_wkv4(22, 8, 40.0, torch.float32, False)
    compare_wkv4(21, 40, 3.0, torch.float32, True)
    compare_no_tokens()
    compare_wkv6([37, 20, 0], 16, 16, 0.0)
    compare_wkv6([40], 64, 32, -6.0)
    compare_wkv5(20)
    compare_lengths()
    compare_wkv7([37, 20], 16, 16)
    compare_wkv7([20, 7, 0], 16, 16, repeat=True)
    compare_wkv7([40], 32, 32, repeat=True)
    trace()
    refuse()
