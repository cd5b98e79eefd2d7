"""Channel statistics with intervals: the weights, the sums under them, and how intervals cover."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.probe.statistics import available, create
from laminogram.probe.statistics.base import Statistic
from laminogram.probe.statistics.bootstrap import (
    ALL,
    HALVES,
    MOST,
    REPLICATES,
    interval,
    variant_weights,
)
from laminogram.probe.statistics.channels import Channels
from laminogram.probe.statistics.cosines import Cosines
from laminogram.probe.statistics.covariance import Covariance, projection
from laminogram.probe.statistics.exceedances import Exceedances
from laminogram.probe.statistics.scales import Scales

MAKERS = (
    lambda: Channels(replicates=5),
    lambda: Scales(replicates=5),
    lambda: Exceedances(1.0, replicates=5),
    lambda: Cosines(replicates=5),
    Covariance,
    lambda: Covariance(exact=2, sketch=3),
)


def test_weights_are_poisson_and_belong_to_the_document():
    ids = torch.arange(20_000) * 977 - 5_000_000
    weights = variant_weights(ids, 8)
    draws = weights[REPLICATES]
    assert torch.equal(weights[ALL], torch.ones(20_000, dtype=torch.float64))
    assert torch.equal(weights[HALVES].sum(0), weights[ALL])
    assert abs(float(weights[1].mean()) - 0.5) < 0.02
    assert abs(float(draws.mean()) - 1) < 0.01 and abs(float(draws.var()) - 1) < 0.03
    shares = [float((draws == k).double().mean()) for k in range(4)]
    np.testing.assert_allclose(shares, [0.3679, 0.3679, 0.1839, 0.0613], atol=0.005)
    assert draws.max() <= MOST
    # Replicates, and neighbours, know nothing of each other.
    correlation = np.corrcoef(draws.numpy())
    assert np.abs(correlation - np.eye(8)).max() < 0.03
    assert abs(np.corrcoef(draws[0, 1:], draws[0, :-1])[0, 1]) < 0.03
    some = torch.tensor([7, 3])
    assert torch.equal(variant_weights(ids[some], 8), weights[:, some])
    assert torch.equal(variant_weights(ids, 3), weights[:6])


def test_intervals_of_a_mean_cover_it_at_their_nominal_rate():
    """1000 studies of 60 documents each: 95 and 80 per cent, within what so many can tell."""
    studies, documents = 1000, 60
    weights = variant_weights(torch.arange(documents), 200).numpy()
    values = np.random.default_rng(0).gamma(4.0, 0.25, (documents, studies))
    means = (weights @ values) / weights.sum(1, keepdims=True)
    for level in (0.95, 0.8):
        low, high = interval(means, level)
        covered = np.mean((low <= 1.0) & (high >= 1.0))
        # Percentile intervals of 60 skewed values are known to fall a little short.
        assert level - 0.035 < covered < level + 0.02, (level, covered)


def test_intervals_of_channel_energies_cover_through_the_statistic():
    """Streamed: every channel is a study of its own; documents share an offset."""
    documents, channels = 48, 400
    generator = torch.Generator().manual_seed(1)
    offset = torch.randn(documents, 1, channels, generator=generator)
    x = offset + torch.randn(documents, 3, channels, generator=generator)
    found = Channels(replicates=100)
    for start in range(0, documents, 8):
        found.update(x[start : start + 8], documents=torch.arange(start, start + 8))
    low, high = interval(found.result()["energy"], 0.9)
    covered = np.mean((low <= 2.0) & (high >= 2.0))
    assert 0.82 < covered < 0.93
    # As if tokens were independent, intervals would be too narrow.
    naive = 1.645 * (x**2).reshape(-1, channels).double().std(0).numpy() / np.sqrt(documents * 3)
    energy = found.result()["energy"][ALL]
    assert np.mean(np.abs(energy - 2.0) < naive) < covered - 0.04


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_a_replicate_that_is_not_finite_is_left_out(broken):
    draws = np.random.default_rng(0).normal(size=(23, 2))
    with_it = np.insert(draws, 12, broken, axis=0)
    assert np.array_equal(interval(with_it), interval(draws))


def test_intervals_of_few_or_broken_replicates():
    low, high = interval(np.array([9.0, 0, 0, 1.0, 2.0, 3.0]))
    assert (low, high) == (1.0, 3.0)
    assert np.isnan(interval(np.zeros(3))[0])
    low, high = interval(np.array([9.0, 0, 0, np.nan, 2.0, np.nan]))
    assert (low, high) == (2.0, 2.0)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        interval(np.zeros(5), 95)


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    rows, length, channels = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 5)),
        draw(st.integers(1, 5)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    x = torch.randn(rows, length, channels, generator=generator)
    x = x * draw(st.sampled_from([1.0, 40.0])) + draw(st.sampled_from([0.0, 1000.0]))
    mask = torch.rand(rows, length, generator=generator) < 0.7
    mask[0, 0] = True
    return x, mask, torch.randperm(rows, generator=generator) * 3


def restated(x: Tensor, mask: Tensor, documents: Tensor, replicates: int) -> dict[str, np.ndarray]:
    """Every variant by repeating each token as often as its document counts."""
    weights = variant_weights(documents, replicates).long()
    found: dict[str, list] = {}
    for row in weights:
        copies = [x[b][mask[b]].double().repeat(int(w), 1) for b, w in enumerate(row)]
        tokens = torch.cat(copies).numpy()
        some = len(tokens) > 0
        nothing = np.full(x.shape[2], np.nan)
        norm = np.linalg.norm(tokens, axis=1, keepdims=True)
        unit = tokens / np.where(norm > 0, norm, 1)
        n = len(tokens)
        pairs = (unit.sum(0) ** 2 - (unit**2).sum(0)) / (n * (n - 1)) if n > 1 else nothing
        for key, value in {
            "tokens": n,
            "mean": tokens.mean(0) if some else nothing,
            "variance": tokens.var(0) if some else nothing,
            "absmax": np.abs(tokens).max(0) if some else nothing,
            "mean_abs": np.abs(tokens).mean(0) if some else nothing,
            "above": (np.abs(tokens) >= 1).sum(0),
            "documents_above": sum(
                int(w) * (np.abs(x[b][mask[b]].numpy()) >= 1).any(0) for b, w in enumerate(row)
            ),
            "contribution": pairs,
        }.items():
            found.setdefault(key, []).append(value)
    return {key: np.stack(value) for key, value in found.items()}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), batch=batches())
def test_sums_are_those_of_repeated_documents_however_split(data, batch):
    x, mask, documents = batch
    expected = restated(x, mask, documents, 5)
    for make in MAKERS[:4]:
        whole = make()
        whole.update(x, mask, documents)
        for found in (whole, in_pieces(make(), batch, data)):
            result = found.result()
            for key in result.keys() & expected.keys():
                scale = 1e-12 * (float(x.abs().max()) ** 2 if key == "variance" else 1)
                np.testing.assert_allclose(
                    result[key], expected[key], rtol=1e-9, atol=10 * scale, err_msg=key
                )


def in_pieces(statistic: Statistic, batch: tuple, data: st.DataObject) -> Statistic:
    """Every half row on its own (a document in two parts has its weight in both), as a tree."""
    x, mask, documents = batch
    cut = data.draw(st.integers(0, x.shape[1]))
    positions = torch.arange(x.shape[1]).expand(mask.shape)
    parts: list[Statistic] = []
    for row in range(len(x)):
        spans = (slice(0, cut), slice(cut, None))
        if isinstance(statistic, Exceedances):  # counts documents: they come whole
            spans = (slice(0, None),)
        for columns in spans:
            at = (slice(row, row + 1), columns)
            if mask[at].any():
                part = statistic.fresh()
                part.update(x[at], mask[at], documents[row : row + 1], positions[at])
                parts.append(part)
    while len(parts) > 1:
        first, second = (parts.pop(data.draw(st.integers(0, len(parts) - 1))) for _ in (0, 1))
        parts.append(first.merge(second))
    return parts[0]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), batch=batches())
def test_counts_and_maxima_merge_to_the_same_bits(data, batch):
    for make, keys in (
        (MAKERS[1], ("absmax", "tokens")),
        (MAKERS[2], ("above", "documents_above", "tokens", "documents")),
    ):
        whole = make()
        whole.update(*batch)
        many = in_pieces(make(), batch, data)
        for key in keys:
            assert torch.equal(whole.state[key], many.state[key]), key


@settings(max_examples=40, deadline=None)
@given(data=st.data(), batch=batches(), exact=st.sampled_from([1, 512]))
def test_the_spectrum_is_that_of_numpy_however_split(data, batch, exact):
    x, mask, _ = batch
    found = in_pieces(Covariance(exact=exact, sketch=3), batch, data).result()
    values = x[mask].double().numpy()
    if x.shape[2] > exact:
        values = values @ projection(x.shape[2], 3, x.device).numpy()
    expected = np.linalg.eigvalsh(np.cov(values.T, bias=True).reshape(values.shape[1], -1))[::-1]
    scale = 1e-12 * float(x.abs().max()) ** 2
    np.testing.assert_allclose(found["eigenvalues"][ALL], expected.clip(0), atol=10 * scale)
    assert found["tokens"][0] == mask.sum() == found["tokens"][1:].sum()


def test_a_sketch_keeps_the_energy_and_the_leading_direction():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 300, 800, generator=generator)
    x = x + 8 * torch.randn(4, 300, 1, generator=generator) * torch.randn(800, generator=generator)
    exact, sketch = Covariance(exact=800), Covariance(exact=100, sketch=256)
    for one in (exact, sketch):
        one.update(x, documents=torch.arange(4))
    full, seen = (one.result()["eigenvalues"][ALL] for one in (exact, sketch))
    assert abs(seen[0] / full[0] - 1) < 4 * np.sqrt(2 / 256)
    assert abs(seen.sum() / full.sum() - 1) < 4 * np.sqrt(2 / 256)


def test_a_threshold_is_reached_not_passed():
    x = torch.tensor([6.0, -6.0, 5.999, 0.1]).reshape(1, 1, 4)
    found = Exceedances(6.0, replicates=0)
    found.update(x, documents=torch.tensor([0]))
    assert found.result()["above"][ALL].tolist() == [1, 1, 0, 0]
    tenth = Exceedances(0.1, replicates=0)  # float32's 0.1 is more than 0.1
    tenth.update(x, documents=torch.tensor([0]))
    assert tenth.result()["above"][ALL].tolist() == [1, 1, 1, 1]


def test_every_finite_value_and_no_other_reaches_zero():
    x = torch.tensor([[0.0, -2.0], [float("inf"), 4.0], [3.0, float("nan")]])[None]
    found = Exceedances(0.0, replicates=0)
    found.update(x, torch.tensor([[True, True, False]]), torch.tensor([0]))
    result = found.result()
    assert result["above"][ALL].tolist() == [1, 2] and result["nonfinite"].tolist() == [1, 0]
    assert result["tokens"][ALL] == 2


def test_values_that_are_not_finite_take_no_part():
    x = torch.tensor([[1.0, 2.0], [float("inf"), 4.0], [3.0, float("nan")]])[None]
    channels, scales = Channels(replicates=2), Scales(replicates=2)
    for one in (channels, scales):
        one.update(x, documents=torch.tensor([0]))
    found = channels.result()
    assert found["mean"][ALL].tolist() == [2.0, 3.0] and found["variance"][ALL].tolist() == [1, 1]
    assert found["nonfinite"].tolist() == [1, 1]
    assert scales.result()["mean_abs"][ALL].tolist() == [2.0, 3.0]
    assert scales.result()["absmax"][ALL].tolist() == [3.0, 4.0]


def test_memory_is_what_the_state_takes():
    for name in available():
        statistic = create(name)
        shape = (2, 5, 3, 7) if statistic.of_pattern else (2, 5, 7)
        predicted = statistic.memory(shape[2], tokens=10, documents=2)
        statistic.update(torch.randn(shape), documents=torch.arange(2))
        held = sum(value.nbytes for value in statistic.state.values())
        assert predicted == held, name
    assert Channels().memory(8192) < 12e6 and Covariance().memory(8192) < 2e6
    assert Channels(replicates=64).memory(4096) == pytest.approx(5.5e6, rel=0.02)
