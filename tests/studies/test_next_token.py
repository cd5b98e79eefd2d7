"""The next token: losses are the view's, candidates what the logits say."""

from __future__ import annotations

import numpy as np
import pytest
from tests.stacks import CAUSAL, ids_of, view_of

import laminogram
from laminogram.errors import ConfigError, FamilyError, TokenError
from laminogram.probe.edits import scale
from laminogram.studies.next_token import next_token

IDS = ids_of(1, 9)[0].tolist()


def softmax(scores: np.ndarray) -> np.ndarray:
    wide = np.exp(scores.astype(np.float64) - scores.max())
    return wide / wide.sum()


@pytest.mark.parametrize("plan", ["0-2", "0, 2x(1), mean(0, 2)", "0.attn, 1, 2.ffn"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_losses_and_candidates(kind: str, plan: str) -> None:
    view = view_of(kind).using(plan=plan)
    found = next_token(view, IDS, top=7)
    np.testing.assert_allclose(found.loss, view.loss(IDS).per_token[0].numpy(), atol=1e-6)
    scores = view.logits(IDS)[0].numpy()
    by_hand = [-np.log(softmax(scores[t])[IDS[t + 1]]) for t in range(8)]
    np.testing.assert_allclose(found.loss, by_hand, rtol=1e-4)
    p = softmax(scores[-1])
    order = np.argsort(-p)[:7]
    np.testing.assert_array_equal(found.ids, order)
    np.testing.assert_allclose(found.probability, p[order], rtol=1e-4)
    assert found.entropy == pytest.approx(-(p * np.log(p)).sum(), rel=1e-4)
    assert found.texts == tuple(map(str, order))


def test_temperature_is_of_the_candidates_alone() -> None:
    view = view_of("rwkv7")
    cold, warm = (next_token(view, IDS, temperature=t) for t in (0.5, 2))
    np.testing.assert_array_equal(cold.loss, warm.loss)
    scores = view.logits(IDS)[0, -1].numpy()
    for found, t in ((cold, 0.5), (warm, 2)):
        p = softmax(scores / t)
        np.testing.assert_allclose(found.probability, np.sort(p)[::-1][:20], rtol=1e-4)
    assert cold.entropy < warm.entropy


def test_edits_act() -> None:
    view = view_of("llama").using(edits=scale("logits", 0.0))
    found = next_token(view, IDS)
    np.testing.assert_allclose(found.loss, np.log(50), rtol=1e-5)
    np.testing.assert_allclose(found.probability, 1 / 50, rtol=1e-5)


def test_one_token_has_no_loss() -> None:
    found = next_token(view_of("rwkv4"), IDS[:1], top=500)
    assert found.loss.shape == (0,) and len(found.ids) == 50
    assert found.probability.sum() == pytest.approx(1, abs=1e-5)


def test_tables() -> None:
    found = next_token(view_of("llama"), IDS)
    tables = found.tables()
    assert {len(column) for column in tables["loss"].values()} == {9}
    assert np.isnan(tables["loss"]["loss_nats"][0])
    np.testing.assert_array_equal(tables["loss"]["loss_nats"][1:], found.loss)
    assert {len(column) for column in tables["next"].values()} == {20}


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-rwkv4"])
def test_bundled_models(name: str) -> None:
    view = laminogram.load(name)
    found = next_token(view, "The river ran down to the sea")
    assert "".join(found.tokens).strip() == "The river ran down to the sea"
    assert found.loss.mean() == pytest.approx(
        view.loss("The river ran down to the sea").mean, rel=1e-5
    )


def test_what_does_not_exist_is_refused() -> None:
    with pytest.raises(FamilyError, match="encoder"):
        next_token(view_of("bert"), IDS)
    view = view_of("llama")
    with pytest.raises(ConfigError, match="at least 1"):
        next_token(view, IDS, top=0)
    for temperature in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="above 0"):
            next_token(view, IDS, temperature=temperature)
    with pytest.raises(TokenError, match="2 were given"):
        next_token(view, ids_of(2, 4))
