"""Every definition on tensors whose answer is known, and against published code restated here."""

from __future__ import annotations

from collections.abc import Mapping

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.stacks import ids_of, view_of
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.outliers import Definition, Entry, Evidence, available, create, find, verdicts
from laminogram.outliers.definitions.attention_sinks import AttentionSinks
from laminogram.outliers.definitions.awq_scales import weight_scales
from laminogram.outliers.definitions.massive_activations import MassiveActivations
from laminogram.outliers.definitions.massive_tokens import MassiveTokens
from laminogram.outliers.definitions.rogue_dimensions import RogueDimensions
from laminogram.outliers.definitions.smoothquant_scales import smoothing
from laminogram.outliers.definitions.super_weights import SuperWeights
from laminogram.probe.statistics import Measurement

BIN = 1.05


def judge(
    what: str | Definition, tensors: Mapping[tuple[str, int], Tensor]
) -> dict[tuple[str, str, int], Entry]:
    """Entries by (quantity, site, step), from a site's tensors (B, T, C), a text each."""
    definition = create(what)
    measured = Measurement(definition.statistics(), {step: (step, None) for _, step in tensors})
    for (site, step), x in tensors.items():
        for start in range(0, len(x), 2):  # in two or more batches
            part = x[start : start + 2]
            ids = torch.arange(start, start + len(part))
            measured.observe(site, step, part, documents=ids)
    evidence = Evidence({definition.context: measured})
    return {(e.quantity, e.site, e.step): e for e in definition.judge(evidence)}


@pytest.fixture(scope="module")
def states() -> Tensor:
    """Six texts of 10 tokens and 32 channels: heavy tails, one large channel, spikes at first."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(6, 10, 32, generator=generator) ** 3 + 0.3
    x[:, :, 4] *= 5
    x[:, 0, 9] += 700
    return x


def test_sun_as_its_code_prints_it(states: Tensor) -> None:
    tops = [float(x.abs().flatten().sort(descending=True).values[0]) for x in states]
    medians = [float(x.abs().flatten().median()) for x in states]
    found = judge("massive_activations", {("resid_post", 0): states})
    assert found["absmax", "resid_post", 0].value == pytest.approx(np.mean(tops))
    median = found["median", "resid_post", 0].value
    assert np.mean(medians) / BIN < median < np.mean(medians) * BIN
    assert found["ratio", "resid_post", 0].verdict == (np.mean(tops) >= 1000 * median)


@pytest.mark.parametrize(
    ("peak", "base", "state", "token"),
    [
        (200.0, 0.1, True, True),
        (200.0, 0.3, False, False),  # 667 times
        (90.0, 0.01, False, False),  # far beyond, but small
    ],
)
def test_both_thresholds_are_needed(peak: float, base: float, state: bool, token: bool) -> None:
    x = torch.full((2, 5, 8), base)
    x[:, 2, 3] = -peak
    for name, wanted in (("massive_activations", state), ("massive_tokens", token)):
        assert judge(name, {("resid_post", 0): x})["ratio", "resid_post", 0].verdict is wanted


def test_the_two_medians_turn_the_verdict_around() -> None:
    """As found in published data: the token with the spike is large throughout."""
    x = torch.full((1, 50, 16), 0.437)
    x[:, 0] = 13.9
    x[:, 0, 5] = 7968.0
    whole = judge("massive_activations", {("resid_post", 0): x})["ratio", "resid_post", 0]
    token = judge("massive_tokens", {("resid_post", 0): x})["ratio", "resid_post", 0]
    assert whole.verdict is True and whole.value == pytest.approx(18221, rel=0.05)
    assert token.verdict is False and token.value == pytest.approx(574, rel=0.01)


def test_strict_asks_for_more_than_the_ratio() -> None:
    x = torch.full((1, 4, 4), 0.25)
    x[0, 0, 0] = 1e3
    median = judge("massive_activations", {("q", 0): x})["median", "q", 0].value
    ratio = 1e3 / median
    assert judge(MassiveActivations(ratio), {("q", 0): x})["ratio", "q", 0].verdict is True
    strict = MassiveActivations(ratio, strict=True)
    assert judge(strict, {("q", 0): x})["ratio", "q", 0].verdict is False
    assert judge(MassiveTokens(1.0), {("q", 0): x})["ratio", "q", 0].verdict is True


def test_qualcomm(states: Tensor) -> None:
    flat = states.double().flatten(1)
    mu4 = ((flat - flat.mean(1, keepdim=True)) ** 4).mean(1)
    expected = (mu4 / (flat.std(1) ** 4 + 1e-6)).mean()
    second = states * 0.01 + 1
    found = judge("sequence_kurtosis", {("ffn_out", 0): states, ("ffn_out", 1): second})
    assert found["kurtosis", "ffn_out", 0].value == pytest.approx(float(expected))
    both = [found["kurtosis", "ffn_out", step].value for step in (0, 1)]
    assert found["kurtosis, mean", "all", -1].value == pytest.approx(np.mean(both))
    assert found["kurtosis, max", "all", -1].value == pytest.approx(max(both))
    norm = judge("infinity_norm", {("ffn_out", 0): states})
    mean = float(states.abs().flatten(1).max(1).values.mean())
    assert norm["infinity_norm", "ffn_out", 0].value == pytest.approx(mean)
    assert norm["infinity_norm_rest", "ffn_out", 0].value < mean


def test_osp(states: Tensor) -> None:
    x = states.double()
    kurtosis = ((x**4).mean(-1) / x.std(-1) ** 4 - 3).relu()
    found = judge("token_kurtosis", {("resid_post", 0): states})
    value = found["excess_kurtosis", "resid_post", 0].value
    assert value == pytest.approx(float(kurtosis.mean()), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), channels=st.integers(2, 40))
def test_he(seed: int, channels: int) -> None:
    x = torch.randn(3, 5, channels, generator=torch.Generator().manual_seed(seed)) ** 3
    s = (x.double() ** 2).mean((0, 1)).sqrt().numpy()
    kurtosis = judge("channel_kurtosis", {("q", 0): x})["kurtosis", "q", 0].value
    assert kurtosis == pytest.approx((s**4).mean() / (s**2).mean() ** 2)
    assert 1 <= kurtosis <= channels + 1e-9
    ratio = judge("max_median_ratio", {("q", 0): x})["ratio", "q", 0]
    assert ratio.value == pytest.approx(s.max() / np.median(s))
    assert ratio.detail == {"channel": int(s.argmax())}


def test_he_at_its_ends() -> None:
    even, one = torch.ones(1, 4, 8), torch.zeros(1, 4, 8)
    one[..., 3] = 2.0
    for x, value in ((even, 1), (one, 8)):
        found = judge("channel_kurtosis", {("q", 0): x})["kurtosis", "q", 0]
        assert found.value == pytest.approx(value)


def test_timkey_within_its_sampling(states: Tensor) -> None:
    """The notebook's way: random pairs, the mean product of each coordinate."""
    rows = states.flatten(0, 1).double().numpy()
    drawn = np.random.default_rng(0)
    first, second = drawn.integers(0, len(rows), (2, 200_000))
    first, second = first[first != second], second[first != second]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    contributions = (unit[first] * unit[second]).mean(0)
    found = judge("rogue_dimensions", {("resid_post", 0): states})
    total = found["anisotropy", "resid_post", 0].value
    assert total == pytest.approx(contributions.sum(), abs=0.005)
    top = np.sort(contributions)[::-1]
    assert found["top1", "resid_post", 0].value == pytest.approx(top[0] / total, rel=0.05)
    assert found["top3", "resid_post", 0].value == pytest.approx(top[:3].sum() / total, rel=0.05)
    assert found["top1", "resid_post", 0].detail["channels"][0] == int(contributions.argmax())


def test_one_dimension_rules_where_tokens_share_it() -> None:
    x = torch.randn(2, 200, 64, generator=torch.Generator().manual_seed(0))
    x[..., 7] += 30
    found = judge(RogueDimensions(threshold=0.5), {("final", 0): x})["top1", "final", 0]
    assert found.verdict is True and found.value > 0.95 and found.low > 0.9


def test_llm_int8_features_need_layers_and_positions() -> None:
    quiet = torch.zeros(1, 100, 4)
    tensors = {("attn_in", step): quiet.clone() for step in range(8)}
    tensors["attn_in", 0][0, :, 0] = -6.0  # every position, one layer of eight
    for step in range(8):
        tensors["attn_in", step][0, :3, 1] = 9.0  # every layer, 3 % of positions
    for step in (1, 2):
        tensors["attn_in", step][0, :24, 2] = 6.0  # 2 of 8 layers, 24 % of their positions: 6 %
        tensors["attn_in", step][0, :23, 3] = 6.0  # 5.75 %
    found = judge("llm_int8_features", tensors)
    assert found["features", "all", -1].detail == {
        "channels": [2],
        "commonest": 2,
        "layers": 0.25,
        "positions": 0.06,
    }
    here = [found["features", "attn_in", step].verdict for step in range(8)]
    assert here == [False, True, True] + [False] * 5
    columns = judge("llm_int8_columns", tensors)
    counts = [columns["columns_ever", "attn_in", step].value for step in range(4)]
    assert counts == [2, 3, 3, 1]


def test_the_runtime_rule_counts_columns_of_each_call(states: Tensor) -> None:
    expected = np.mean([(x.abs() >= 6).any(0).sum().item() for x in states])
    found = judge("llm_int8_columns", {("ffn_in", 0): states})
    assert found["columns", "ffn_in", 0].value == pytest.approx(expected)


def test_smoothquant_and_awq(states: Tensor) -> None:
    rows = states.flatten(0, 1).abs()
    running = torch.zeros(32)
    for x in states:  # calibration.py keeps the larger of what it has and what comes
        running = torch.maximum(running, x.abs().max(0).values)
    smooth = judge("smoothquant_scales", {("ffn_in", 0): states})["ratio", "ffn_in", 0]
    assert smooth.value == pytest.approx(float(running.max() / np.median(running)), rel=1e-6)
    awq = judge("awq_scales", {("ffn_in", 0): states})["ratio", "ffn_in", 0]
    mean = rows.double().mean(0).numpy()
    assert awq.value == pytest.approx(mean.max() / np.median(mean))
    lone = torch.ones(1, 1000, 8)
    lone[0, 0, 3] = 1000.0  # one token of a thousand: the maximum sees it, the mean hardly
    for name, ratio in (("smoothquant_scales", 1000.0), ("awq_scales", 1.999)):
        found = judge(name, {("ffn_in", 0): lone})["ratio", "ffn_in", 0]
        assert found.value == pytest.approx(ratio)
    weights = torch.rand(32, generator=torch.Generator().manual_seed(1)) + 0.1
    factors = (running.pow(0.85) / weights.pow(0.15)).clamp(min=1e-5)
    ours = smoothing(running.double().numpy(), weights.double().numpy(), 0.85)
    np.testing.assert_allclose(ours, factors, rtol=1e-5)
    scales = torch.from_numpy(mean).pow(0.4).clamp(min=1e-4)
    scales = scales / (scales.max() * scales.min()).sqrt()
    np.testing.assert_allclose(weight_scales(mean, 0.4), scales, rtol=1e-9)
    for call in (lambda: smoothing(mean, mean, 2.0), lambda: weight_scales(mean, -1.0)):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            call()


def test_six_sigma(states: Tensor) -> None:
    x = states.double()
    beyond = x.abs().amax((0, 1)) > x.mean() + 6 * x.std(correction=0)
    found = judge("six_sigma_channels", {("ffn_out", 0): states})["channels", "ffn_out", 0]
    assert found.value == float(beyond.sum()) and found.verdict == bool(beyond.any())
    assert found.detail["outlier_channels"] == beyond.nonzero().flatten().tolist()


def test_channel_max_ratio() -> None:
    x = torch.ones(2, 3, 5)
    x[1, 2, 4] = 250.0
    found = judge("channel_max_ratio", {("q", 0): x})
    assert found["ratio", "q", 0].verdict is True and found["channels", "q", 0].value == 1
    assert found["ratio", "q", 0].detail["largest_channels"][0] == 4


def test_variances_add_up_and_are_those_of_numpy() -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(7, 6, 20, generator=generator)
    x = x + 3 * torch.randn(20, generator=generator) + torch.randn(7, 1, 20, generator=generator)
    found = judge("dispersion", {("ffn_out", 0): x})
    value = {quantity: entry.value for (quantity, _, _), entry in found.items()}
    y = x.double().numpy()
    rows = y.reshape(42, 20)
    expected = {
        "variance": y.var(),
        "within_tokens": rows.var(axis=1).mean(),
        "between_tokens": rows.mean(axis=1).var(),
        "within_channels": rows.var(axis=0).mean(),
        "between_channels": rows.mean(axis=0).var(),
        "within_documents": y.var(axis=1).mean(),
        "between_documents": y.mean(axis=1).var(axis=0).mean(),
        "rms": np.sqrt((y**2).mean()),
    }
    for key, number in expected.items():
        assert value[key] == pytest.approx(number, rel=1e-10), key
    energy = np.sort((rows**2).mean(0))[::-1]
    assert value["top4"] == pytest.approx(energy[:4].sum() / energy.sum())
    assert value["participation_ratio"] == pytest.approx(energy.sum() ** 2 / (energy**2).sum())
    quartiles = np.quantile(y.reshape(7, -1), [0.25, 0.75], axis=1)
    assert value["iqr"] == pytest.approx((quartiles[1] - quartiles[0]).mean(), rel=0.08)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), texts=st.integers(1, 5))
def test_variances_add_up_in_every_variant(seed: int, texts: int) -> None:
    x = torch.randn(texts, 4, 6, generator=torch.Generator().manual_seed(seed)) ** 3
    found = judge("dispersion", {("q", 0): x})
    value = {quantity: np.array([e.value, *e.halves]) for (quantity, _, _), e in found.items()}
    for whole, parts in (
        ("variance", ("within_tokens", "between_tokens")),
        ("variance", ("within_channels", "between_channels")),
        ("within_channels", ("within_documents", "between_documents")),
    ):
        total = value[parts[0]] + value[parts[1]]
        np.testing.assert_allclose(total, value[whole], rtol=1e-9, atol=1e-12)


def test_one_value_makes_the_variance_but_not_the_mad() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 0.15 * torch.randn(4, 50, 64, generator=generator)
    spiked = x.clone()
    spiked[:, 0, 3] = 13952.0
    before, after = (judge("dispersion", {("q", 0): one}) for one in (x, spiked))
    assert after["std", "q", 0].value > 1e3 * before["std", "q", 0].value
    assert after["mad", "q", 0].value == pytest.approx(before["mad", "q", 0].value, rel=0.01)
    assert after["top1", "q", 0].value > 0.999


def test_concentration_does_not_see_a_rotation() -> None:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(4, 30, 24, generator=generator)
    x[..., 5] *= 9
    turn = torch.linalg.qr(torch.randn(24, 24, generator=generator)).Q
    straight, turned = (judge("concentration", {("q", 0): one}) for one in (x, x @ turn))
    values = x.flatten(0, 1).double().numpy()
    singular = np.linalg.svd(values - values.mean(0), compute_uv=False)
    assert straight["rho", "q", 0].value == pytest.approx(singular[0] / np.linalg.norm(singular))
    squares = singular**2
    assert straight["participation_ratio", "q", 0].value == pytest.approx(
        squares.sum() ** 2 / (squares**2).sum()
    )
    for key in straight:
        assert turned[key].value == pytest.approx(straight[key].value, rel=1e-4), key
    # What depends on the basis does see it.
    kurtosis = [judge("channel_kurtosis", {("q", 0): one}) for one in (x, x @ turn)]
    assert kurtosis[0]["kurtosis", "q", 0].value > 3 * kurtosis[1]["kurtosis", "q", 0].value


@pytest.mark.parametrize("eps", [0.02, 0.15, 0.3])
def test_sinks_as_gus_code_counts_them(eps: float) -> None:
    """Columns of the pattern summed and divided by how many queries reach them; the share of
    (text, layer, head) whose first key is above eps."""
    rows = [ids_of(1, 12, seed=n)[0].tolist() for n in range(5)]
    view = view_of("llama")
    above = []
    for row in rows:
        gram = view.record([row], "pattern")
        for step in range(3):
            importance = gram["pattern", step][0].sum(1) / np.arange(len(row), 0, -1)
            above.append(importance[:, 0] > eps)
    found = verdicts(view, rows, [AttentionSinks(eps)], replicates=4)
    rates = [one.value for one in found.of("attention_sinks", "sink_rate", "pattern")]
    assert np.mean(rates) == pytest.approx(np.mean(above))
    assert eps > 0.02 or np.mean(above) > 0


def test_super_weights_as_their_script_reads_them() -> None:
    """The largest |input| and |output| of every down projection, and the channels they are in."""
    rows = [ids_of(1, 9, seed=7)[0].tolist()]
    view = view_of("llama")
    gram = view.record(rows, ["ffn_act", "ffn_out"])
    found = verdicts(view, rows, [SuperWeights(threshold=0.1)], replicates=4)
    for layer, entry in enumerate(found.of("super_weights", "spike", "ffn_out")):
        inner, outer = (np.abs(gram[site, layer][0]) for site in ("ffn_act", "ffn_out"))
        assert entry.detail["input"] == pytest.approx(inner.max())
        assert entry.detail["output"] == pytest.approx(outer.max())
        place = (entry.detail["row"], entry.detail["column"])
        assert place == (outer.max(0).argmax(), inner.max(0).argmax())
        assert entry.verdict == (inner.max() > 0.1 and outer.max() > 0.1)
        down = view.stack.layer(layer).ffn.down.weight.detach()
        assert entry.detail["weight"] == float(down[place])


def test_norm_weights_as_kovaleva_counts_them() -> None:
    """Gain and bias beyond so many sigmas of their layer, the same index in half of the layers."""
    view = view_of("gpt_neox")
    with torch.no_grad():
        for layer in (0, 2):
            norm = view.stack.layer(layer).attn_norm
            norm.weight[5], norm.bias[5], norm.weight[9] = 9.0, -7.0, 8.0
    beyond = []
    for layer in range(3):
        norm = view.stack.layer(layer).attn_norm
        both = [one.detach().numpy() for one in (norm.weight, norm.bias)]
        beyond.append(
            set.intersection(
                *({c for c in range(len(x)) if abs(x[c] - x.mean()) > 3 * x.std()} for x in both)
            )
        )
    common = {c for c in range(32) if sum(c in here for here in beyond) >= 1.5}
    found = verdicts(view, [[1, 2, 3]], ["norm_weights"], replicates=4)
    entries = found.of("norm_weights", "indices", "attn_norm")
    assert [set(one.detail["channels"]) for one in entries] == [common & one for one in beyond]
    assert common == {5} and [one.value for one in entries] == [1, 0, 1]


def test_every_definition_says_where_it_is_from() -> None:
    names = available()
    assert len(names) == 20
    for name in names:
        definition = create(name)
        assert len(definition.source) > 10 and len(definition.trap) > 40 and find(name).__doc__
        again = find(name)(**definition.options())
        assert again.options() == definition.options()
    with pytest.raises(ConfigError, match=r"no definition 'gut'; there are: attention_sinks, awq"):
        create("gut")
