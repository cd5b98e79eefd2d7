"""The compiled passes: the numbers of the operations of torch that they stand for."""

import ctypes
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laminogram.probe.statistics import passes
from laminogram.probe.statistics.base import create
from laminogram.probe.statistics.rows import Rows
from laminogram.stack.kernels import team

pytest.importorskip("numba")


@pytest.fixture
def small_too(monkeypatch):
    monkeypatch.setattr(passes, "_LEAST", 1)


def values(rows, channels, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, channels, generator=generator) * torch.rand(channels, generator=generator)
    x[x.abs() < 0.05] = 0
    return x + 3 * (torch.arange(channels) % 3)


@settings(deadline=None, max_examples=30)
@given(rows=st.integers(1, 80), channels=st.integers(1, 40), threads=st.integers(1, 3))
def test_a_pass_equals_torch(rows, channels, threads):
    bounds = np.arange(0, (1 << 16) + 1, 1 << 10, dtype=np.int32)
    x = values(rows, channels, rows)
    of_rows = torch.arange(rows) % 3, torch.arange(rows).flip(0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = passes.summary(x, passes.Wanted((0.5, 3.0, 99.0), bounds))
        numbers, places = passes.first(x, found.largest, *of_rows, 5)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found.moments["min"], x.amin(0).double())
    assert torch.equal(found.moments["max"], x.amax(0).double())
    assert torch.equal(found.largest, x.abs().amax(1))
    state = found.moments
    away = x.double() - (state["mean"] + state["rest"])
    for power in (1, 2, 3, 4):
        expected = (away**power).sum(0)
        about = state[f"s{power}"] if power > 1 else torch.zeros_like(expected)
        assert torch.allclose(about, expected, rtol=1e-12, atol=1e-10), power
    for threshold, above in zip(found.thresholds, found.above, strict=True):
        assert torch.equal(above, (x.abs() > threshold).sum(0))
    assert torch.equal(found.above_each((99.0, 3.0, 0.5)), found.above.flip(0))
    cells = (x.view(torch.int32) & 0x7FFFFFFF) >> 15
    counts, zeros = torch.bincount(cells.flatten() >> 10, minlength=64), (x == 0).sum()
    assert found.finite and int(found.bins[0]) == int(zeros)
    assert torch.equal(found.bins[1:], torch.cat([counts[:1] - zeros, counts[1:]]))
    flat = [
        (-abs(float(x[i, j])), int(of_rows[0][i]), int(of_rows[1][i]), j, float(x[i, j]))
        for i in range(rows)
        for j in range(channels)
    ]
    best = sorted(flat)[:5]
    assert places.T.tolist() == [list(one[1:4]) for one in best]
    assert numbers.T.tolist() == [[-one[0], one[4]] for one in best]


@pytest.mark.parametrize("parallel", ["torch's", "a pool's", "nobody's"])
def test_it_does_not_matter_which_threads_come(parallel, monkeypatch):
    bounds = np.arange(0, (1 << 16) + 1, 1 << 10, dtype=np.int32)
    x, wanted = values(70, 33), passes.Wanted((0.5,), bounds)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    alone = passes.summary(x, wanted)
    if parallel == "a pool's":
        monkeypatch.setattr(team, "_parallel", lambda: None)
    elif parallel == "nobody's":  # a runtime may give fewer threads than it was asked for
        one = lambda function, job, threads, flags: team._Work(function)(job)  # noqa: E731
        monkeypatch.setattr(team, "_parallel", lambda: one)
    for found in (passes.summary(x, wanted), passes.summary(x, wanted)):
        assert all(torch.equal(found.moments[key], alone.moments[key]) for key in alone.moments)
        assert torch.equal(found.above, alone.above) and torch.equal(found.bins, alone.bins)
        assert torch.equal(found.largest, alone.largest)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_pool_has_done_its_work_when_it_returns(threads, monkeypatch):
    monkeypatch.setattr(team, "_parallel", lambda: None)
    caller, all_here, ended = threading.get_ident(), threading.Barrier(threads), []

    def work(job):
        all_here.wait(20)
        if threading.get_ident() != caller:  # who waits for the others, is waited for by nobody
            time.sleep(0.05)
        ended.append(job)

    call = team._Work(work)
    team.together(ctypes.cast(call, ctypes.c_void_p).value, 7, threads)
    assert ended == [7] * threads


@pytest.mark.parametrize("name", ["moments", "thresholds", "histogram", "topk"])
def test_a_statistic_says_the_same_with_and_without(name, monkeypatch):
    x = values(24, 33).view(2, 12, 33)
    documents, mask = torch.tensor([4, 1]), torch.ones(2, 12, dtype=torch.bool)
    results = []
    for least in (1, 1 << 30):
        monkeypatch.setattr(passes, "_LEAST", least)
        statistic = create(name)
        for part in (x, 2 * x):
            statistic.update(part, mask, documents)
        results.append(statistic.result())
    compiled, plain = results
    for key, expected in plain.items():
        assert np.allclose(compiled[key], expected, rtol=1e-10, atol=1e-12, equal_nan=True), key


@pytest.mark.usefixtures("small_too")
def test_what_is_not_finite_or_not_fp32_is_left_to_torch():
    x = values(8, 4)
    assert Rows.of(x[None]).compiled
    assert not Rows.of(x[None].double()).compiled
    some = Rows.of(values(8, 6)[None, :, :4])  # a part of wider rows
    assert not some.compiled and torch.equal(some.row_absmax, values(8, 6)[:, :4].abs().amax(1))
    for odd in (torch.inf, -torch.inf, torch.nan):
        x[2, 1] = odd
        assert not Rows.of(x[None]).compiled
