"""Pooling keeps outliers, payloads come back as they went, the scale holds everything."""

from __future__ import annotations

import base64
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from laminogram.report.payload import decode_array, encode_array
from laminogram.report.pooling import pool_channels
from laminogram.report.scale import nice_above, shared_scale

floats = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
arrays = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=40), elements=floats
)


@settings(deadline=None, max_examples=60)
@given(arrays, st.integers(1, 17))
def test_every_pooled_value_is_the_largest_of_its_block_and_names_its_channel(x, columns):
    pooled = pool_channels(x, columns)
    channels = x.shape[-1]
    assert pooled.values.shape[-1] <= columns or channels <= columns
    if pooled.offsets is None:
        assert pooled.values is x
        return
    for index in np.ndindex(pooled.values.shape):
        *lead, column = index
        block = x[tuple(lead)][column * pooled.width : (column + 1) * pooled.width]
        channel = column * pooled.width + int(pooled.offsets[index])
        assert channel < channels
        assert x[(*lead, channel)] == pooled.values[index]
        assert abs(pooled.values[index]) == np.abs(block).max()


def test_one_outlier_of_either_sign_survives_pooling_and_a_nan_is_not_hidden():
    x = np.zeros((1, 4096), dtype=np.float32)
    x[0, 1234], x[0, 4095] = -500.0, np.nan
    pooled = pool_channels(x, 512)
    assert pooled.values.shape == (1, 512)
    assert pooled.values[0, 1234 // 8] == -500.0
    assert np.isnan(pooled.values[0, -1])
    assert pooled.offsets is not None
    assert pooled.offsets[0, -1] == 7


def test_pooling_asks_for_a_column():
    with pytest.raises(ValueError, match="at least 1"):
        pool_channels(np.zeros((1, 4)), 0)


@settings(deadline=None, max_examples=60)
@given(arrays)
def test_float32_payloads_are_exact(x):
    assert np.array_equal(decode_array(encode_array(x, "f4")), x)


@settings(deadline=None, max_examples=60)
@given(arrays)
def test_float16_payloads_keep_eleven_bits_and_never_overflow(x):
    back = decode_array(encode_array(x, "f2"))
    assert np.isfinite(back).all()
    # Below the smallest normal half, steps are absolute: 2^-24 of the scale.
    scale = encode_array(x, "f2")["scale"]
    assert (np.abs(back - x) <= np.abs(x) * 2.0**-11 + scale * 2.0**-24).all()


def test_payload_bytes_are_plain_deflate_in_base64():
    payload = encode_array(np.array([1, 65535], dtype=np.uint16), "u2")
    assert zlib.decompress(base64.b64decode(payload["data"])) == b"\x01\x00\xff\xff"
    assert payload["shape"] == [2]


def test_infinities_and_nan_pass_through_both_kinds():
    x = np.array([np.inf, -np.inf, np.nan, 3.0], dtype=np.float32)
    for kind in ("f4", "f2"):
        assert np.array_equal(decode_array(encode_array(x, kind)), x, equal_nan=True)


@given(st.floats(1e-12, 1e12))
def test_nice_numbers_are_not_below_and_not_twice_the_value(value):
    assert value * (1 - 1e-9) <= nice_above(value) <= 2 * value


def test_scale_holds_the_largest_value_of_any_model_and_ignores_what_is_not_finite():
    quiet = np.full((2, 3, 4), 0.5, dtype=np.float32)
    loud = np.array([[[0.1, -73.0, np.inf, np.nan]]], dtype=np.float32)
    scale = shared_scale([quiet, loud])
    assert scale["symlog"]["limit"] == 100.0
    assert 0 < scale["symlog"]["threshold"] <= scale["symlog"]["limit"]
    assert scale["linear"]["limit"] <= 100.0


@pytest.mark.parametrize("arrays", [[], [np.zeros((1, 1, 3))], [np.full((1, 1, 1), np.nan)]])
def test_scale_of_nothing_is_still_a_scale(arrays):
    scale = shared_scale(arrays)
    assert scale["symlog"]["limit"] > 0
    assert scale["symlog"]["threshold"] > 0
    assert scale["linear"]["limit"] > 0
