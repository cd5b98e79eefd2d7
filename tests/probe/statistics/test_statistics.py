"""Every statistic, under every split and order; and each against a plain computation."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics import Rows, Statistic, available, create, find
from laminogram.probe.statistics.base import State
from laminogram.probe.statistics.histogram import BINS_PER_OCTAVE, LogHistogram, edges
from laminogram.probe.statistics.moments import Moments
from laminogram.probe.statistics.thresholds import Thresholds
from laminogram.probe.statistics.tokens import Tokens
from laminogram.probe.statistics.topk import TopK

EXACT = (lambda: Thresholds((0.5, 1.0, 3.0)), LogHistogram, lambda: TopK(5))
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MOMENTS = ("mean", "m2", "m3", "m4")


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, C) with ties, zeros and far-off values; mask; documents."""
    rows, length, channels = (draw(st.integers(1, n)) for n in (5, 6, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = torch.randn(rows, length, channels, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):
        x = x.mul(2).round() / 2  # many equal values
    x = x * draw(st.sampled_from([1e-6, 1.0, 100.0])) + draw(st.sampled_from([0.0, 50.0, -1e3]))
    if draw(st.booleans()):
        x[0, 0, 0] = 3000.0
    mask = torch.rand(rows, length, generator=generator) < draw(st.sampled_from([0.3, 0.8, 2.0]))
    mask[0, 0] = True
    documents = torch.randperm(rows, generator=generator) * 7
    return x.to(draw(st.sampled_from(DTYPES))), mask, documents


def whole(statistic: Statistic, x: Tensor, mask: Tensor, documents: Tensor) -> Statistic:
    statistic.update(x, mask, documents)
    return statistic


def in_pieces(
    statistic: Statistic, x: Tensor, mask: Tensor, documents: Tensor, draw: st.DataObject
) -> Statistic:
    """Every row and half row on its own, joined as a random tree."""
    cut = draw.draw(st.integers(0, x.shape[1]), label="cut")
    positions = torch.arange(x.shape[1]).expand(mask.shape)
    parts: list[Statistic] = []
    for row in range(len(x)):
        for columns in (slice(0, cut), slice(cut, None)):
            at = (slice(row, row + 1), columns)
            if mask[at].numel() == 0:
                continue
            part = statistic.fresh()
            part.update(x[at], mask[at], documents[row : row + 1], positions[at])
            parts.append(part)
    while len(parts) > 1:
        first = parts.pop(draw.draw(st.integers(0, len(parts) - 1)))
        second = parts.pop(draw.draw(st.integers(0, len(parts) - 1)))
        parts.append(first.merge(second))
    return parts[0]


@pytest.mark.parametrize("make", EXACT)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), batch=batches())
def test_any_split_and_any_order_merge_to_the_same_bits(make, data, batch):
    one, many = whole(make(), *batch).state_dict(), in_pieces(make(), *batch, data).state_dict()
    assert one.keys() == many.keys()
    for key in one:
        assert torch.equal(one[key], many[key]), key


@settings(max_examples=150, deadline=None)
@given(data=st.data(), batch=batches())
def test_moments_agree_with_two_passes_however_split(data, batch):
    x, mask, _ = batch
    reference = two_passes(x.double().numpy()[mask.numpy()])
    for found in (whole(Moments(), *batch), in_pieces(Moments(), *batch, data)):
        result = found.result()
        assert np.array_equal(result["count"], np.full(x.shape[-1], mask.sum()))
        for key in ("min", "max", "absmax"):
            assert np.array_equal(result[key], reference[key]), key
        # Beyond, the spread itself lies in the last digits of what is given.
        narrow = reference["m2"] <= (1e-8 * np.abs(reference["mean"])) ** 2
        for key in MOMENTS:
            # A sum of signed terms is only as good as the terms are small.
            close = np.abs(result[key] - reference[key]) <= 1e-10 * reference["scale", key]
            assert np.all(close | (narrow & (key not in ("count", "mean"))))


def two_passes(values: np.ndarray) -> dict:
    """Of (n, C): moments in long double, with the size of what is summed."""
    wide = values.astype(np.longdouble)
    mean = wide.mean(0)
    found: dict = {
        "mean": mean,
        "min": values.min(0),
        "max": values.max(0),
        "absmax": np.abs(values).max(0),
        ("scale", "mean"): np.abs(wide).mean(0),
    }
    for power in (2, 3, 4):
        distance = wide - mean
        found[f"m{power}"] = (distance**power).mean(0)
        found["scale", f"m{power}"] = (np.abs(distance) ** power).mean(0)
    return found


@settings(max_examples=40, deadline=None)
@given(data=st.data(), batch=batches())
def test_tokens_do_not_depend_on_the_split(data, batch):
    one, many = whole(Tokens(), *batch).result(), in_pieces(Tokens(), *batch, data).result()
    for key in ("document", "position", "absmax", "nonfinite"):
        assert np.array_equal(one[key], many[key]), key
    for key in ("norm", "mean", "kurtosis"):
        np.testing.assert_allclose(one[key], many[key], rtol=1e-9, atol=1e-12, err_msg=key)


def site(name: str, x: Tensor) -> Tensor:
    """What a statistic reads: channels, or one head's pattern."""
    return x[:, :, None] if find(name).of_pattern else x


@pytest.mark.parametrize("name", available())
def test_masked_tokens_never_count(name):
    x = site(name, torch.randn(3, 5, 4))
    mask = torch.rand(3, 5) < 0.5
    mask[0, 0], mask[1, 1] = True, False
    documents = torch.arange(3)
    clean, dirty = create(name), create(name)
    clean.update(x, mask, documents)
    there = mask.reshape(3, 5, *[1] * (x.dim() - 2))
    dirty.update(x.masked_fill(~there, float("nan")), mask, documents)
    dirty.update(x + 1e6, torch.zeros_like(mask), documents)
    same_results(clean, dirty)


@pytest.mark.parametrize("name", available())
def test_a_state_survives_saving(name):
    statistic = create(name)
    statistic.update(site(name, torch.randn(2, 4, 3)), documents=torch.tensor([5, 1]))
    again = find(name).from_state(statistic.options(), statistic.state_dict())
    same_results(statistic, again)
    x = site(name, torch.randn(1, 4, 3))
    for copy in (statistic, again):
        copy.update(x, documents=torch.tensor([9]))
    same_results(statistic, again)


@pytest.mark.parametrize("name", available())
def test_merging_changes_neither_and_takes_empty_ones(name):
    a, b = create(name), create(name)
    a.update(site(name, torch.randn(2, 4, 3)), documents=torch.tensor([0, 1]))
    before = {key: value.clone() for key, value in a.state_dict().items()}
    for merged in (a.merge(b), b.merge(a)):
        same_results(merged, a)
    b.update(site(name, torch.randn(1, 4, 3)), documents=torch.tensor([2]))
    merged = a.merge(b)
    merged.update(site(name, torch.randn(1, 4, 3)), documents=torch.tensor([3]))
    for key, value in a.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", available())
@pytest.mark.parametrize("masked", [False, True])
def test_the_path_that_never_waits_for_a_device_gives_the_same(name, masked):
    """On a GPU rows are masked, not dropped; the same code runs here."""
    x = torch.randn(3, 5, 4)
    x[1, 2, 3] = float("inf")
    mask = torch.rand(3, 5) < 0.6 if masked else torch.ones(3, 5, dtype=torch.bool)
    mask[0, 0] = True
    dropped, kept = create(name), create(name)
    dropped.update(site(name, x), mask, torch.arange(3))
    documents = torch.arange(3)[:, None].expand(3, 5).reshape(-1)
    positions = torch.arange(5).repeat(3)
    trailing = site(name, x).shape[2:]
    rows = Rows(x.reshape(15, 4), documents, positions, mask.reshape(-1), trailing=trailing)
    kept.observe(rows)
    same_results(dropped, kept)


@pytest.mark.parametrize("name", available())
def test_no_statistic_asks_a_device_for_a_value(name):
    """Tensors without values refuse to be asked; a GPU would be waited for."""
    statistic = create(name)
    mask = torch.ones(3, 5, dtype=torch.bool, device="meta")
    documents = torch.empty(3, dtype=torch.long, device="meta")
    for _ in range(2):  # reduced, and joined
        x = site(name, torch.empty(3, 5, 600, device="meta", dtype=torch.bfloat16))
        statistic.update(x, mask, documents)


def same_results(a: Statistic, b: Statistic) -> None:
    one, two = a.result(), b.result()
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(one[key], two[key], rtol=1e-12, atol=1e-15, err_msg=key)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", available())
def test_half_types_are_widened_before_any_arithmetic(name, dtype):
    x = site(name, (torch.randn(2, 6, 3) * 200).to(dtype))  # the squares overflow float16
    half, double = create(name), create(name)
    half.update(x, documents=torch.arange(2))
    double.update(x.double(), documents=torch.arange(2))
    same_results(half, double)


def test_nonfinite_values_are_left_out_and_counted():
    x = torch.arange(12.0).reshape(1, 4, 3)
    x[0, 1, 0], x[0, 2, 0], x[0, 3, 2] = float("nan"), float("inf"), float("-inf")
    document = torch.tensor([4])
    moments = whole(Moments(), x, None, document).result()
    assert moments["nonfinite"].tolist() == [2, 0, 1]
    assert moments["count"].tolist() == [2, 4, 3]
    assert moments["mean"].tolist() == [4.5, 5.5, 5.0]
    assert moments["max"].tolist() == [9.0, 10.0, 8.0]
    thresholds = whole(Thresholds((4.0,)), x, None, document).result()
    assert thresholds["above"].tolist() == [[1, 2, 2]]
    assert thresholds["nonfinite"].tolist() == [2, 0, 1]
    histogram = whole(LogHistogram(), x, None, document).result()
    assert (histogram["nonfinite"], histogram["zero"], histogram["total"]) == (3, 1, 9)
    top = whole(TopK(1), x, None, document).result()
    assert (top["value"], top["position"], top["channel"], top["nonfinite"]) == (10.0, 3, 1, 3)
    tokens = whole(Tokens(), x, None, document).result()
    assert tokens["nonfinite"].tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(tokens["norm"], np.sqrt([5.0, 41.0, 113.0, 181.0]))


def test_a_channel_without_values_is_nan():
    x = torch.ones(1, 2, 2)
    x[..., 1] = float("nan")
    result = whole(Moments(), x, None, None).result()
    assert result["count"].tolist() == [2, 0]
    assert all(np.isnan(result[key][1]) for key in ("mean", "std", "min", "absmax", "kurtosis"))


def test_a_constant_channel_has_no_shape():
    result = whole(Moments(), torch.full((4, 50, 1), 1234.567), None, None).result()
    assert result["std"][0] <= 1e-12 * 1234.567
    assert np.isnan(result["kurtosis"][0])
    assert np.isnan(result["skewness"][0])


def test_moments_of_a_gaussian_and_the_pooled_ones():
    x = torch.randn(8, 400, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 9])
    moments = whole(Moments(), x + torch.tensor([0.0, 5.0, -3.0]), None, None)
    assert np.all(np.abs(moments.result()["excess_kurtosis"]) < 0.3)
    every = (x + torch.tensor([0.0, 5.0, -3.0])).double().numpy().reshape(-1, 1)
    reference, pooled = two_passes(every), moments.pooled()
    for key in MOMENTS:
        np.testing.assert_allclose(pooled[key], reference[key][0], rtol=1e-10)
    assert pooled["absmax"] == reference["absmax"][0]
    assert pooled["count"] == len(every)


def test_trailing_axes_are_channels():
    x = torch.randn(2, 3, 4, 5)
    assert whole(Moments(), x, None, None).result()["mean"].shape == (20,)


def test_a_threshold_is_not_rounded_to_the_dtype():
    # 0.1 in float32 is larger than 0.1; 6.1 in bfloat16 is 6.09375, less than 6.1.
    x = torch.tensor([0.1]).reshape(1, 1, 1)
    assert whole(Thresholds((0.1,)), x, None, None).result()["above"].item() == 1
    half = torch.tensor([6.1]).reshape(1, 1, 1).bfloat16()
    assert whole(Thresholds((6.1, 6.09)), half, None, None).result()["above"].tolist() == [[0], [1]]
    assert whole(Thresholds((1e300,)), x * 1e38, None, None).result()["above"].item() == 0


def test_histogram_counts_what_numpy_counts():
    generator = torch.Generator().manual_seed(1)
    x = torch.exp(torch.randn(2, 3000, 4, generator=generator) * 9)
    x[0, :5] = 0.0
    x[0, 5, 0], x[0, 6, 0] = 2.0**-60, 2.0**50
    x[1, : len(edges()) - 1, 0] = torch.from_numpy(edges()[:-1].copy()).float()  # the bin above
    result = whole(LogHistogram(), x, None, None).result()
    flat = x.double().numpy().ravel()
    inside = flat[(flat >= edges()[0]) & (flat < edges()[-1])]
    assert np.array_equal(result["counts"], np.histogram(inside, edges())[0])
    assert result["zero"] == np.sum(flat == 0)
    assert result["underflow"] == np.sum((flat > 0) & (flat < edges()[0]))
    assert result["overflow"] == np.sum(flat >= edges()[-1])
    assert result["total"] == flat.size
    for level in (0.0, 0.3, 0.5, 0.99, 1.0):
        _, low, high = create_with(x).quantile(level)
        true = np.quantile(flat, level, method="inverted_cdf")
        assert low <= true < high or low == true == high


def create_with(x: Tensor) -> LogHistogram:
    statistic = LogHistogram()
    statistic.update(x)
    return statistic


def test_histogram_bins_are_as_wide_as_stated():
    ratios = edges()[1:] / edges()[:-1]
    assert len(ratios) == 80 * BINS_PER_OCTAVE
    assert 1.040 < ratios.min() < ratios.max() < 1.049
    assert edges()[0] == 2.0**-40
    assert edges()[-1] == 2.0**40
    result = create_with(torch.full((1, 9, 1), 1.3)).result()
    assert result["median_low"] <= 1.3 < result["median_high"]
    assert abs(result["median"] / 1.3 - 1) < 0.03


def test_histogram_tells_zero_from_tiny_in_float64():
    x = torch.tensor([0.0, 1e-300, 1e300, 1.0], dtype=torch.float64).reshape(1, 4, 1)
    result = create_with(x).result()
    assert [int(result[key]) for key in ("zero", "underflow", "overflow")] == [1, 1, 1]
    assert result["nonfinite"] == 0


def test_topk_orders_ties_by_document_position_channel():
    x = torch.zeros(2, 3, 2)
    x[0, 2, 1] = x[1, 0, 0] = -5.0
    x[1, 0, 1] = 5.0
    result = whole(TopK(4), x, None, torch.tensor([9, 2])).result()
    places = list(zip(result["document"], result["position"], result["channel"], strict=True))
    assert places == [(2, 0, 0), (2, 0, 1), (9, 2, 1), (2, 1, 0)]
    assert result["value"].tolist() == [-5.0, 5.0, -5.0, 0.0]


def test_topk_of_fewer_values_than_k():
    result = whole(TopK(8), torch.ones(1, 2, 3), None, torch.tensor([3])).result()
    assert result["document"].tolist() == [3] * 6 + [-1] * 2
    assert np.isnan(result["value"][6:]).all()


@settings(max_examples=60, deadline=None)
@given(batch=batches(), k=st.integers(1, 12))
def test_topk_is_a_sort(batch, k):
    x, mask, documents = batch
    found = whole(TopK(k), *batch).result()
    everything = sorted(
        (-abs(float(x[b, t, c])), int(documents[b]), t, c)
        for b, t, c in np.ndindex(*x.shape)
        if mask[b, t]
    )[:k]
    taken = len(everything)
    names = ("document", "position", "channel")
    assert [entry[1:] for entry in everything] == list(
        zip(*(found[name][:taken].tolist() for name in names), strict=True)
    )
    assert (-np.abs(found["value"][:taken])).tolist() == [entry[0] for entry in everything]


def test_tokens_against_numpy():
    x = torch.randn(2, 3, 50) * 3 + 1
    result = whole(Tokens(), x, None, torch.tensor([8, 1])).result()
    assert result["document"].tolist() == [1, 1, 1, 8, 8, 8]
    assert result["position"].tolist() == [0, 1, 2] * 2
    rows = x.flip(0).double().numpy().reshape(6, 50)
    distance = rows - rows.mean(1, keepdims=True)
    np.testing.assert_allclose(result["norm"], np.linalg.norm(rows, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(result["absmax"], np.abs(rows).max(1))
    expected = (distance**4).mean(1) / (distance**2).mean(1) ** 2
    np.testing.assert_allclose(result["kurtosis"], expected, rtol=1e-10)


def test_gradients_are_not_kept():
    x = torch.randn(1, 4, 2, requires_grad=True)
    for name in available():
        statistic = create(name)
        statistic.update(site(name, x * 2), documents=torch.zeros(1))
        assert not any(value.requires_grad for value in statistic.state_dict().values())


class Largest(Statistic):
    """A new statistic is one small class."""

    name = "largest"

    def reduce(self, rows: Rows) -> State:
        return {"largest": rows.clean.amax()}

    def combine(self, a: State, b: State) -> State:
        return {"largest": torch.maximum(a["largest"], b["largest"])}

    def describe(self, state: State) -> dict[str, np.ndarray]:
        return {"largest": state["largest"].numpy()}


def test_a_new_statistic_is_found_by_its_name():
    assert "largest" in available()
    assert create("largest").merge(whole(Largest(), torch.ones(1, 1, 1), None, None)).result() == {
        "largest": 1.0
    }
    with pytest.raises(ConfigError, match="two statistics are called 'moments'"):
        type("Other", (Largest,), {"name": "moments"})


def test_errors_say_what_is_wrong():
    with pytest.raises(ConfigError, match=r"no statistic 'median'; there are: .*histogram"):
        create("median")
    with pytest.raises(ConfigError, match="has seen no tokens"):
        Moments().result()
    with pytest.raises(ConfigError, match=r"mask must have shape \(2, 3\)"):
        Moments().update(torch.ones(2, 3, 4), torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(ConfigError, match="floating-point"):
        Moments().update(torch.ones(2, 3, 4, dtype=torch.int64))
    with pytest.raises(ConfigError, match="needs the document of every row"):
        TopK().update(torch.ones(2, 3, 4))
    with pytest.raises(ConfigError, match="cannot be merged"):
        TopK(3).merge(TopK(4))
    with pytest.raises(ConfigError, match="thresholds must be"):
        Thresholds(())
    with pytest.raises(ConfigError, match=r"\(4,\).*\(5,\)"):
        whole(Moments(), torch.ones(1, 1, 4), None, None).merge(
            whole(Moments(), torch.ones(1, 1, 5), None, None)
        )
    with pytest.raises(ConfigError, match="level lies between"):
        LogHistogram().quantile(math.pi)
