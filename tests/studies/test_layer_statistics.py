"""The statistics against their definitions, computed the plain way."""

from __future__ import annotations

import numpy as np
import pytest

from laminogram.studies.layer_statistics import (
    largest_channels,
    layer_statistics,
    statistics_by_tokens,
)


@pytest.fixture
def x():
    rng = np.random.default_rng(3)
    values = rng.standard_t(4, (3, 7, 11)).astype(np.float32)
    values[1, 0, 4] = 900.0
    return values


def test_each_number_equals_its_formula(x):
    found = layer_statistics(x)
    for row, layer in enumerate(x.astype(np.float64)):
        flat = layer.ravel()
        m2 = flat.var()
        energy = (layer**2).sum(0)
        expected = {
            "rms": np.sqrt((flat**2).mean()),
            "absmax": np.abs(flat).max(),
            "median_abs": np.median(np.abs(flat)),
            "excess_kurtosis": ((flat - flat.mean()) ** 4).mean() / m2**2 - 3,
            "top_channel_share": energy.max() / energy.sum(),
            "participation_ratio": energy.sum() ** 2 / (energy**2).sum(),
            "beyond_6_sigma": (np.abs(flat - flat.mean()) > 6 * np.sqrt(m2)).sum(),
            "count": flat.size,
            "nonfinite": 0,
        }
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=1e-10), name


def test_one_massive_first_token_is_seen_with_it_and_gone_without_it(x):
    sets = statistics_by_tokens(x)
    assert sets["all"]["absmax"][1] == 900
    assert sets["first"]["absmax"][1] == 900
    assert sets["rest"]["absmax"][1] < 100
    assert sets["all"]["top_channel_share"][1] > 0.99
    assert sets["all"]["participation_ratio"][1] == pytest.approx(1, abs=0.01)
    assert "rest" not in statistics_by_tokens(x[:, :1])


def test_values_that_are_not_finite_are_counted_and_left_out(x):
    broken = x.copy()
    broken[0, 2, 3], broken[0, 2, 4] = np.nan, np.inf
    broken[2] = np.nan
    found = layer_statistics(broken)
    assert found["nonfinite"].tolist() == [2, 0, 77]
    assert np.isfinite(found["rms"][0])
    assert np.isnan(found["rms"][2])


def test_huge_values_do_not_overflow():
    x = np.full((1, 4, 4), 1e30, dtype=np.float32)
    x[0, 0, 0] = -3e38
    found = layer_statistics(x)
    assert np.isfinite(found["excess_kurtosis"][0])
    assert found["participation_ratio"][0] == pytest.approx(1)


def test_a_silent_layer_has_no_share_and_raises_no_warning():
    found = layer_statistics(np.zeros((1, 2, 3)))
    assert found["rms"][0] == 0
    assert np.isnan(found["top_channel_share"][0])


def test_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        layer_statistics(np.zeros((2, 3)))


def test_the_largest_channels_come_in_order_with_the_first_token_of_a_tie():
    x = np.zeros((2, 3, 4), dtype=np.float32)
    x[1, 2, 3], x[0, 1, 1], x[0, 2, 1] = -5, 4, 4
    first, second, third = largest_channels(x, 3)
    assert (first.row, first.channel, first.value, first.token) == (1, 3, -5, 2)
    assert (second.row, second.channel, second.token) == (0, 1, 1)
    assert third.value == 0
    x[0, 0, 0] = np.nan
    assert np.isnan(largest_channels(x, 1)[0].value)
    assert len(largest_channels(x, 99)) == 8
