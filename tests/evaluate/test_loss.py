from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from tests.infer.speaking import speaking_view
from tests.stacks import CAUSAL, ids_of, view_of

from laminogram.errors import FamilyError, TokenError
from laminogram.evaluate import loss as module
from laminogram.evaluate.loss import loss
from laminogram.probe import edits


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("chunk", [1, 7 * 50, 2**24])
def test_equals_cross_entropy_of_the_logits(
    kind: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    view, ids = view_of(kind), ids_of(3, 11)
    wanted = F.cross_entropy(view.logits(ids)[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    found = loss(view, ids)
    torch.testing.assert_close(found.per_token, wanted.detach(), rtol=1e-5, atol=1e-5)
    assert found.tokens == 30
    assert found.mean == pytest.approx(float(wanted.detach().mean()), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(found.mean))
    assert found.bits_per_byte is None
    assert "nats a token over 30 tokens" in str(found)


@pytest.mark.parametrize("kind", ["gpt_neox", "rwkv7"])
@pytest.mark.parametrize("side", ["left", "right", "both"])
@pytest.mark.parametrize("width", [9, 12])
def test_pads_count_nowhere(kind: str, side: str, width: int) -> None:
    view = view_of(kind)
    rows = [ids_of(1, n, seed=n)[0] for n in (9, 4, 1, 6)]
    ids, mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.bool)
    for i, row in enumerate(rows):
        pads = width - len(row)
        first = {"left": pads, "right": 0, "both": pads // 2}[side]
        place = slice(first, first + len(row))
        ids[i, place], mask[i, place] = row, True
    found = loss(view, view.tokens(ids, mask=mask))
    assert found.per_token.shape == found.mask.shape == (4, width - 1)
    assert found.mask.sum(1).tolist() == [8, 3, 0, 5]
    assert (found.per_token[~found.mask] == 0).all()
    for i, row in enumerate(rows):
        if len(row) > 1:
            alone = loss(view, row).per_token[0]
            torch.testing.assert_close(
                found.per_token[i, found.mask[i]], alone, rtol=1e-5, atol=1e-5
            )
    total = sum(loss(view, row).nats for row in rows if len(row) > 1)
    assert found.mean == pytest.approx(total / 16, rel=1e-5)


def test_edits_count_those_of_the_logits_too() -> None:
    view, ids = view_of("llama"), ids_of(2, 6)
    flat = view.using(edits=edits.zero("logits"))
    assert loss(flat, ids).mean == pytest.approx(math.log(50))
    assert loss(view.using(edits=edits.zero("ffn_out")), ids).mean != loss(view, ids).mean


def test_bits_per_byte_count_the_bytes_that_were_predicted() -> None:
    view = speaking_view("llama")
    found = loss(view, ["the sea – grey", "the"])
    # The first token of each row is given: `t`.
    assert found.text_bytes == len("he sea – grey".encode()) + len("he")
    assert found.bits_per_byte == pytest.approx(found.nats / math.log(2) / found.text_bytes)
    assert view.tokenizer is not None
    broken = view.tokenizer.encode("the –")[:-1]
    assert loss(view, broken).bits_per_byte is None


def test_what_has_no_loss_is_refused() -> None:
    with pytest.raises(FamilyError, match="masked tokens"):
        loss(view_of("bert"), [1, 2, 3])
    with pytest.raises(TokenError, match="no row has two tokens"):
        loss(view_of("llama"), [[1], [2]])


def test_fp16_and_fp64() -> None:
    view, ids = view_of("llama"), ids_of(2, 8)
    wide = view.using(precision=torch.float64)
    assert loss(wide, ids).per_token.dtype == torch.float64
    narrow = loss(view.using(precision="fp16"), ids)
    assert narrow.per_token.dtype == torch.float32
    assert narrow.mean == pytest.approx(loss(wide, ids).mean, rel=2e-2)
