"""A score head and a longer vocabulary: what changes, what stays, and what transformers opens."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.stacks import CAUSAL, ids_of, view_of

import laminogram
from laminogram.checkpoint.write import export
from laminogram.errors import ConfigError, FamilyError
from laminogram.evaluate.score import scores
from laminogram.stack.rebuild import rebuild
from laminogram.train import add_score_head, extend_vocabulary


@pytest.mark.parametrize("kind", CAUSAL)
def test_the_score_is_the_last_real_token(kind: str) -> None:
    """Under either padding, in any batch; and it is the head's product with what enters it."""
    view = add_score_head(view_of(kind), labels=2)
    ids = ids_of(3, 9)
    alone = torch.cat([view.scores(ids[row : row + 1, : 9 - 2 * row]) for row in range(3)])
    left, right = torch.zeros_like(ids), torch.zeros_like(ids)
    for row in range(3):
        length = 9 - 2 * row
        left[row, -length:], right[row, :length] = ids[row, :length], ids[row, :length]
    place = torch.arange(9)
    lengths = torch.tensor([9, 7, 5])[:, None]
    for padded, mask in ((left, place >= 9 - lengths), (right, place < lengths)):
        assert torch.allclose(view.scores(padded, mask=mask), alone, atol=1e-5, rtol=1e-4)
    final = torch.from_numpy(view.record(ids, sites=["final"])["final"].copy()).reshape(3, 9, -1)
    want = final[:, -1] @ view.stack.score.out.weight.t()
    assert torch.allclose(view.scores(ids), want, atol=1e-5, rtol=1e-4)


def test_layers_are_shared_and_learn() -> None:
    before = view_of("llama")
    view = add_score_head(before)
    assert view.stack.layer(0).attn.q.weight is before.stack.layer(0).attn.q.weight
    scores(view, ids_of(2, 5)).sum().backward()
    assert view.stack.score.out.weight.grad.abs().sum() > 0
    assert view.stack.embed.tokens.weight.grad.abs().sum() > 0
    assert before.config.head.present


def test_a_score_has_no_logits() -> None:
    view = add_score_head(view_of("llama"))
    with pytest.raises(FamilyError):
        view.loss(ids_of(1, 5))
    with pytest.raises(ConfigError, match="already"):
        add_score_head(view)
    with pytest.raises(ConfigError, match="encoder"):
        add_score_head(view_of("bert"))
    with pytest.raises(ConfigError, match="labels is 0"):
        add_score_head(view_of("llama"), 0)


def test_transformers_opens_the_reward_model(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    view = add_score_head(laminogram.load("tiny-llama", dtype="fp32"), labels=1, std=0.5)
    folder = export(view.stack, view.config, tmp_path / "reward")
    theirs = AutoModelForSequenceClassification.from_pretrained(folder)
    ids = view.tokens("The river ran down to the sea.").tokens
    with torch.no_grad():
        want = theirs(ids).logits
    assert torch.allclose(view.scores(ids), want, atol=1e-4, rtol=1e-4)
    assert torch.equal(laminogram.load(folder).scores(ids), view.scores(ids))


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-rwkv4"])
def test_new_tokens(name: str) -> None:
    """Old texts keep their ids and logits to the bit; new rows are the mean of the old ones."""
    before = laminogram.load(name, dtype="fp32")
    view = extend_vocabulary(before, ["<think>", "</think>"])
    known = before.tokenizer.vocab_size
    text = "The river ran down to the sea."
    assert view.tokenizer.encode(text) == before.tokenizer.encode(text)
    ids = view.tokenizer.encode("<think>So it was.</think>", bos=False)
    assert (ids[0], ids[-1]) == (known, known + 1)
    assert view.tokenizer.decode(ids) == "<think>So it was.</think>"
    old = before.config.vocab_size
    assert view.config.vocab_size == max(old, known + 2)
    table = view.stack.embed.tokens.weight
    assert torch.allclose(table[known], before.stack.embed.tokens.weight[:known].mean(0), atol=1e-6)
    assert torch.equal(view.logits(text)[..., :known], before.logits(text)[..., :known])
    assert view.stack.layer(1) is not before.stack.layer(1)
    assert view.stack.layer(1).ffn.up.weight is before.stack.layer(1).ffn.up.weight


def test_rows_come_in_multiples() -> None:
    """Also where the model has more of them than its tokenizer needs."""
    before = extend_vocabulary(laminogram.load("tiny-llama"), ["<a>"], multiple=61)
    assert before.config.vocab_size % 64
    after = extend_vocabulary(before, ["<b>"], multiple=64)
    assert after.config.vocab_size == -(-before.config.vocab_size // 64) * 64


@pytest.mark.parametrize("named", ["TinyForCausalLM", "TinyLMHeadModel"])
def test_a_configuration_alone_says_that_there_is_a_score(named: str) -> None:
    view = view_of("llama")
    config = replace(view.config, source={**view.config.source, "architectures": [named]})
    source = add_score_head(replace(view, stack=rebuild(view.stack, config, {})), 3).config.source
    assert source["architectures"] == ["TinyForSequenceClassification"]
    assert len(source["id2label"]) == 3


def test_a_longer_vocabulary_is_saved(tmp_path: Path) -> None:
    view = extend_vocabulary(laminogram.load("tiny-llama"), ["<tool>"], multiple=64)
    assert view.config.vocab_size % 64 == 0
    folder = export(view.stack, view.config, tmp_path / "longer")
    view.tokenizer.save(folder)
    again = laminogram.load(folder)
    assert again.tokenizer.encode("a <tool> b") == view.tokenizer.encode("a <tool> b")
    assert torch.equal(again.logits("a <tool> b"), view.logits("a <tool> b"))


def test_what_cannot_be_added_is_refused() -> None:
    with pytest.raises(ConfigError, match="no tokenizer"):
        extend_vocabulary(view_of("llama"), ["<a>"])
    view = laminogram.load("tiny-llama")
    with pytest.raises(laminogram.errors.LaminogramError):
        extend_vocabulary(view, ["<a>", "<a>"])
