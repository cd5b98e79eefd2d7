"""Divergences: against their textbook formulas, exact at zero, and how they are laid out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import CAUSAL, ids_of, view_of
from torch import Tensor

from laminogram.errors import ConfigError, FamilyError, TokenError
from laminogram.evaluate import divergence as module
from laminogram.evaluate.divergence import (
    MEASURES,
    Estimate,
    compare,
    divergence,
    mean_of_documents,
)
from laminogram.evaluate.loss import loss
from laminogram.probe import edits


def textbook(p: Tensor, q: Tensor) -> Tensor:
    """sum p log(p / q) of probabilities (N, V)."""
    return (p * (p / q).log()).sum(-1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.sampled_from([1e-4, 0.1, 1.0, 8.0]))
def test_every_measure_is_its_formula(seed: int, vocabulary: int, apart: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    a = 3 * torch.randn(5, vocabulary, generator=generator, dtype=torch.float64)
    b = a + apart * torch.randn(5, vocabulary, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocabulary, (5,), generator=generator)
    p, q = a.softmax(-1), b.softmax(-1)
    found, middle = compare(a, b, targets), (p + q) / 2
    close = {"rtol": 1e-9, "atol": 1e-14}
    torch.testing.assert_close(found["kl"], textbook(p, q), **close)
    torch.testing.assert_close(found["kl_reverse"], textbook(q, p), **close)
    wanted = (textbook(p, middle) + textbook(q, middle)) / 2
    torch.testing.assert_close(found["jsd"], wanted, **close)
    torch.testing.assert_close(found["total_variation"], (p - q).abs().sum(-1) / 2, **close)
    assert torch.equal(found["agreement"], p.argmax(-1) == q.argmax(-1))
    order = q.argsort(-1, descending=True)
    ranks = [row.tolist().index(int(best)) for row, best in zip(order, p.argmax(-1), strict=True)]
    assert found["rank"].tolist() == ranks
    torch.testing.assert_close(found["loss"], -q[torch.arange(5), targets].log(), **close)
    torch.testing.assert_close(found["loss_reference"], -p[torch.arange(5), targets].log(), **close)
    for name in ("kl", "kl_reverse", "jsd", "total_variation"):
        assert (found[name] >= 0).all()
    assert (found["jsd"] <= math.log(2) + 1e-12).all()


def test_impossible_tokens() -> None:
    infinity = float("inf")
    one = torch.tensor([[0.0, -infinity, -infinity]], dtype=torch.float64)
    two = torch.tensor([[0.0, 0.0, -infinity]], dtype=torch.float64)
    far = torch.tensor([[-900.0, 0.0, -infinity]], dtype=torch.float64)
    target = torch.tensor([0])
    found = compare(one, two, target)
    assert float(found["kl"]) == pytest.approx(math.log(2))
    assert float(found["kl_reverse"]) == infinity
    assert float(found["jsd"]) == pytest.approx(
        (math.log(4 / 3) + math.log(2 / 3) / 2 + math.log(2) / 2) / 2
    )
    assert float(found["total_variation"]) == 0.5
    found = compare(one, far, target)
    assert float(found["kl"]) == pytest.approx(900)
    assert float(found["jsd"]) == pytest.approx(math.log(2))
    assert float(compare(two, two, target)["kl"]) == 0


@pytest.mark.parametrize("kind", CAUSAL)
def test_equal_views_are_exactly_equal(kind: str) -> None:
    view = view_of(kind)
    found = divergence(view, view.using(precision="fp32"), ids_of(3, 7), batch_size=2)
    for name in ("kl", "kl_reverse", "jsd", "total_variation", "rank"):
        assert not getattr(found, name).any()
    assert bool(found.agreement[found.mask].all())
    assert torch.equal(found.loss, found.loss_reference)
    ratio = found.estimate("log_ratio")
    assert ratio.value == ratio.low == ratio.high == 0


@pytest.mark.parametrize("chunk", [1, 50 * 3, 1 << 20])
@pytest.mark.parametrize("side", ["left", "right"])
def test_it_is_laid_out_as_a_loss_and_pads_count_nowhere(
    chunk: int, side: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    view = view_of("llama")
    other = view.using(precision="int8")
    rows = [ids_of(1, n, seed=n)[0] for n in (9, 4, 1, 6)]
    ids, mask = torch.zeros(4, 9, dtype=torch.long), torch.zeros(4, 9, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(9 - len(row), 9) if side == "left" else slice(0, len(row))
        ids[i, place], mask[i, place] = row, True
    batch = view.tokens(ids, mask=mask)
    found = divergence(view, other, batch, batch_size=3)
    expected = loss(view, batch)
    assert torch.equal(found.mask, expected.mask)
    assert found.tokens == 8 + 3 + 5
    torch.testing.assert_close(found.loss_reference.float(), expected.per_token)
    torch.testing.assert_close(found.loss.float(), loss(other, batch).per_token)
    for name in MEASURES:
        assert not getattr(found, name)[~found.mask].any()
    for i, row in enumerate(rows):
        if len(row) > 1:
            alone = divergence(view, other, row)
            torch.testing.assert_close(
                found.kl[i, found.mask[i]], alone.kl[0], rtol=1e-3, atol=1e-6
            )
    assert "agreement" in str(found) and "16 tokens" in str(found)


def test_edits_count_those_of_the_logits_too() -> None:
    view, ids = view_of("gpt_neox"), ids_of(3, 6)
    flat = view.using(edits=edits.zero("logits"))
    found = divergence(flat, view, ids, batch_size=2)
    torch.testing.assert_close(found.loss_reference, torch.full((3, 5), math.log(50)).double())
    cut = divergence(view, view.using(edits=edits.zero("ffn_out", layers=1)), ids)
    assert cut.estimate("kl").value > 0
    ragged = [ids[0].tolist(), ids[1, :3].tolist()]
    fifth = view.using(edits=edits.zero("ffn_out", layers=1, positions=4))
    assert divergence(view, fifth, ragged, batch_size=1).kl[1].sum() == 0  # it has no such position
    last = view.using(edits=edits.zero("ffn_out", layers=1, positions=-2))
    alone = divergence(view, last, ragged, batch_size=1).kl
    torch.testing.assert_close(alone, divergence(view, last, ragged).kl, rtol=1e-3, atol=1e-6)
    assert [row.count_nonzero() for row in alone] == [1, 1]


def test_intervals_resample_documents() -> None:
    view = view_of("llama")
    found = divergence(view, view.using(precision="int4"), ids_of(12, 6))
    one = found.estimate("kl", replicates=400)
    assert one.low < one.value < one.high
    assert one.value == pytest.approx(float(found.kl.mean()))
    assert found.estimate("kl", replicates=400) == one
    perplexity, mean = found.estimate("perplexity"), found.estimate("loss")
    assert perplexity.value == pytest.approx(math.exp(mean.value))
    assert perplexity.high == pytest.approx(math.exp(mean.high))
    table = found.table(replicates=100)
    assert table["measure"][0] == "kl" and len({len(column) for column in table.values()}) == 1
    assert table["max"][0] == float(found.kl.max())
    assert table["median"][0] == pytest.approx(np.median(found.kl.numpy()))
    alone = divergence(view, view.using(precision="int4"), ids_of(1, 6)).estimate("kl")
    assert math.isnan(alone.low) and math.isnan(alone.high)


def test_a_mean_of_documents_weighs_them_by_their_tokens() -> None:
    sums, counts = torch.tensor([6.0, 0.0, 10.0]), torch.tensor([3, 0, 1])
    assert mean_of_documents(sums, counts).value == 4
    # Documents are known by their numbers: a later part draws other weights.
    spread = torch.arange(20.0), torch.ones(20)
    assert mean_of_documents(*spread) != mean_of_documents(*spread, first_document=100)


def test_what_cannot_be_compared_is_refused() -> None:
    view = view_of("llama")
    with pytest.raises(FamilyError, match="masked tokens"):
        divergence(view_of("bert"), view_of("bert"), [1, 2])
    with pytest.raises(TokenError, match="no row has two tokens"):
        divergence(view, view, [[1], [2]])
    with pytest.raises(ConfigError, match="no measure 'kld'; there are kl, kl_reverse"):
        divergence(view, view, [1, 2, 3]).estimate("kld")


def test_the_manifest_names_both_views() -> None:
    view = view_of("llama")
    found = divergence(view, view.using(precision="bf16+int8"), ids_of(2, 4)).manifest
    assert found["precision"] == "bf16+int8"
    assert found["reference"]["precision"] == "float32"
    assert found["tokens_hash"] and found["quantised"]["weights"] == "packed"


def test_an_interval_is_shown_where_there_is_one() -> None:
    assert str(Estimate(2.5, 2.0, math.inf)) == "2.5 [2, inf]"
    assert str(Estimate(2.5, math.nan, math.nan)) == "2.5"
