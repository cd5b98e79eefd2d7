"""The table of all definitions: what it holds, its nulls, and where verdicts differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.outliers import planted
from tests.outliers.planted import ROWS
from tests.stacks import view_of

from laminogram.errors import ConfigError, SiteError
from laminogram.outliers import available, create, judge, verdicts
from laminogram.outliers.definitions.channel_max_ratio import ChannelMaxRatio
from laminogram.outliers.definitions.llm_int8_columns import LlmInt8Columns
from laminogram.outliers.needs import default_sites, memory, needs
from laminogram.outliers.verdicts import Verdicts
from laminogram.probe.measuring import measure
from laminogram.probe.statistics import Measurement

SHORT = [row[:12] for row in ROWS]
KINDS = ("llama", "gpt_neox", "bert", "rwkv4", "rwkv7")
FEW = ("channel_kurtosis", "max_median_ratio", "sequence_kurtosis", "massive_activations")


@pytest.mark.parametrize("kind", KINDS)
def test_every_definition_judges_every_stack(kind: str) -> None:
    found = verdicts(view_of(kind), SHORT, null=None, replicates=8, layers=[0, 1], progress=False)
    assert {entry.definition for entry in found.entries} == set(available())
    table = found.table()
    assert len(table["value"]) == len(found.entries) and np.isfinite(table["value"]).all()
    before = {entry.site for entry in found.of("massive_activations")}
    assert {"resid_pre", "attn_in", "ffn_in", "resid_post"} <= before
    assert ("resid_mid" in before) == (view_of(kind).config.layers[0].block != "parallel")
    assert {entry.layer for entry in found.of("dispersion")} == {0, 1}
    assert found.manifest["weights_hash"] and len(found.about()) == len(available())


def test_numbers_are_those_of_the_recorded_tensors() -> None:
    view = view_of("llama")
    found = verdicts(view, SHORT, ["infinity_norm", "token_kurtosis"], ["resid_post"], null=None)
    states = [view.record(row, "resid_post")["resid_post"][:, 0] for row in SHORT]
    for step, entry in enumerate(found.of("infinity_norm", "infinity_norm")[:3]):
        assert entry.value == pytest.approx(np.mean([np.abs(s[step]).max() for s in states]))
    x = [torch.from_numpy(s[1]).double() for s in states]
    excess = [((t**4).mean(-1) / t.std(-1) ** 4 - 3).relu().mean().item() for t in x]
    assert found.of("token_kurtosis")[1].value == pytest.approx(np.mean(excess), rel=1e-5)


def test_without_context_every_token_is_a_text() -> None:
    """As the published script runs it: one-token texts, the mean over their tokens."""
    view = view_of("gpt_neox")
    found = verdicts(view, SHORT, ["token_kurtosis_alone"], ["resid_post"], null=None)
    expected = []
    for row in SHORT:
        single = view.record([[token] for token in row], "resid_post")["resid_post"][2, :, 0]
        x = torch.from_numpy(single).double()
        expected.append(((x**4).mean(-1) / x.std(-1) ** 4 - 3).relu().mean().item())
    value = found.of("token_kurtosis_alone", site="resid_post")[2].value
    assert value == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.fixture(scope="module")
def nulls() -> dict[str, Verdicts]:
    """The same stack and texts under every null: a large channel, a massive token."""
    view = planted.large_channel()
    view = view.using(edits=planted.massive_token().edits)
    return {
        null: verdicts(view, ROWS, FEW, ["ffn_in", "resid_post"], null=null, replicates=8)
        for null in ("gaussian", "channels", "permutation")
    }


def test_a_null_takes_away_what_it_says(nulls: dict[str, Verdicts]) -> None:
    def ratio(null: str, definition: str, site: str) -> float:
        """The value at layer 1 as a multiple of the value under the null."""
        quantity = "kurtosis" if "kurtosis" in definition else "ratio"
        entry = nulls[null].of(definition, quantity, site)[1]
        assert entry.null is not None
        return entry.value / entry.null

    # A channel that is always large: kept by a Gaussian of each channel, lost to the others.
    assert ratio("gaussian", "max_median_ratio", "ffn_in") > 3
    assert ratio("permutation", "max_median_ratio", "ffn_in") > 3
    assert ratio("channels", "max_median_ratio", "ffn_in") == pytest.approx(1, abs=0.2)
    # One value of one token: kept by permuting channels, lost to any Gaussian.
    assert ratio("permutation", "massive_activations", "resid_post") == pytest.approx(1, rel=1e-6)
    assert ratio("gaussian", "massive_activations", "resid_post") > 100
    assert ratio("channels", "sequence_kurtosis", "resid_post") > 10
    entry = nulls["gaussian"].of("sequence_kurtosis", "kurtosis", "ffn_in")[1]
    assert entry.null == pytest.approx(3, abs=0.3)  # what a Gaussian has


def test_nulls_are_drawn_alike_twice() -> None:
    view = view_of("rwkv4")
    for null in ("gaussian", "permutation"):
        one, two = (
            verdicts(view, SHORT, FEW, ["ffn_out"], null=null, replicates=4) for _ in (0, 1)
        )
        for first, second in zip(one.entries, two.entries):
            assert first.null == second.null is not None


def test_parts_that_were_saved_are_judged_like_the_whole(tmp_path) -> None:
    view = view_of("llama")
    wanted = needs(view, [create(name) for name in FEW], ("ffn_out", "resid_post"), replicates=8)
    for number, rows in enumerate((SHORT[:1], SHORT[1:])):
        part = measure(view, rows, wanted["full"], first_document=number, progress=False)
        part.save(tmp_path / f"{number}")
    first, second = (Measurement.load(tmp_path / f"{number}") for number in (0, 1))
    ours = judge(second.merge(first))
    whole = verdicts(view, SHORT, FEW, ("ffn_out", "resid_post"), null=None, replicates=8)
    assert {entry.definition for entry in ours.entries} >= set(FEW)
    for entry in whole.entries:
        (same,) = (
            one
            for one in ours.of(entry.definition, entry.quantity, entry.site)
            if one.step == entry.step
        )
        numbers = [same.value, same.low, same.high, *same.halves]
        expected = [entry.value, entry.low, entry.high, *entry.halves]
        # Batches differ, and with them the last bits of activations and the bin of a median.
        np.testing.assert_allclose(numbers, expected, rtol=0.03)


def test_where_verdicts_differ() -> None:
    chosen = ("massive_activations", "llm_int8_columns", "channel_max_ratio")
    found = verdicts(planted.massive_token(), ROWS, chosen, null=None, replicates=8)
    lines = found.differ("site")
    assert all(line["first_verdict"] != line["second_verdict"] for line in lines)
    where = {
        line["where"] for line in lines if "llm_int8_columns" in (line["first"], line["second"])
    }
    assert ("attn_in", 2) in where  # large in the eyes of a quantiser, not massive
    pair = found.agreement("site")
    i, j = (pair["names"].index(name) for name in ("channel_max_ratio", "massive_activations"))
    assert pair["compared"][i, j] == 21 and pair["alike"][i, j] == 21
    assert not [line for line in lines if line["second"] == "massive_activations"
                and line["first"] == "channel_max_ratio"]  # fmt: skip
    # By layer, a definition has said yes where any of its sites has.
    assert {line["where"] for line in found.differ("layer")} <= {0, 1, 2}
    with pytest.raises(ConfigError, match="'layer' or 'site'"):
        found.differ("token")


def test_thresholds_are_parameters() -> None:
    view = view_of("llama")
    low = verdicts(view, SHORT, [ChannelMaxRatio(threshold=1.0)], ["resid_post"], null=None)
    assert all(entry.verdict for entry in low.of("channel_max_ratio", "ratio"))
    none = verdicts(view, SHORT, [ChannelMaxRatio(threshold=None)], ["resid_post"], null=None)
    assert all(entry.verdict is None for entry in none.entries)


@pytest.mark.parametrize("kind", ["llama", "rwkv7"])
def test_memory_is_known_before(kind: str) -> None:
    view = view_of(kind)
    chosen = [create(name) for name in available() if name != "token_kurtosis_alone"]
    wanted = needs(view, chosen, default_sites(view), replicates=8)
    held = 0
    for by_site in wanted.values():
        measured = measure(view, SHORT, by_site, progress=False)
        for key in measured:
            held += sum(value.nbytes for value in measured[key].state.values())
    assert memory(view, wanted, documents=len(SHORT)) == held


def test_errors_name_what_exists() -> None:
    view = view_of("llama")
    with pytest.raises(ConfigError, match="gaussian, channels, permutation"):
        verdicts(view, SHORT, null="uniform")
    with pytest.raises(SiteError, match="site 'nowhere' does not exist"):
        verdicts(view, SHORT, FEW, ["nowhere"])
    with pytest.raises(ConfigError, match="two definitions want"):
        verdicts(view, SHORT, ["llm_int8_features", LlmInt8Columns(magnitude=3.0)])
    found = verdicts(view, SHORT, FEW, ["ffn_out"], null=None)
    with pytest.raises(ConfigError, match=r"no entry of 'mad'.*sequence_kurtosis: kurtosis at ffn"):
        found.of("mad")
