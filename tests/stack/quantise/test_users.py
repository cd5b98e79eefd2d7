"""What looks at the weights of a stack, where they are packed."""

from __future__ import annotations

import pytest
import torch
from tests.stacks import ids_of, relative, view_of

from laminogram.stack.quantise import packed_weights
from laminogram.studies.model_map import model_map
from laminogram.train.heads import add_score_head


@pytest.mark.parametrize("kind", ["llama", "latent", "rwkv5", "rwkv7"])
@pytest.mark.parametrize("name", ["int4", "w8a8", "fp16+int8", "bf16+w8a8"])
def test_what_heads_add_sums_to_what_the_product_gives(kind: str, name: str) -> None:
    view, ids = view_of(kind).using(precision=name), ids_of(2, 6)
    plain = view.record(ids, sites=["attn_out"]).tensor("attn_out", 0)
    both = view.record(ids, sites=["head_out", "attn_out"])
    bound = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 5e-2}[str(view.dtype)[6:]]
    assert relative(both.tensor("head_out", 0).float().sum(2), plain.float()) < bound
    assert relative(both.tensor("attn_out", 0).float(), plain.float()) < bound


def test_a_card_counts_entries_and_says_what_is_stored() -> None:
    for kind in ("moe", "llama"):
        view = view_of(kind)
        other = view.using(precision="int4")
        card, plain = other.card(), view.card()
        assert card.parameters == plain.parameters
        assert card.active_parameters == plain.active_parameters
        assert card.dtype == "fp32+int4-g128"
        stored = sum(one.numel() * one.element_size() for one in other.stack.parameters())
        assert card.bytes_by_precision["fp32+int4-g128"] == stored
        assert stored < plain.bytes_by_precision["float32"]
        assert "as fp32+int4-g128" in str(card)
        assert list(plain.bytes_by_precision) == ["float32", "bfloat16", "float16"]


def test_a_map_measures_the_weights_that_multiply() -> None:
    view = view_of("llama")
    found, plain = model_map(view.using(precision="int8")), model_map(view)
    for name in ("weight_rms_attn", "weight_rms_ffn", "parameters"):
        wanted = torch.as_tensor(plain.statistics[name])
        torch.testing.assert_close(
            torch.as_tensor(found.statistics[name]), wanted, rtol=1e-2, atol=0
        )
    assert (found.statistics["bytes"] < plain.statistics["bytes"] / 2).all()


def test_a_stack_with_a_head_more_shares_what_is_packed() -> None:
    view, ids = view_of("llama").using(precision="int8"), ids_of(2, 6)
    other = add_score_head(view, labels=2)
    own = dict(packed_weights(view.stack))
    assert dict(packed_weights(other.stack)) == own and len(own) == 21
    assert other.precision == "fp32+int8"
    assert torch.equal(other.embeddings(ids), view.embeddings(ids))
    assert other.scores(ids).shape == (2, 2)
