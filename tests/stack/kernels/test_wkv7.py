"""RWKV-7's recurrence: naive against the formulas, the chunked path against naive."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stack.kernels.kernel_cases import wkv7_case, worst
from torch import Tensor

from laminogram.stack.kernels import wkv7, wkv7_naive, wkv7_pattern, wkv7_states
from laminogram.stack.kernels.wkv7 import wkv7 as wkv7_chunks

Run = Callable[..., tuple[Tensor, Tensor]]
FEW = settings(max_examples=15, deadline=None)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
seeds = st.integers(0, 2**31 - 1)
dtypes = st.sampled_from([torch.float64, torch.float32])


def golden_head(inputs: dict[str, np.ndarray], state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One head from the formulas, one matrix entry at a time: inputs (T, N), state (Nv, Nk)."""
    tokens, size = inputs["r"].shape
    s = state.copy()
    out = np.zeros((tokens, size))
    for t in range(tokens):
        r, w, k, v, a, b = (inputs[name][t] for name in "rwkvab")
        old = s.copy()
        for i in range(size):
            for j in range(size):
                moved = sum(old[i, m] * a[m] for m in range(size)) * b[j]
                s[i, j] = old[i, j] * w[j] + moved + v[i] * k[j]
        for i in range(size):
            out[t, i] = sum(s[i, j] * r[j] for j in range(size))
    return out, s


def test_naive_is_the_formula_entry_by_entry() -> None:
    case = wkv7_case(0, 2, 5, 2, 3)
    o, after = wkv7_naive(*case)
    for row in range(2):
        for head in range(2):
            inputs = {
                name: x[row, :, head].numpy() for name, x in zip("rwkvab", case[:6], strict=True)
            }
            wanted, end = golden_head(inputs, case[6][row, head].numpy())
            np.testing.assert_allclose(o[row, :, head].numpy(), wanted, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(after[row, head].numpy(), end, rtol=1e-12, atol=1e-12)


@FEW
@given(seeds, st.integers(1, 60), st.integers(1, 3), dtypes, st.booleans())
def test_chunks_equal_the_naive_loop(
    seed: int, tokens: int, batch: int, dtype: torch.dtype, repeat: bool
) -> None:
    case = wkv7_case(seed, batch, tokens, 2, 8, dtype=dtype, repeat=repeat)
    wanted, state = wkv7_naive(*(x.double() for x in case))
    o, after = wkv7(*case)
    assert o.dtype == after.dtype == dtype
    assert worst(o.double(), wanted) < TOLERANCE[dtype]
    assert worst(after.double(), state) < TOLERANCE[dtype]


def test_chunks_stay_exact_at_the_model_s_fastest_decay() -> None:
    r, w, k, v, a, b, state = wkv7_case(1, 1, 128, 1, 64, dtype=torch.float32)
    w = torch.full_like(w, 0.5453)
    wanted, _ = wkv7_naive(*(x.double() for x in (r, w, k, v, a, b, state)))
    o, _ = wkv7(r, w, k, v, a, b, state)
    assert worst(o.double(), wanted) < 1e-5


@FEW
@given(seeds, st.integers(2, 50), st.data())
def test_a_split_sequence_carries_its_state(seed: int, tokens: int, data: st.DataObject) -> None:
    *inputs, state = wkv7_case(seed, 2, tokens, 2, 4)
    cut = data.draw(st.integers(1, tokens - 1))
    whole, end = wkv7(*inputs, state)
    first, middle = wkv7(*(x[:, :cut] for x in inputs), state)
    second, last = wkv7(*(x[:, cut:] for x in inputs), middle)
    assert worst(torch.cat([first, second], dim=1), whole) < 1e-10
    assert worst(last, end) < 1e-10


@pytest.mark.parametrize("run", [wkv7_naive, wkv7])
@FEW
@given(seed=seeds, lengths=st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_a_ragged_batch_equals_its_rows(run: Run, seed: int, lengths: list[int]) -> None:
    *inputs, state = wkv7_case(seed, len(lengths), max(1, *lengths), 2, 4)
    o, after = run(*inputs, state, torch.tensor(lengths))
    assert bool(o.isfinite().all())
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone, end = wkv7_naive(*(x[one, :length] for x in inputs), state[one])
        assert worst(o[one, :length], alone) < 1e-10
        assert worst(after[one], end) < 1e-10


@pytest.mark.parametrize("tokens", [1, 3, 18])
def test_gradients_of_the_fast_path(tokens: int) -> None:
    case = tuple(x.requires_grad_() for x in wkv7_case(2, 1, tokens, 1, 2))
    assert torch.autograd.gradcheck(wkv7, case)


def test_gradients_equal_those_of_the_naive_loop() -> None:
    case = tuple(x.requires_grad_() for x in wkv7_case(3, 2, 37, 2, 8))
    lengths = torch.tensor([37, 20])
    real = (torch.arange(37) < lengths[:, None])[..., None, None]

    def loss(run: Run) -> Tensor:
        o, after = run(*case, lengths)
        return (o * real).square().sum() + after.square().sum()

    wanted = torch.autograd.grad(loss(wkv7_naive), case)
    for one, other in zip(torch.autograd.grad(loss(wkv7), case), wanted, strict=True):
        assert worst(one, other) < 1e-10


@FEW
@given(seeds, st.integers(1, 50))
def test_pattern_times_values_is_the_output(seed: int, tokens: int) -> None:
    r, w, k, v, a, b, state = wkv7_case(seed, 2, tokens, 2, 6)
    pattern = wkv7_pattern(r, w, k, a, b)
    assert pattern.shape == (2, 2, tokens, tokens)
    assert float(pattern.triu(1).abs().max()) == 0.0
    wanted, _ = wkv7_naive(r, w, k, v, a, b, torch.zeros_like(state))
    assert worst(torch.einsum("bhti,bihn->bthn", pattern, v), wanted) < 1e-10


def test_states_are_the_states_after_each_token() -> None:
    *inputs, state = wkv7_case(4, 2, 5, 2, 3)
    states = wkv7_states(*inputs, state)
    assert states.shape == (2, 5, 2, 3, 3)
    for t in range(5):
        _, after = wkv7(*(x[:, : t + 1] for x in inputs), state)
        assert worst(states[:, t], after) < 1e-10


@pytest.mark.parametrize("fastest", [False, True])
def test_long_chunks_under_autocast_are_exact_with_their_gradients(fastest: bool) -> None:
    """Chunks of 64, as a GPU takes them, inside a region that computes products in bf16."""
    exact = [*wkv7_case(1, 1, 130, 1, 16)]
    if fastest:
        exact[1] = torch.full_like(exact[1], 0.5453)
    case = [x.float().requires_grad_() for x in exact]
    wide = [x.detach().double().requires_grad_() for x in case]
    weights = torch.randn(1, 130, 1, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        o, _ = wkv7_chunks(*case, chunk=64)
    wanted, _ = wkv7_naive(*wide)
    assert worst(o.double(), wanted) < 1e-5
    got = torch.autograd.grad((o * weights).sum(), case)
    for one, other in zip(
        got, torch.autograd.grad((wanted * weights.double()).sum(), wide), strict=True
    ):
        assert worst(one.double(), other) < 1e-5


def test_16_bit_input_is_computed_in_float32() -> None:
    case = tuple(x.bfloat16() for x in wkv7_case(5, 1, 20, 2, 4))
    o, after = wkv7(*case)
    wanted, _ = wkv7_naive(*case)
    assert o.dtype == after.dtype == torch.float32
    assert worst(o, wanted) < 1e-5


def test_one_token_is_one_graph() -> None:
    case = wkv7_case(7, 2, 1, 1, 4)
    lengths = torch.tensor([1, 0])
    o, after = torch.compile(wkv7, fullgraph=True, backend="eager")(*case, lengths)
    wanted, state = wkv7(*case, lengths)
    assert worst(o, wanted) < 1e-12
    assert worst(after, state) < 1e-12


def test_no_tokens_leave_the_state() -> None:
    case = wkv7_case(6, 2, 0, 2, 3)
    for run in (wkv7_naive, wkv7):
        o, after = run(*case)
        assert o.shape == (2, 0, 2, 3)
        assert torch.equal(after, case[6])
