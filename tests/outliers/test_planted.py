"""What is planted is found by exactly the definitions that speak of it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tests.outliers import planted
from tests.outliers.planted import CHANNEL, COLUMN, HEAD, LAYER, ROWS

from laminogram.errors import ConfigError, EditError
from laminogram.outliers import Entry, Verdicts, verdicts
from laminogram.outliers.definitions.super_weights import find_super_weights, without
from laminogram.view import View

Yes = dict[tuple[str, str, int], Entry]


@cache
def judged(name: str) -> Verdicts:
    return verdicts(getattr(planted, name)(), ROWS, null=None, replicates=16, progress=False)


def added(name: str) -> Yes:
    """Where a definition says yes that says no of the stack in which nothing is planted."""
    before, after = (
        {(e.definition, e.site, e.layer): e for e in judged(which).entries if e.verdict}
        for which in ("plain", name)
    )
    return {key: entry for key, entry in after.items() if key not in before}


def definitions_at(found: Yes, site: str, layer: int) -> set[str]:
    return {name for name, at, number in found if (at, number) == (site, layer)}


def test_a_massive_activation_of_one_token() -> None:
    found = added("massive_token")
    size = {"massive_activations", "massive_tokens", "channel_max_ratio", "six_sigma_channels"}
    assert definitions_at(found, "resid_post", LAYER) == size
    assert definitions_at(found, "resid_pre", LAYER + 1) == size  # the residual carries it on
    # The norm makes it a moderate value of one token: a column at run time, but no feature.
    assert definitions_at(found, "attn_in", LAYER + 1) == {"llm_int8_columns", "six_sigma_channels"}
    assert not {key for key in found if key[2] not in (LAYER, LAYER + 1)}
    entry = found["massive_activations", "resid_post", LAYER]
    assert entry.detail["documents"] == 1 and entry.decided
    rest = judged("massive_token").of("massive_activations", "absmax_rest", "resid_post")
    assert rest[LAYER].value < 100  # it sits on the first token


def test_a_channel_that_is_large_at_every_token() -> None:
    found = added("large_channel")
    names = {name for name, _, _ in found}
    assert names == {"llm_int8_features", "llm_int8_columns"}
    assert {key[2] for key in found if key[1] == "ffn_in"} == {0, 1, 2}
    detail = found["llm_int8_features", "all", -1].detail
    assert detail == {"channels": [CHANNEL], "commonest": CHANNEL, "layers": 1.0, "positions": 0.5}
    # Without a threshold of their own, the numbers of He and Timkey see it too.
    for name, quantity in (("max_median_ratio", "ratio"), ("rogue_dimensions", "top1")):
        before, after = (
            judged(which).of(name, quantity, "ffn_in") for which in ("plain", "large_channel")
        )
        assert all(one.low > two.high for one, two in zip(after, before)), name
        assert all(one.detail.get("channel", CHANNEL) == CHANNEL for one in after)


def test_a_super_weight() -> None:
    found = added("super_weight")
    (key,) = (key for key in found if key[0] == "super_weights")
    assert key == ("super_weights", "ffn_out", LAYER)
    detail = found[key].detail
    assert (detail["row"], detail["column"], detail["weight"]) == (CHANNEL, COLUMN, 5.0)
    # Its output passes against the whole state, not against the token's own median.
    assert ("massive_activations", "ffn_out", LAYER) in found
    assert ("massive_tokens", "ffn_out", LAYER) not in found
    lines = judged("super_weight").differ("site")
    said = [line for line in lines if line["where"] == ("ffn_out", LAYER)]
    pairs = {(line["first"], line["second"]) for line in said}
    assert ("massive_activations", "massive_tokens") in pairs


def test_a_sink_head() -> None:
    found = added("sink_head")
    assert set(found) == {("attention_sinks", "pattern", LAYER)}
    entry = found["attention_sinks", "pattern", LAYER]
    assert entry.detail["heads"] == [HEAD]
    rate = judged("sink_head").of("attention_sinks", "sink_rate", "pattern")[LAYER]
    assert rate.value == pytest.approx(1 / 4)


def test_a_norm_weight() -> None:
    found = added("norm_weight")
    ours = {key for key in found if key[0] == "norm_weights"}
    assert ours == {("norm_weights", "ffn_norm", 0), ("norm_weights", "ffn_norm", 1)}
    assert found["norm_weights", "ffn_norm", 0].detail == {"channels": [CHANNEL]}
    assert set(found) == ours
    alone = verdicts(planted.norm_weight((1,)), ROWS, ["norm_weights"])
    assert not any(entry.verdict for entry in alone.entries)  # in a third of the layers only


def test_super_weights_are_taken_one_after_the_other() -> None:
    view = planted.super_weight()
    ffn = view.stack.layer(2).ffn
    with torch.no_grad():
        ffn.up.weight[3] *= 100
        ffn.down.weight[:, 3] = 0
        ffn.down.weight[9, 3] = 5
    before = [parameter.clone() for parameter in view.stack.parameters()]
    assert find_super_weights(view, ROWS) == [(1, CHANNEL, COLUMN), (2, 9, 3)]
    for one, two in zip(before, view.stack.parameters()):
        assert torch.equal(one, two)
    assert find_super_weights(planted.plain(), ROWS) == []


def test_a_view_without_an_entry_shares_the_rest() -> None:
    view: View = planted.super_weight()
    cut = without(view, [(LAYER, CHANNEL, COLUMN)])
    theirs, ours = (dict(one.stack.named_parameters()) for one in (cut, view))
    changed = {name for name in ours if theirs[name].data_ptr() != ours[name].data_ptr()}
    assert changed == {f"layers.{LAYER}.ffn.down.weight"}
    difference = (theirs[changed.pop()] != ours[f"layers.{LAYER}.ffn.down.weight"]).nonzero()
    assert difference.tolist() == [[CHANNEL, COLUMN]]
    with pytest.raises(EditError, match=r"row 99 of layers\.0\.ffn\.down\.weight does not exist"):
        without(view, [(0, 99, 0)])
    with pytest.raises(ConfigError, match="layer 0 has no dense down projection"):
        without(view.using(precision="int8"), [(0, 1, 1)])
