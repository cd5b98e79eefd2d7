from __future__ import annotations

import numpy as np
import pytest
from tests.stacks import ids_of, view_of

from laminogram.errors import ConfigError, SiteError
from laminogram.probe import edits
from laminogram.probe.measuring import measure

ROWS = [ids_of(1, n, seed=n)[0].tolist() for n in (3, 9, 1, 6, 5)]
STATISTICS = ("moments", "thresholds", "histogram", "topk", "tokens")


def test_parts_of_a_corpus_merge_into_the_whole() -> None:
    view = view_of("rwkv4")
    whole = view.measure(ROWS, STATISTICS, sites=["ffn_out", "resid_post"], batch_size=2)
    parts = [
        view.measure(rows, STATISTICS, ["ffn_out", "resid_post"], first_document=first)
        for first, rows in ((0, ROWS[:2]), (2, ROWS[2:]))
    ]
    merged = parts[1].merge(parts[0])
    assert set(merged) == set(whole)
    for key in whole:
        ours, wanted = merged[key].result(), whole[key].result()
        for name, value in wanted.items():
            # Batches differ, and with them the last bits of the activations themselves.
            np.testing.assert_allclose(ours[name], value, rtol=1e-3, atol=1e-5, err_msg=str(key))


def test_the_text_that_drives_a_channel_is_found() -> None:
    view = view_of("llama")
    measured = view.measure(ROWS, "topk", sites="ffn_act", first_document=100)
    top = measured["topk", "ffn_act", 1].result()
    document, position, channel = (int(top[key][0]) for key in ("document", "position", "channel"))
    row = ROWS[document - 100]
    gram = view.record(row, sites="ffn_act", layers=1)
    values = gram["ffn_act", 1][0]
    assert values[position, channel] == pytest.approx(top["value"][0], rel=1e-4)
    assert np.abs(values).max() == pytest.approx(abs(top["value"][0]), rel=1e-4)


def test_tables_name_the_layers_and_other_plans_do_not_merge() -> None:
    view = view_of("llama").using(plan="2, 0, 0.attn")
    measured = view.measure(ROWS, sites="attn_out", progress=False)
    assert measured.table("moments", "attn_out")["layer"].tolist() == [2, 0, 0]
    other = view_of("llama").measure(ROWS, sites="attn_out")
    with pytest.raises(ConfigError, match="different plans"):
        measured.merge(other)


def test_what_was_taken_under_other_conditions_does_not_merge() -> None:
    view, other = view_of("llama"), view_of("llama")
    other.stack.layer(1).ffn.down.weight.data.mul_(1.01)
    measured = view.measure(ROWS, sites="ffn_out")
    for odd, name in (
        (view.using(edits=[edits.zero("ffn_out", layers=0)]), "edits"),
        (view.using(precision="fp16"), "precision"),
        (other, "weights_hash"),
    ):
        with pytest.raises(ConfigError, match=f"differ in {name}"):
            measured.merge(odd.measure(ROWS, sites="ffn_out"))
    twice = measured.merge(view.measure(ROWS[:2], sites="ffn_out"))
    with pytest.raises(ConfigError, match="differ in edits"):
        twice.merge(view.using(edits=[edits.zero("ffn_out")]).measure(ROWS, sites="ffn_out"))
    late = view_of("rwkv7").using(plan="1-2")
    sides = [
        late.using(v_first=way).measure(ROWS, sites="v") for way in ("embedding", "first-step")
    ]
    with pytest.raises(ConfigError, match="differ in v_first"):
        sides[0].merge(sides[1])


def test_sites_may_want_different_statistics() -> None:
    wanted = {"ffn_out": ["moments"], "pattern": ["sinks"], "resid_post": ["histogram"]}
    measured = measure(view_of("gpt_neox"), ROWS, wanted, layers=1, progress=False)
    expected = [("histogram", "resid_post", 1), ("moments", "ffn_out", 1), ("sinks", "pattern", 1)]
    assert list(measured) == expected


def test_a_pattern_is_read_query_by_query() -> None:
    view = view_of("llama")
    measured = view.measure(ROWS, "sinks", sites="pattern", batch_size=3)["sinks", "pattern", 1]
    importance = measured.result()["importance"]
    assert importance.shape == (5, 4, 4)
    for row, ids in enumerate(ROWS):
        pattern = view.record(ids, sites="pattern", layers=1)["pattern", 1][0]
        np.testing.assert_allclose(importance[row, :, 0], pattern[:, :, 0].mean(1), rtol=1e-4)
    with pytest.raises(SiteError, match="no channels for 'moments'"):
        view.measure(ROWS, "moments", sites="pattern")
    with pytest.raises(SiteError, match="reads the site 'pattern' alone"):
        view.measure(ROWS, "sinks", sites="ffn_out")
