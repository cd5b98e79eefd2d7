"""Lines of documents and of patterns, against plain numpy in float64."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics.base import Statistic
from laminogram.probe.statistics.documents import Documents
from laminogram.probe.statistics.sinks import Sinks

BIN = 1.05
"""A bin of the histogram is at most this wide, as a ratio."""


@st.composite
def texts(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, C) with spikes, zeros and offsets; mask with ragged rows; documents."""
    rows, length, channels = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 6)),
        draw(st.integers(2, 9)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = torch.randn(rows, length, channels, generator=generator)
    x = x * draw(st.sampled_from([1e-3, 1.0, 50.0])) + draw(st.sampled_from([0.0, 30.0]))
    if draw(st.booleans()):
        x[0, 0, 0] = 5000.0
    if draw(st.booleans()):
        x[:, :, -1] = 0.0
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    mask = torch.arange(length)[None] < lengths[:, None]
    return x, mask, torch.randperm(rows, generator=generator) * 11


def one_document(x: np.ndarray) -> dict[str, float]:
    """Of (T, C) in float64, each number by its definition."""
    mean, size = x.mean(), np.abs(x)
    std = x.std(axis=1, ddof=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.maximum((x**4).mean(1) / std**4 - 3, 0)
        ratio = size.max(1) / np.sort(size, axis=1)[:, (x.shape[1] - 1) // 2]
    norms = np.sort(np.linalg.norm(x, axis=1))
    return {
        "tokens": len(x),
        "count": x.size,
        "mean": mean,
        "variance": x.var(),
        "fourth": ((x - mean) ** 4).mean(),
        "between_tokens": x.mean(1).var(),
        "within_channels": x.var(axis=0).mean(),
        "absmax": size.max(),
        "absmax_rest": size[1:].max() if len(x) > 1 else np.nan,
        "excess": excess.mean(),
        "token_ratio": ratio.max(),
        "token_absmax": size.max(1)[ratio == ratio.max()].max(),
        "norm_max": norms[-1],
        "norm_median": norms[(len(x) - 1) // 2],
    }


def lower(values: np.ndarray, level: float) -> float:
    return float(np.quantile(values, level, method="inverted_cdf"))


@settings(max_examples=80, deadline=None)
@given(batch=texts())
def test_every_column_against_two_passes(batch):
    x, mask, documents = batch
    found = Documents()
    found.update(x, mask, documents)
    result = found.result()
    for line, document in enumerate(result["document"]):
        row = documents.tolist().index(document)
        values = x[row][mask[row]].double().numpy()
        scale = np.abs(values).max() or 1.0
        for key, expected in one_document(values).items():
            power = {"variance": 2, "between_tokens": 2, "within_channels": 2, "fourth": 4}
            atol = 1e-12 * scale ** power.get(key, 1)
            np.testing.assert_allclose(
                result[key][line], expected, rtol=1e-9, atol=atol, err_msg=key
            )
        flat = values.ravel()
        median = lower(np.abs(flat), 0.5)
        assert median / BIN <= result["median"][line] <= median * BIN or median == 0
        for key, level in (("quartile_low", 0.25), ("quartile_high", 0.75)):
            true = lower(flat, level)
            assert abs(result[key][line] - true) <= (BIN - 1) * abs(true)
        # Both the middle and the distances are rounded to bins.
        center = lower(flat, 0.5)
        mad = lower(np.abs(flat - center), 0.5)
        slack = (BIN - 1) * (2 * abs(center) + mad)
        assert abs(result["mad"][line] - mad) <= slack + 1e-9


@pytest.mark.parametrize("make", [Documents, Sinks])
@settings(max_examples=30, deadline=None)
@given(data=st.data(), batch=texts())
def test_documents_join_in_any_order(make, data, batch):
    x, mask, documents = batch
    x = x[:, :, None].abs() if make is Sinks else x
    whole = make()
    whole.update(x, mask, documents)
    parts: list[Statistic] = []
    for row in data.draw(st.permutations(range(len(x)))):
        part = make()
        part.update(x[row : row + 1], mask[row : row + 1], documents[row : row + 1])
        parts.append(part)
    while len(parts) > 1:
        first, second = (parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in (0, 1))
        parts.append(first.merge(second))
    one, many = whole.result(), parts[0].result()
    squares, size = ("variance", "between_tokens", "within_channels"), float(x.abs().max())
    for key in one:
        atol = 1e-13 * max(1.0, size**2 if key in squares else size)  # of what cancels
        np.testing.assert_allclose(one[key], many[key], rtol=1e-11, atol=atol, err_msg=key)


def test_a_document_in_two_parts_is_refused():
    found = Documents()
    for _ in (0, 1):
        found.update(torch.randn(1, 3, 4), documents=torch.tensor([5]))
    with pytest.raises(ConfigError, match=r"document 5 came in more than one part"):
        found.result()


def test_what_is_not_finite_takes_no_part():
    x = torch.tensor([[1.0, -3.0, float("inf")], [2.0, float("nan"), 4.0]])[None]
    found = Documents()
    found.update(x, documents=torch.tensor([0]))
    line = {key: value[0] for key, value in found.result().items()}
    assert (line["count"], line["nonfinite"], line["absmax"]) == (4, 2, 4.0)
    assert line["mean"] == 1.0 and line["variance"] == pytest.approx(6.5)
    lost = Documents()
    lost.update(torch.full((1, 2, 3), float("nan")), documents=torch.tensor([0]))
    assert np.isnan(lost.result()["absmax"][0])


def test_importance_is_the_published_division():
    """Columns divided by T, T - 1, ..., 1 and summed, as sail-sg/Attention-Sink does."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(2, 3, 6, 6, generator=generator)  # B H T S
    scores = scores.masked_fill(~torch.ones(6, 6).tril().bool(), float("-inf"))
    pattern = scores.softmax(-1)
    found = Sinks(keys=4)
    found.update(pattern.transpose(1, 2), documents=torch.arange(2))
    divided = pattern.double() / torch.arange(6, 0, -1)
    expected = divided.sum(2)[..., :4].numpy()
    np.testing.assert_allclose(found.result()["importance"], expected, rtol=1e-7)
    short = Sinks(keys=2, length=3)
    short.update(pattern.transpose(1, 2), documents=torch.arange(2))
    early = pattern[:, :, :3].double().numpy()
    np.testing.assert_allclose(short.result()["importance"][..., 0], early[..., 0].mean(2))
    assert short.result()["tokens"].tolist() == [3, 3]


def test_a_key_that_a_text_does_not_reach_is_nan():
    found = Sinks(keys=3)
    found.update(torch.ones(1, 2, 1, 2) / 2, documents=torch.tensor([0]))
    assert np.isnan(found.result()["importance"][0, 0]).tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="reads the site 'pattern'"):
        found.update(torch.ones(1, 2, 3), documents=torch.tensor([1]))
