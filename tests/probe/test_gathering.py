"""Gathering in one read gives what the plain statistics give; its kernel is a stand-in here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.probe import one_read_restated as restated

from laminogram.probe.gathering import Gatherer
from laminogram.probe.kernels import one_read
from laminogram.probe.statistics import Measurement, find
from laminogram.probe.statistics.exceedances import Exceedances
from laminogram.probe.statistics.topk import TopK

MISSING = one_read.missing


@pytest.fixture(autouse=True, scope="module")
def stand_in():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("read", "join", "count", "spans_of", "most_places"):
            patch.setattr(one_read, name, getattr(restated, name))
        patch.setattr(one_read, "missing", lambda device: None)
        yield


def _kinds():
    return [find("moments")(), find("histogram")(), TopK(5), Exceedances(1.5, 3)]


def _batches(seed: int, dtype: torch.dtype, spoiled: bool, falling: bool = False):
    draw = torch.Generator().manual_seed(seed)
    document = 12 if falling else 0
    for _ in range(3):
        rows, tokens = (int(torch.randint(1, 5, (), generator=draw)) for _ in range(2))
        x = (torch.randn(2, rows, tokens, 8, generator=draw) * 1.3 + 0.4).to(dtype)
        if spoiled:
            x[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), 0.0])
            x[1, -1, -1, 2] = 1e-30 if dtype != torch.float16 else 0.0
            x[1, :, :, 4] = 7.0  # equals
        lengths = torch.randint(1, tokens + 1, (rows,), generator=draw).tolist()
        lengths[0] = tokens
        numbers = [document + i for i in torch.randperm(rows, generator=draw).tolist()]
        document += -4 if falling else rows
        yield x, lengths, numbers


def _compare(seed: int, dtype: torch.dtype, spoiled: bool, falling: bool = False) -> None:
    plain, gathered = Measurement(_kinds()), Measurement(_kinds())
    gatherer = Gatherer(gathered, {0: ["a"], 3: ["a"]}, 4, torch.device("cpu"))
    for x, lengths, numbers in _batches(seed, dtype, spoiled, falling):
        mask = torch.arange(x.shape[2])[None] < torch.tensor(lengths)[:, None]
        gatherer.begin(lengths, numbers)
        for step, one in zip((0, 3), x, strict=True):
            plain.observe("a", step, one, mask, torch.tensor(numbers))
            assert len(gatherer.take("a", step, one)) == 4
        gatherer.end()
        assert gatherer.capturable
    gatherer.finish()
    assert set(plain) == set(gathered)
    for key, statistic in plain.items():
        for name, value in statistic.result().items():
            found = gathered[key].result()[name]
            if value.dtype.kind in "iu" or key[0] == "topk":
                np.testing.assert_array_equal(found, value, err_msg=f"{key} {name}")
            else:
                np.testing.assert_allclose(
                    found, value, rtol=1e-9, atol=1e-10, err_msg=f"{key} {name}"
                )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
    st.booleans(),
)
def test_equals_the_plain_statistics(seed, dtype, spoiled, falling):
    _compare(seed, dtype, spoiled, falling)


def test_sites_may_want_different_variants():
    wanted = {"a": [Exceedances(1.0, 2)], "b": [Exceedances(1.5, 6)], "c": [TopK(3)]}
    plain, gathered = Measurement(wanted), Measurement(wanted)
    gatherer = Gatherer(gathered, {0: ["a", "b", "c"]}, 4, torch.device("cpu"))
    for x, lengths, numbers in _batches(3, torch.float32, False):
        mask = torch.arange(x.shape[2])[None] < torch.tensor(lengths)[:, None]
        gatherer.begin(lengths, numbers)
        for site in wanted:
            plain.observe(site, 0, x[0], mask, torch.tensor(numbers))
            assert gatherer.take(site, 0, x[0])
        gatherer.end()
    gatherer.finish()
    for key, statistic in plain.items():
        for name, value in statistic.result().items():
            np.testing.assert_array_equal(gathered[key].result()[name], value, err_msg=str(key))


def test_a_batch_is_closed_once_and_not_after_a_replay(monkeypatch):
    closed: list[int] = []
    real = one_read.join
    monkeypatch.setattr(one_read, "join", lambda *given: (closed.append(1), real(*given)))
    gatherer = Gatherer(Measurement([TopK(3)]), {0: ["a"], 1: ["a"]}, 2, torch.device("cpu"))
    x = torch.randn(2, 5, 8)
    for taken, wanted in (((0, 1), 1), ((0,), 1), ((), 0), ((0, 0, 1), 1), ((0, 1, 0, 1), 2)):
        closed.clear()
        gatherer.begin((5, 5), (0, 1))
        for step in taken:
            assert gatherer.take("a", step, x)
        gatherer.end()
        assert sum(closed) == wanted, taken


def test_what_no_kernel_serves_is_left_and_named():
    measurement = Measurement([find("moments")(), find("covariance")()])
    gatherer = Gatherer(measurement, {0: ["a", "b", "pattern"]}, 4, torch.device("cpu"))
    gatherer.begin([3, 3], [0, 1])
    assert gatherer.take("a", 0, torch.randn(2, 3, 8)) == {"moments"}
    assert not gatherer.take("b", 0, torch.randn(2, 3, 7))
    assert not gatherer.take("pattern", 0, torch.randn(2, 4, 3, 3))
    assert not gatherer.take("a", 0, torch.randn(2, 3, 8, dtype=torch.float64))
    gatherer.end()
    assert not gatherer.capturable
    assert "7 channels" in gatherer.reasons["b"]
    assert "float64" in gatherer.reasons["a"]


def test_without_a_gpu_the_reason_is_named():
    assert "CUDA" in MISSING(torch.device("cpu"))
