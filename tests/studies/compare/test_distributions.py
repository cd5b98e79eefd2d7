"""Distributions without their scale: by hand, under scaling, and beside a calibrated null."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laminogram.errors import ConfigError
from laminogram.studies.compare.distributions import (
    BIN_WIDTH,
    Sizes,
    check_scale,
    joined,
    jsd,
    recentred,
    shift,
    sizes_of,
)


def sizes(x: torch.Tensor) -> Sizes:
    lengths = (x.shape[1],) * len(x)
    return joined(dict(enumerate(sizes_of(x, lengths))))


def noise(documents: int, seed: int, tokens: int = 12, channels: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(documents, tokens, channels, generator=generator)


def test_divergences_by_hand() -> None:
    assert jsd(np.array([1.0, 0.0]), np.array([0.0, 3.0])) == pytest.approx(np.log(2))
    p, q = np.array([0.5, 0.5]), np.array([0.25, 0.75])
    m = (p + q) / 2
    by_hand = 0.5 * (p * np.log(p / m)).sum() + 0.5 * (q * np.log(q / m)).sum()
    assert jsd(4 * p, 8 * q) == pytest.approx(by_hand)
    assert jsd(4 * p, 8 * p) == 0
    assert np.isnan(jsd(np.zeros(2), p))


@given(st.integers(-20, 20), st.sampled_from(["rms", "median"]))
@settings(deadline=None, max_examples=20)
def test_a_power_of_two_changes_nothing(power: int, scale: str) -> None:
    x = noise(3, 0)
    x[0, 0, 0] = 0.0
    own, scaled = sizes(x), sizes(x * 2.0**power)
    assert np.array_equal(own.scaled(scale), scaled.scaled(scale))
    assert scaled.scale(scale) == pytest.approx(own.scale(scale) * 2.0**power)


def test_a_scaled_histogram_counts_every_value_in_its_bin() -> None:
    x = torch.tensor([[[1.0, 1.0, 1.0, 1.0]], [[0.0, 2.0, 1.0, 1e30]]])
    own = Sizes(sizes(x).counts, np.array([4.0, 0.0]), np.array([4, 0]))  # rms 1
    found = own.scaled("rms")
    assert found.sum(1).tolist() == [4, 4] and found[1, 0] == 1
    one = int(found[0].argmax())
    octave = round(np.log(2) / np.log(BIN_WIDTH))
    assert found[1, one] == 1 and found[1, one + octave] == 1 and found[1, -1] == 1


def test_rms_and_median_are_those_of_all_values() -> None:
    x = noise(4, 1)
    assert sizes(x).scale("rms") == pytest.approx(float(x.square().mean().sqrt()))
    assert sizes(x).scale("median") == pytest.approx(float(x.abs().median()), rel=0.05)
    with pytest.raises(ConfigError, match="'mean'"):
        check_scale("mean")


def test_equal_conditions_are_nothing_apart_and_cross_as_their_null() -> None:
    own = sizes(noise(8, 2)).scaled("rms")
    found = shift(own, own)
    assert (found.jsd.value, found.jsd.low, found.jsd.high) == (0, 0, 0)
    assert found.crossed == found.null > 0


def test_the_null_is_calibrated_and_a_heavier_tail_lies_beyond_it() -> None:
    """Of two samples of one distribution the crossed halves lie under the null's upper end nearly
    always; where one in fifty values is tenfold, they lie beyond it always."""
    beyond = caught = 0
    for seed in range(20):
        first = sizes(noise(10, 3 * seed)).scaled("rms")
        second = sizes(noise(10, 3 * seed + 1)).scaled("rms")
        beyond += (same := shift(first, second, seed=seed)).crossed > same.null_high
        heavy = noise(10, 3 * seed + 2)
        heavy[..., :1] *= 10
        other = shift(first, sizes(heavy).scaled("rms"), seed=seed)
        caught += other.crossed > other.null_high
    assert beyond <= 3 and caught == 20


def test_one_document_has_neither_interval_nor_null() -> None:
    one = sizes(noise(1, 5)).scaled("rms")
    found = shift(one, one)
    assert found.jsd.value == 0 and np.isnan([found.jsd.low, found.null, found.crossed]).all()


def test_an_interval_is_moved_by_what_resampling_adds() -> None:
    variants = np.concatenate([[0.3, 0.0, 0.0], np.linspace(0.4, 0.6, 101)])
    found = recentred(variants, 1.0)
    assert found.low < 0.3 < found.high
    assert found.high - found.low == pytest.approx(0.19, abs=0.005)
