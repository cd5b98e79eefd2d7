"""Attention maps: the patterns themselves, and what pooling keeps of them."""

from __future__ import annotations

import numpy as np
import pytest
from tests.stacks import CAUSAL, KINDS, SIGNED, ids_of, view_of

from laminogram.errors import ConfigError, SiteError, TokenError
from laminogram.probe.edits import zero
from laminogram.studies import attention as module
from laminogram.studies.attention import attention
from laminogram.studies.pooling import strongest

IDS = ids_of(1, 9)[0].tolist()
PLANS = ("0-2", "0, 2x(1), mean(0, 2)", "0.attn, 1, 2.ffn")


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_maps_are_the_recorded_patterns(kind: str, plan: str) -> None:
    view = view_of(kind).using(plan=plan)
    found = attention(view, IDS)
    gram = view.record(IDS, sites="pattern")
    assert found.steps == gram.steps and found.pooled == 1
    np.testing.assert_allclose(found.pattern, gram["pattern"][:, 0], atol=1e-6)
    assert found.layers == tuple(gram.step_layers[step][0] for step in gram.steps)
    if plan == PLANS[1]:
        labels = ("0 (step 0)", "1 (step 1)", "1 (step 2)", "0 (step 3)", "2")
        assert found.labels == labels


@pytest.mark.parametrize("kind", KINDS)
def test_rows_sum_to_one_where_they_say_so(kind: str) -> None:
    found = attention(view_of(kind), IDS)
    assert found.normalised == (kind not in SIGNED)
    sums = found.pattern.sum(-1)
    if found.normalised:
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    else:
        assert np.abs(sums - 1).max() > 0.1 and (found.pattern < 0).any()
        assert "signed" in found.note
    assert found.pattern.shape[1] == (2 if kind in SIGNED else 1 if kind == "rwkv4" else 4)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_stands_above_the_diagonal_of_a_causal_map(kind: str) -> None:
    found = attention(view_of(kind), IDS)
    above = np.abs(np.triu(found.pattern, 1)).max()
    assert found.causal == (kind != "bert")
    assert (above == 0) == found.causal


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_numbers_of_show_attention(kind: str) -> None:
    view = view_of(kind)
    found = attention(view, IDS, layers=[2, 1])
    assert found.layers == (1, 2) == tuple(map(int, found.labels))
    for row, layer in enumerate(found.layers):
        look = view.show_attention(layer, 7, 3, IDS)
        np.testing.assert_allclose(found.pattern[row, :, 7, 3], look.weights, atol=1e-6)


@pytest.mark.parametrize("kind", CAUSAL)
def test_long_texts_are_pooled_and_say_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAP_CELLS", 4)
    view = view_of(kind)
    exact = view.record(IDS, sites="pattern")["pattern"][:, 0]
    found = attention(view, IDS)
    assert found.pooled == 3 and found.pattern.shape[2:] == (3, 3)
    assert "3 x 3 tokens" in found.note
    for a in range(3):
        for b in range(3):
            block = exact[:, :, 3 * a : 3 * a + 3, 3 * b : 3 * b + 3].reshape(*exact.shape[:2], -1)
            where = np.abs(block).argmax(-1)
            wanted = np.take_along_axis(block, where[..., None], -1)[..., 0]
            np.testing.assert_allclose(found.pattern[:, :, a, b], wanted, atol=1e-6)
    assert found.cell_labels == ("tokens 0-2", "tokens 3-5", "tokens 6-8")


def test_edits_are_seen() -> None:
    view = view_of("llama").using(edits=zero("pattern", layers=1, heads=2))
    found = attention(view, IDS)
    assert (found.pattern[1, 2] == 0).all() and (found.pattern[1, 1] != 0).any()


def test_tables_hold_every_query() -> None:
    found = attention(view_of("llama"), IDS, layers=1)
    table = found.tables()["attention"]
    assert {len(column) for column in table.values()} == {4 * 9}
    row = 2 * 9 + 5
    assert (table["head"][row], table["query"][row], table["layer"][row]) == (2, 5, 1)
    np.testing.assert_array_equal(table["weights"][row], found.pattern[0, 2, 5])
    assert found.manifest["study"] == "attention"


def test_what_does_not_exist_is_refused() -> None:
    view = view_of("llama")
    with pytest.raises(SiteError, match="layer 3 does not exist"):
        attention(view, IDS, layers=3)
    with pytest.raises(SiteError, match="not in the plan"):
        attention(view.using(plan="0-1"), IDS, layers=[2])
    with pytest.raises(ConfigError, match="layers is empty"):
        attention(view, IDS, layers=[])
    with pytest.raises(TokenError, match="2 were given"):
        attention(view, ids_of(2, 4))


def test_pooling_keeps_the_sign_and_the_place() -> None:
    values, places = strongest(np.array([[1.0, -3, 2, 2, 0.5]]), 2)
    np.testing.assert_array_equal(values, [[-3, 2, 0.5]])
    np.testing.assert_array_equal(places, [[1, 2, 4]])
    values, _ = strongest(np.array([[0.0, np.nan], [5.0, 1.0], [-7.0, 2.0]]), 2, axis=0)
    np.testing.assert_array_equal(values, [[5, np.nan], [-7, 2]])
    with pytest.raises(ValueError, match="at least 1"):
        strongest(np.zeros(3), 0)
