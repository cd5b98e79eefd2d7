"""RWKV-4's recurrence: naive against the formulas, every fast path against naive."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stack.kernels.kernel_cases import Wkv4Case, wkv4_case, worst
from torch import Tensor

from laminogram.stack import kernels
from laminogram.stack.kernels import wkv4_naive, wkv4_pattern, wkv4_pattern_channels, wkv4_states
from laminogram.stack.kernels.wkv4_buffered import wkv4_buffered
from laminogram.stack.kernels.wkv4_scan import wkv4_scan

Run = Callable[..., tuple[Tensor, Tensor]]
FEW = settings(max_examples=15, deadline=None)
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
seeds = st.integers(0, 2**31 - 1)
dtypes = st.sampled_from([torch.float64, torch.float32])
spreads = st.sampled_from([1.0, 8.0, 60.0])


def golden_channel(k: list[float], v: list[float], w: float, u: float) -> list[float]:
    """One channel from the definition: each answer a weighted mean, its weights in logs."""
    answers = []
    for t in range(len(k)):
        logs = [k[i] + (t - 1 - i) * w for i in range(t)] + [k[t] + u]
        top = max(logs)
        weights = [math.exp(x - top) for x in logs]
        answers.append(sum(x * y for x, y in zip(weights, v, strict=False)) / sum(weights))
    return answers


def test_naive_is_the_weighted_mean_of_the_definition() -> None:
    k, v, w, u, state = wkv4_case(0, 2, 9, 5, spread=20.0, empty=True)
    y, after = wkv4_naive(k, v, w, u, state)
    for b in range(2):
        for c in range(5):
            keys, values = k[b, :, c].tolist(), v[b, :, c].tolist()
            wanted = golden_channel(keys, values, float(w[c]), float(u[c]))
            np.testing.assert_allclose(y[b, :, c].numpy(), wanted, rtol=1e-12, atol=1e-12)
            logs = [keys[i] + (8 - i) * float(w[c]) for i in range(9)]
            num, den, scale = after[b, :, c].tolist()
            total = sum(math.exp(x - scale) for x in logs)
            assert den == pytest.approx(total, rel=1e-12)
            mean = sum(math.exp(x - scale) * y for x, y in zip(logs, values, strict=True))
            assert num == pytest.approx(mean, rel=1e-9, abs=1e-12)


@FEW
@given(seeds, st.integers(1, 70), st.integers(1, 3), spreads, dtypes, st.booleans())
def test_fast_paths_equal_the_naive_one(
    seed: int, tokens: int, batch: int, spread: float, dtype: torch.dtype, empty: bool
) -> None:
    case = wkv4_case(seed, batch, tokens, 6, spread=spread, dtype=dtype, empty=empty)
    exact = tuple(x.double() for x in case)
    wanted, state = wkv4_naive(*exact)
    for run in (kernels.wkv4, wkv4_scan, wkv4_buffered):
        y, after = run(*case)
        assert y.dtype == after.dtype == dtype
        assert worst(y.double(), wanted) < TOLERANCE[dtype]
        assert worst(after.double(), state) < TOLERANCE[dtype]


def test_buffered_scan_equals_the_naive_one_over_several_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = wkv4_case(3, 2, 203, 4, spread=60.0)
    lengths = torch.tensor([203, 97])
    wanted, state = wkv4_naive(*case, lengths)
    module = import_module("laminogram.stack.kernels.wkv4_buffered")
    for elements in (8 * 5, 8 * 16, 8 * 70):  # blocks of 5, 16 and 64 tokens
        monkeypatch.setattr(module, "BLOCK_ELEMENTS", elements)
        y, after = wkv4_buffered(*case, lengths)
        assert worst(y[0], wanted[0]) < 1e-10
        assert worst(y[1, :97], wanted[1, :97]) < 1e-10
        assert worst(after, state) < 1e-10


@FEW
@given(seeds, st.integers(2, 50), st.data())
def test_a_split_sequence_carries_its_state(seed: int, tokens: int, data: st.DataObject) -> None:
    k, v, w, u, state = wkv4_case(seed, 2, tokens, 5, spread=8.0)
    cut = data.draw(st.integers(1, tokens - 1))
    whole, end = kernels.wkv4(k, v, w, u, state)
    first, middle = kernels.wkv4(k[:, :cut], v[:, :cut], w, u, state)
    second, last = kernels.wkv4(k[:, cut:], v[:, cut:], w, u, middle)
    assert worst(torch.cat([first, second], dim=1), whole) < 1e-10
    assert worst(last, end) < 1e-10


@pytest.mark.parametrize("run", [wkv4_naive, wkv4_scan, wkv4_buffered, kernels.wkv4])
@FEW
@given(seed=seeds, lengths=st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_a_ragged_batch_equals_its_rows(run: Run, seed: int, lengths: list[int]) -> None:
    tokens = max(1, *lengths)
    k, v, w, u, state = wkv4_case(seed, len(lengths), tokens, 4, spread=8.0)
    y, after = run(k, v, w, u, state, torch.tensor(lengths))
    assert bool(y.isfinite().all())
    for row, length in enumerate(lengths):
        one = slice(row, row + 1)
        alone, end = wkv4_naive(k[one, :length], v[one, :length], w, u, state[one])
        assert worst(y[one, :length], alone) < 1e-10
        assert worst(after[one], end) < 1e-10


def test_long_and_extreme_input_stays_exact_in_float32() -> None:
    case = wkv4_case(5, 1, 512, 64, spread=60.0, dtype=torch.float32, empty=True)
    wanted, _ = wkv4_naive(*(x.double() for x in case))
    y, after = kernels.wkv4(*case)
    assert bool(after.isfinite().all())
    assert worst(y.double(), wanted) < 1e-3  # the naive float32 loop rounds its scale as often


@pytest.mark.parametrize("tokens", [1, 7])
@pytest.mark.parametrize("ragged", [False, True])
def test_gradients_of_the_fast_path(tokens: int, ragged: bool) -> None:
    case = tuple(x.requires_grad_() for x in wkv4_case(1, 2, tokens, 2))
    lengths = torch.tensor([tokens, tokens - 1]) if ragged else None

    def run(*x: Tensor) -> tuple[Tensor, Tensor]:
        y, after = kernels.wkv4(*x, lengths)
        real = y if lengths is None else y * (torch.arange(tokens) < lengths[:, None])[..., None]
        return real, after

    assert torch.autograd.gradcheck(run, case)


def test_gradients_equal_those_of_the_naive_loop() -> None:
    case = tuple(x.requires_grad_() for x in wkv4_case(2, 2, 37, 5, spread=20.0))
    weights = torch.randn(2, 37, 5, dtype=torch.float64)
    wanted = torch.autograd.grad((wkv4_naive(*case)[0] * weights).sum(), case)
    got = torch.autograd.grad((kernels.wkv4(*case)[0] * weights).sum(), case)
    for one, other in zip(got, wanted, strict=True):
        assert worst(one, other) < 1e-10


@FEW
@given(seeds, st.integers(1, 30), spreads, st.booleans())
def test_pattern_times_values_is_the_output(
    seed: int, tokens: int, spread: float, empty: bool
) -> None:
    k, v, w, u, state = wkv4_case(seed, 2, tokens, 5, spread=spread, empty=empty)
    y, _ = wkv4_naive(k, v, w, u, state)
    pattern = wkv4_pattern_channels(k, w, u, state)
    rest = 1 - pattern.sum(dim=2)
    mean = torch.zeros_like(state[:, 0]) if empty else state[:, 0] / state[:, 1]
    read = torch.einsum("btia,bia->bta", pattern, v) + rest * mean[:, None]
    assert worst(read, y) < 1e-10
    if empty:
        assert worst(pattern, wkv4_pattern_channels(k, w, u)) < 1e-12
        assert float(rest.abs().max()) < 1e-12


@FEW
@given(seeds, st.integers(1, 50), spreads, dtypes, st.booleans())
def test_pattern_is_the_channel_mean(
    seed: int, tokens: int, spread: float, dtype: torch.dtype, empty: bool
) -> None:
    case = wkv4_case(seed, 2, tokens, 7, spread=spread, dtype=dtype, empty=empty)
    k, _, w, u, state = case
    pattern = wkv4_pattern(k, w, u, state)
    assert pattern.shape == (2, 1, tokens, tokens)
    assert pattern.dtype == dtype
    exact = wkv4_pattern_channels(k.double(), w.double(), u.double(), state.double())
    assert worst(pattern[:, 0].double(), exact.mean(dim=-1)) < TOLERANCE[dtype]
    assert float(pattern.triu(1).abs().max()) == 0.0
    if empty:
        assert worst(pattern, wkv4_pattern(k, w, u)) == 0.0


def test_states_are_the_states_after_each_token() -> None:
    k, v, w, u, state = wkv4_case(6, 2, 5, 3)
    states = wkv4_states(k, v, w, u, state)
    assert states.shape == (2, 5, 3, 3)
    for t in range(5):
        _, after = kernels.wkv4(k[:, : t + 1], v[:, : t + 1], w, u, state)
        assert worst(states[:, t], after) < 1e-10


def test_16_bit_input_is_computed_in_float32_and_none_is_the_empty_state() -> None:
    case: Wkv4Case = wkv4_case(7, 1, 5, 4, empty=True)
    k, v, w, u, _ = (x.bfloat16() for x in case)
    y, after = kernels.wkv4(k, v, w, u)
    wanted, _ = wkv4_naive(k, v, w, u, case[4])
    assert y.dtype == after.dtype == torch.float32
    assert worst(y, wanted) < 1e-5


@pytest.mark.parametrize("tokens", [1, 6])
def test_the_fast_path_is_one_graph(tokens: int) -> None:
    case = wkv4_case(9, 2, tokens, 3)
    lengths = torch.tensor([tokens, 0])
    y, after = torch.compile(kernels.wkv4, fullgraph=True, backend="eager")(*case, lengths)
    wanted, state = kernels.wkv4(*case, lengths)
    assert worst(y, wanted) < 1e-12
    assert worst(after, state) < 1e-12


def test_no_tokens_leave_the_state() -> None:
    k, v, w, u, state = wkv4_case(8, 2, 0, 3)
    for run in (wkv4_naive, kernels.wkv4):
        y, after = run(k, v, w, u, state)
        assert y.shape == (2, 0, 3)
        assert torch.equal(after, state)
