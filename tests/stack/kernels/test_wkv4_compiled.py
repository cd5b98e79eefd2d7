"""RWKV-4's compiled recurrence over a text, against the naive one in float64."""

from __future__ import annotations

import importlib

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stack.kernels.kernel_cases import wkv4_case, worst

from laminogram.stack import kernels
from laminogram.stack.kernels import wkv4_naive
from laminogram.stack.kernels.wkv4_compiled import compiled, wkv4_compiled

pytest.importorskip("numba")
module = importlib.import_module("laminogram.stack.kernels.wkv4_compiled")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    width=st.sampled_from([1, 16, 63, 64, 65, 200]),
    spread=st.sampled_from([1.0, 8.0, 60.0]),
    narrow=st.booleans(),
    empty=st.booleans(),
    threads=st.sampled_from([1, 2, 5]),
)
def test_it_equals_the_naive_one(seed, lengths, width, spread, narrow, empty, threads):
    tokens = max(2, *lengths)
    case = wkv4_case(seed, len(lengths), tokens, width, spread=spread, empty=empty)
    k, v, w, u, state = (x.float() for x in case)
    if narrow:
        k, v = k.bfloat16(), v.bfloat16()
    real, given = torch.tensor(lengths), state.clone()
    wanted, end = wkv4_naive(*(x.double() for x in (k, v, w, u, state)), real)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    y, after = wkv4_compiled(k, v, w, u, state, real)
    torch.set_num_threads(before)
    assert y.dtype == after.dtype == torch.float32 and torch.equal(state, given)
    for row, length in enumerate(lengths):
        assert worst(y[row, :length].double(), wanted[row, :length]) < 1e-4
        assert not y[row, length:].any()
    assert worst(after.double(), end) < 1e-4
    whole, last = wkv4_compiled(k, v, w, u, state)
    assert worst(whole.double(), wkv4_naive(k, v, w, u, state)[0].double()) < 1e-4
    assert last.isfinite().all()


def test_parts_of_a_larger_tensor_and_what_is_no_number():
    k, v, w, u, state = wkv4_case(1, 2, 30, 70, dtype=torch.float32)
    wanted, _ = wkv4_naive(k[:, 5:20], v[:, 5:20], w, u, state)
    assert worst(wkv4_compiled(k[:, 5:20], v[:, 5:20], w, u, state)[0], wanted) < 1e-4
    k[0, 9, 3] = float("nan")
    y, after = wkv4_compiled(k, v, w, u, state)
    assert y[0, 9:, 3].isnan().all() and after[0, 0, 3].isnan()
    assert y.isnan().sum() == 21


def test_what_takes_it(monkeypatch):
    case = wkv4_case(2, 1, 40, 8, dtype=torch.float32)
    assert not compiled(*case[:2])
    monkeypatch.setattr(module, "LEAST_ENTRIES", 1)
    taken = []
    scan = importlib.import_module("laminogram.stack.kernels.wkv4")
    monkeypatch.setattr(scan, "wkv4_compiled", lambda *x: taken.append(1) or wkv4_compiled(*x))
    kernels.wkv4(*case)
    assert taken == [1]
    tracked = case[0].clone().requires_grad_()
    kernels.wkv4(tracked, *case[1:])[0].sum().backward()
    assert tracked.grad is not None and taken == [1]
    kernels.wkv4(*(x[:, :1] for x in case[:2]), *case[2:])
    kernels.wkv4(*(x.double() for x in case))
    kernels.wkv4(case[0].half(), case[1].half(), *case[2:])
    assert taken == [1]
