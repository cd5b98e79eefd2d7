"""RWKV-5's and 6's recurrence: naive against the formulas, the chunked path against naive."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stack.kernels.kernel_cases import wkv6_case, worst
from torch import Tensor

from laminogram.stack.kernels import wkv6, wkv6_naive, wkv6_pattern

Run = Callable[..., tuple[Tensor, Tensor]]
FEW = settings(max_examples=15, deadline=None)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}
seeds = st.integers(0, 2**31 - 1)
dtypes = st.sampled_from([torch.float64, torch.float32])
# The decay is exp(-exp(raw)): for a mean raw of 6 it is 0 in every precision, for -20 nearly 1.
means = st.sampled_from([-20.0, -6.0, 0.0, 3.0, 6.0])


def golden_head(
    inputs: dict[str, np.ndarray], u: np.ndarray, state: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """One head from the formulas, one matrix entry at a time: inputs (T, N), state (Nv, Nk)."""
    tokens, size = inputs["r"].shape
    s = state.copy()
    out = np.zeros((tokens, size))
    for t in range(tokens):
        r, w, k, v = (inputs[name][t] for name in "rwkv")
        for i in range(size):
            for j in range(size):
                out[t, i] += (s[i, j] + u[j] * v[i] * k[j]) * r[j]
                s[i, j] = s[i, j] * w[j] + v[i] * k[j]
    return out, s


def test_naive_is_the_formula_entry_by_entry() -> None:
    made = wkv6_case(0, 2, 5, 2, 3)
    o, after = wkv6_naive(*made)
    for row in range(2):
        for head in range(2):
            inputs = {n: x[row, :, head].numpy() for n, x in zip("rwkv", made[:4], strict=True)}
            wanted, end = golden_head(inputs, made[4][head].numpy(), made[5][row, head].numpy())
            np.testing.assert_allclose(o[row, :, head].numpy(), wanted, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(after[row, head].numpy(), end, rtol=1e-12, atol=1e-12)


@FEW
@given(seeds, st.integers(1, 80), st.integers(1, 3), dtypes, means)
def test_chunks_equal_the_naive_loop(
    seed: int, tokens: int, batch: int, dtype: torch.dtype, mean: float
) -> None:
    made = wkv6_case(seed, batch, tokens, mean=mean, dtype=dtype)
    wanted, state = wkv6_naive(*(x.double() for x in made))
    o, after = wkv6(*made)
    assert o.dtype == after.dtype == dtype
    assert worst(o.double(), wanted) < TOLERANCE[dtype]
    assert worst(after.double(), state) < TOLERANCE[dtype]


def test_one_decay_for_a_head_is_the_same_decay_for_its_channels() -> None:
    """As versions 5.0 and 5.1 have it: w and u are broadcast."""
    r, _, k, v, _, state = wkv6_case(1, 2, 40)
    w, u = torch.rand(2, 1, dtype=torch.float64), torch.randn(2, 1, dtype=torch.float64)
    spread = w.expand(2, 4).expand(2, 40, 2, 4)
    wanted, end = wkv6_naive(r, spread, k, v, u.expand(2, 4), state)
    for run in (wkv6, wkv6_naive):
        o, after = run(r, w, k, v, u, state)
        assert worst(o, wanted) < 1e-12
        assert worst(after, end) < 1e-12
    single, _ = wkv6(r[:, :1], w, k[:, :1], v[:, :1], u, state)
    assert worst(single, wanted[:, :1]) < 1e-12


@FEW
@given(seeds, st.integers(2, 70), st.data())
def test_a_split_sequence_carries_its_state(seed: int, tokens: int, data: st.DataObject) -> None:
    r, w, k, v, u, state = wkv6_case(seed, 2, tokens)
    cut = data.draw(st.integers(1, tokens - 1))
    whole, end = wkv6(r, w, k, v, u, state)
    first, middle = wkv6(*(x[:, :cut] for x in (r, w, k, v)), u, state)
    second, last = wkv6(*(x[:, cut:] for x in (r, w, k, v)), u, middle)
    assert worst(torch.cat([first, second], dim=1), whole) < 1e-12
    assert worst(last, end) < 1e-12


@pytest.mark.parametrize("run", [wkv6_naive, wkv6])
@FEW
@given(seed=seeds, lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4))
def test_a_ragged_batch_equals_its_rows(run: Run, seed: int, lengths: list[int]) -> None:
    *inputs, u, state = wkv6_case(seed, len(lengths), max(1, *lengths))
    o, after = run(*inputs, u, state, torch.tensor(lengths))
    assert bool(o.isfinite().all())
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone, end = wkv6_naive(*(x[one, :length] for x in inputs), u, state[one])
        assert worst(o[one, :length], alone) < 1e-12
        assert worst(after[one], end) < 1e-12


@pytest.mark.parametrize("tokens", [1, 3])
def test_gradients_of_the_fast_path(tokens: int) -> None:
    made = tuple(x.requires_grad_() for x in wkv6_case(2, 1, tokens, 1, 2, mean=-2.0))
    assert torch.autograd.gradcheck(wkv6, made)


@pytest.mark.parametrize("mean", [-6.0, 0.0, 6.0])
def test_gradients_equal_those_of_the_naive_loop(mean: float) -> None:
    """Also where decays are 0, which have a gradient as well."""
    made = tuple(x.requires_grad_() for x in wkv6_case(3, 2, 70, mean=mean))
    lengths = torch.tensor([70, 20])
    real = (torch.arange(70) < lengths[:, None])[..., None, None]

    def loss(run: Run) -> Tensor:
        o, after = run(*made, lengths)
        return (o * real).square().sum() + after.square().sum()

    wanted = torch.autograd.grad(loss(wkv6_naive), made)
    for one, other in zip(torch.autograd.grad(loss(wkv6), made), wanted, strict=True):
        assert worst(one, other) < 1e-12


@FEW
@given(seeds, st.integers(1, 70), means)
def test_pattern_times_values_is_the_output(seed: int, tokens: int, mean: float) -> None:
    r, w, k, v, u, state = wkv6_case(seed, 2, tokens, mean=mean)
    pattern = wkv6_pattern(r, w, k, u)
    assert pattern.shape == (2, 2, tokens, tokens)
    assert float(pattern.triu(1).abs().max()) == 0.0
    wanted, _ = wkv6_naive(r, w, k, v, u, torch.zeros_like(state))
    assert worst(torch.einsum("bhti,bihn->bthn", pattern, v), wanted) < 1e-12


def test_nothing_is_computed_in_half_precision_under_autocast() -> None:
    made = wkv6_case(5, 1, 70, dtype=torch.float32)
    wanted, _ = wkv6(*made)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = wkv6(*made)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("run", [wkv6_naive, wkv6])
def test_no_token_changes_no_state(run: Run) -> None:
    *inputs, u, state = wkv6_case(6, 2, 3)
    o, after = run(*(x[:, :0] for x in inputs), u, state)
    assert o.shape == (2, 0, 2, 4)
    assert torch.equal(after, state)
