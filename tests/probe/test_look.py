from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.infer.speaking import speaking_view
from tests.stacks import CAUSAL, KINDS, SIGNED, config_of, ids_of, view_of

from laminogram.errors import FamilyError, SiteError, TokenError
from laminogram.stack.config import HeadConfig
from laminogram.stack.stack import Stack
from laminogram.view import View


@pytest.mark.parametrize("kind", KINDS)
def test_cos_distance(kind: str) -> None:
    view, ids = view_of(kind), ids_of(2, 7)
    found = view.show_cos_distance(1, ids)
    gram = view.record(ids, sites=("resid_pre", "resid_post"), layers=1)
    pre, post = (torch.tensor(gram[name, 1]) for name in ("resid_pre", "resid_post"))
    wanted = F.cosine_similarity(pre, post, dim=-1)
    np.testing.assert_allclose(found.cosine, wanted, rtol=1e-5, atol=1e-6)
    assert found.mean == pytest.approx(float(wanted.mean()), rel=1e-5)
    np.testing.assert_allclose(found.distance, 1 - found.cosine)


def test_no_pad_counts() -> None:
    view = view_of("rwkv4")
    found = view.show_cos_distance(2, [[1, 2, 3, 4], [5]])
    assert found.mask.sum() == 5
    alone = view.show_cos_distance(2, [1, 2, 3, 4]), view.show_cos_distance(2, [5])
    assert found.mean == pytest.approx((4 * alone[0].mean + alone[1].mean) / 5, rel=1e-5)
    assert str(found).count("\n") == 1 + 4 + 2  # two row headings, five tokens
    assert "row 1" in str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_s_top_tokens_are_the_model_s(kind: str) -> None:
    view, ids = view_of(kind), ids_of(2, 7)
    likely = view.logits(ids).detach().softmax(-1).topk(4)
    found = view.show_topk_token(2, ids, K=4)
    np.testing.assert_array_equal(found.ids, likely.indices)
    np.testing.assert_allclose(found.probabilities, likely.values, rtol=1e-4, atol=1e-6)
    assert found.candidates[1][3][0] == str(int(likely.indices[1, 3, 0]))
    # Stopping earlier is running a plan that ends there.
    early = view.using(plan="0, 1").logits(ids).detach().argmax(-1)
    np.testing.assert_array_equal(view.show_topk_token(1, ids, K=1).ids[..., 0], early)


@pytest.mark.parametrize("kind", CAUSAL)
def test_attention_looks_back(kind: str) -> None:
    view, ids = view_of(kind), ids_of(1, 6)
    pattern = view.record(ids, sites="pattern", layers=1)["pattern", 1]
    found = view.show_attention(1, 1, -1, ids)
    assert (found.query, found.key) == (5, 1)
    np.testing.assert_allclose(found.weights, pattern[0, :, 5, 1], rtol=1e-5, atol=1e-7)
    assert found.reverse is None
    swapped = view.show_attention(1, -1, 1, ids)
    np.testing.assert_array_equal(swapped.weights, found.weights)
    assert ("effective attention" in str(found)) == kind.startswith("rwkv")
    assert ("not normalised" in str(found)) == (kind in SIGNED)


def test_an_encoder_attends_both_ways() -> None:
    view, ids = view_of("bert"), ids_of(1, 6)
    pattern = view.record(ids, sites="pattern", layers=0)["pattern", 0]
    found = view.show_attention(0, 4, 2, ids)
    np.testing.assert_allclose(found.weights, pattern[0, :, 4, 2], rtol=1e-5)
    assert found.reverse is not None
    np.testing.assert_allclose(found.reverse, pattern[0, :, 2, 4], rtol=1e-5)
    assert str(found).count("->") == 2


def test_tokens_are_found_by_text() -> None:
    view = speaking_view("llama")
    text = "see the sea"
    found = view.show_attention(0, " the", "a", text)
    assert (found.texts[found.key], found.texts[found.query]) == (" the", "a")
    assert view.show_attention(0, "the", "a", text).key == found.key
    with pytest.raises(TokenError, match=r"'e' occurs at positions 1, 2, 6: give one"):
        view.show_attention(0, "e", "a", text)
    with pytest.raises(TokenError, match=r"no token reads 'x'; the tokens are 0 's', 1 'e'"):
        view.show_attention(0, "x", "a", text)
    with pytest.raises(TokenError, match="position 8 does not exist: the text has 8 tokens"):
        view.show_attention(0, 8, "a", text)
    with pytest.raises(TokenError, match="2 were given"):
        view.show_attention(0, 0, 1, [text, text])


def test_what_does_not_exist_is_named() -> None:
    view = view_of("llama")
    with pytest.raises(SiteError, match="layer 3 does not exist"):
        view.show_cos_distance(3, [1, 2])
    with pytest.raises(SiteError, match="not in the plan"):
        view.using(plan="0, 2").show_topk_token(1, [1, 2])
    with pytest.raises(SiteError, match="K is 51"):
        view.show_topk_token(1, [1, 2], K=51)
    config = config_of("llama")
    headless = Stack(config.__class__(**{**vars(config), "head": HeadConfig(present=False)}))
    with pytest.raises(FamilyError, match="no language-model head"):
        View(headless, None, "x", headless.full_plan()).show_topk_token(0, [1])


def test_a_layer_that_runs_twice_shows_its_last_step() -> None:
    view = view_of("llama").using(plan="0, 1, 1, 2")
    found = view.show_cos_distance(1, [1, 2, 3])
    assert found.step == 2


def test_values_print_in_a_notebook_and_are_cut_where_long() -> None:
    view = view_of("rwkv7")
    found = view.show_topk_token(0, ids_of(1, 60), K=2)
    assert "... and 20 tokens more" in str(found)
    page = found._repr_html_()
    assert page.startswith("<pre>layer 0")
    assert "&#x27;" in page
