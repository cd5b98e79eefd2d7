"""The lens: its last row is the model's answer, and every number is what numpy says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.stacks import CAUSAL, KINDS, ids_of, view_of

import laminogram
from laminogram.errors import ConfigError, FamilyError, TokenError
from laminogram.probe.edits import scale, set_to, zero
from laminogram.studies import lens as module
from laminogram.studies.lens import lens

IDS = ids_of(1, 9)[0].tolist()
PLANS = ("0-2", "0, 2x(1), 2", "0, mean(1, 2)", "0-2, mean(0, 1 | 2)", "0.attn, 1, 2.ffn")


def probabilities(scores: np.ndarray) -> np.ndarray:
    wide = np.exp(scores.astype(np.float64) - scores.max(-1, keepdims=True))
    return wide / wide.sum(-1, keepdims=True)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_last_row_is_the_models_own_answer(kind: str, plan: str) -> None:
    view = view_of(kind).using(plan=plan)
    found = lens(view, IDS, top=50)
    own = probabilities(view.logits(IDS)[0].numpy())
    spread = np.zeros_like(own)
    np.put_along_axis(spread, found.top_ids[-1], found.top_probability[-1], -1)
    assert np.abs(spread - own).max() < 1e-5
    assert (found.kl[-1] == 0).all() and (found.rank[-1] == 1).all()
    assert (found.labels[-1] == "output") == plan.endswith(")")


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_what_the_looks_at_single_layers_say(kind: str) -> None:
    view = view_of(kind)
    found = lens(view, IDS, top=4)
    assert found.labels == ("embed", "0", "1", "2")
    for layer in range(3):
        look = view.show_topk_token(layer, IDS, K=4)
        np.testing.assert_array_equal(found.top_ids[layer + 1], look.ids[0])
        np.testing.assert_allclose(
            found.top_probability[layer + 1], look.probabilities[0], rtol=1e-5
        )


def test_every_number_again_in_numpy() -> None:
    view = view_of("llama")
    found = lens(view, IDS, top=3, follow=[7])
    gram = view.record(IDS, sites=["embed", "resid_post"])
    states = np.stack([gram["embed", -1][0], *(gram["resid_post", i][0] for i in range(3))])
    states = states.astype(np.float64)
    gain = view.stack.final_norm.weight.detach().double().numpy()
    table = view.stack.head.weight.detach().double().numpy()
    normed = states / np.sqrt((states**2).mean(-1, keepdims=True) + 1e-6) * gain
    p = probabilities(normed @ table.T)
    log_p = np.log(p)
    np.testing.assert_allclose(found.entropy, -(p * log_p).sum(-1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        found.kl, (p[-1] * (log_p[-1] - log_p)).sum(-1), rtol=1e-3, atol=1e-5
    )
    answers = p[-1].argmax(-1)
    np.testing.assert_array_equal(found.final_ids, answers)
    for t, answer in enumerate(answers):
        ranks = 1 + (p[:, t] > p[:, t, answer][:, None]).sum(-1)
        np.testing.assert_array_equal(found.rank[:, t], ranks)
        np.testing.assert_allclose(found.probability[:, t], p[:, t, answer], rtol=1e-3)
    for t, following in enumerate(IDS[1:]):
        np.testing.assert_allclose(found.next_probability[:, t], p[:, t, following], rtol=1e-3)
        np.testing.assert_array_equal(
            found.next_rank[:, t], 1 + (p[:, t] > p[:, t, following][:, None]).sum(-1)
        )
    ranks, share = found.trajectory(7, -2)
    np.testing.assert_allclose(share, p[:, -2, 7], rtol=1e-3)
    np.testing.assert_array_equal(ranks, 1 + (p[:, -2] > p[:, -2, 7][:, None]).sum(-1))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    view = view_of("rwkv4")
    whole = lens(view, IDS, top=5, follow=[3])
    monkeypatch.setattr(module, "_CHUNK", 100)  # two tokens at a time
    parts = lens(view, IDS, top=5, follow=[3])
    np.testing.assert_array_equal(parts.top_ids, whole.top_ids)
    np.testing.assert_allclose(parts.kl, whole.kl, atol=1e-5)
    np.testing.assert_array_equal(parts.chosen[3][0], whole.chosen[3][0])


@pytest.mark.parametrize("site", ["final", "logits", "resid_post", "embed"])
def test_edits_act_on_every_row_that_follows(site: str) -> None:
    view = view_of("llama").using(edits=scale(site, 0.5))
    found = lens(view, IDS, top=1)
    own = probabilities(view.logits(IDS)[0].numpy())
    np.testing.assert_allclose(found.top_probability[-1, :, 0], own.max(-1), rtol=1e-5)
    assert ("output" in found.labels) == (site in ("final", "logits"))


def test_half_precision_weights() -> None:
    view = view_of("rwkv7").using(precision="bf16")
    own = view.logits(IDS)[0].float().numpy()
    found = lens(view, IDS)
    np.testing.assert_allclose(
        found.top_probability[-1, :, 0], probabilities(own).max(-1), rtol=2e-2
    )
    assert (found.rank[-1] == 1).all()


def test_an_encoder_has_no_token_that_follows() -> None:
    found = lens(view_of("bert"), IDS)
    assert found.next_rank.shape == found.next_probability.shape == (4, 0)
    assert lens(view_of("llama"), IDS[:1]).next_rank.shape == (4, 0)


def test_a_trajectory_knows_the_answer_and_what_follows() -> None:
    found = lens(view_of("llama"), IDS)
    ranks, _ = found.trajectory(int(found.final_ids[2]), 2)
    np.testing.assert_array_equal(ranks, found.rank[:, 2])
    _, share = found.trajectory(IDS[3], 2)
    np.testing.assert_array_equal(share, found.next_probability[:, 2])
    other = next(i for i in range(50) if i not in (int(found.final_ids[-1]), *IDS))
    with pytest.raises(TokenError, match="follow="):
        found.trajectory(other, -1)
    with pytest.raises(TokenError, match="has 9 tokens"):
        found.trajectory(0, 9)


def test_tokens_and_candidates_that_read_the_same_are_told_apart() -> None:
    class Twins:
        prefix = ()

        def token_texts(self, ids: list[int]) -> list[str]:
            return [chr(97 + i // 2) for i in ids]

    from dataclasses import replace

    view = replace(view_of("llama"), tokenizer=Twins())  # type: ignore[arg-type]
    found = lens(view, torch.tensor([[2, 3, 4, 2]]), top=50)
    assert found.tokens == ("b", "b", "c", "b")
    assert found.token_labels == ("b [0]", "b [1]", "c", "b [3]")
    assert len(set(found.top_texts[0][0])) == 50
    assert "b #2" in found.top_texts[0][0]


def test_tables_hold_every_cell() -> None:
    found = lens(view_of("rwkv7"), IDS, top=2, follow=[1, 2])
    tables = found.tables()
    assert {len(column) for column in tables["lens"].values()} == {4 * 9}
    assert {len(column) for column in tables["lens-followed"].values()} == {2 * 4 * 9}
    table = tables["lens"]
    cell = 2 * 9 + 5  # row 2, token 5
    assert (table["row"][cell], table["label"][cell], table["token"][cell]) == (2, "1", 5)
    assert table["final_rank"][cell] == found.rank[2, 5]
    assert table["next_probability"][cell] == found.next_probability[2, 5]
    assert table["next_rank"][2 * 9 + 8] is None
    assert found.manifest["asked"] == {"top": 2, "follow": [1, 2]}
    assert found.manifest["tokens_hash"] and found.manifest["plan"] == "0-2"


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"top": 0}, ConfigError, "between 1 and the 50"),
        ({"follow": [50]}, TokenError, "0 to 49"),
        ({"follow": ["sea"]}, TokenError, "no tokenizer"),
    ],
)
def test_what_does_not_exist_is_refused(how: dict, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        lens(view_of("llama"), IDS, **how)


def test_texts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TokenError, match="2 were given"):
        lens(view_of("llama"), ids_of(2, 4))
    with pytest.raises(ConfigError, match="65 tokens"):
        lens(view_of("llama"), ids_of(1, 65))
    assert len(lens(view_of("rwkv4"), ids_of(1, 65)).tokens) == 65
    view = view_of("gpt_neox")
    object.__setattr__(view.config.head, "present", False)
    with pytest.raises(FamilyError, match="no language-model head"):
        lens(view, IDS)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-rwkv4"])
def test_a_bundled_model_follows_words(name: str) -> None:
    view = laminogram.load(name)
    found = lens(view, "The river ran down", follow=[" river"])
    (one,) = found.chosen
    assert found.chosen_texts[one] == " river" == found.tokens[1]
    assert found.trajectory(one, 0)[1].shape == (7,)
    with pytest.raises(TokenError, match="is not one token but"):
        lens(view, "The river ran down", follow=["antidisestablishmentarianism"])


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_zeroed_head_input_says_everything_alike(kind: str) -> None:
    view = view_of(kind).using(edits=zero("final"))
    found = lens(view, IDS, top=1)
    np.testing.assert_allclose(found.entropy[-1], np.log(50), rtol=1e-5)


def test_what_the_answer_rules_out_plays_no_part_and_the_reverse_is_infinite() -> None:
    view = view_of("llama")
    view.stack.head.register_parameter("bias", None)
    bias = torch.zeros(50)
    bias[5] = -torch.inf
    with torch.no_grad():
        view.stack.head.bias = torch.nn.Parameter(bias)
    found = lens(view, IDS, top=50)
    assert np.isfinite(found.entropy).all() and np.isfinite(found.kl).all()
    assert (found.top_ids[..., -1] == 5).all() and (found.top_probability[..., -1] == 0).all()
    edited = lens(view.using(edits=set_to("logits", 1.0, channels=[5])), IDS, top=1)
    assert np.isinf(edited.kl[:-1]).all() and (edited.kl[-1] == 0).all()


def test_in_a_row_that_is_not_a_number_every_token_stands_last() -> None:
    view = view_of("llama").using(edits=set_to("resid_post", float("nan"), layers=1))
    found = lens(view, IDS, top=1)
    assert (found.rank[-1] == 50).all() and (found.next_rank[-1] == 50).all()
    assert (found.next_rank[0] < 50).any()
