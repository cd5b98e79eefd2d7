"""BERT: a post-norm encoder with learned positions and token types; masked-LM head, pooler and
classifier where the checkpoint has them."""

from __future__ import annotations

from laminogram.families._encoder import configure_encoder, encoder_norm, encoder_rules, has
from laminogram.families._score import count_labels
from laminogram.families.base import Family, Fields, Layout, Rename, Shapes, named
from laminogram.stack.config import HeadConfig, ScoreConfig, StackConfig

_CLASSIFIER, _PREDICTIONS = "classifier", "cls.predictions"
_WITH_HEAD = ("BertForMaskedLM", "BertForPreTraining")
_WITH_SCORE = ("BertForSequenceClassification",)
_WITH_POOLER = ("BertModel", "BertForPreTraining", *_WITH_SCORE)


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    pooler = has(fields, shapes, "pooler.dense.weight", *_WITH_POOLER)
    head = HeadConfig(present=False, pooler=pooler)
    if has(fields, shapes, f"{_PREDICTIONS}.bias", *_WITH_HEAD) or _nothing_said(fields, shapes):
        head = HeadConfig(
            tied=fields.flag("tie_word_embeddings", True),
            bias=True,
            transform=fields.activation("hidden_act", "gelu"),
            norm=encoder_norm(fields),
            pooler=pooler,
        )
    score = None
    if pooler and has(fields, shapes, f"{_CLASSIFIER}.weight", *_WITH_SCORE):
        labels = count_labels(fields, shapes, f"{_CLASSIFIER}.weight")
        score = ScoreConfig(labels=labels, token="first", through="pooler", bias=True)
    return configure_encoder(fields, head=head, score=score)


def _nothing_said(fields: Fields, shapes: Shapes | None) -> bool:
    """Neither tensors nor a class's name: then it is a masked language model."""
    return shapes is None and not fields.raw("architectures")


def _layout(name: str, prefix: str) -> Layout:
    return Layout(
        name=name,
        marks=(f"{prefix}encoder.layer.{{i}}.attention.self.query.weight",),
        rules=(
            *encoder_rules(prefix),
            *named(f"{_PREDICTIONS}.transform.dense", "head.transform"),
            *named(f"{_PREDICTIONS}.transform.LayerNorm", "head.norm"),
            Rename(f"{_PREDICTIONS}.bias", "head.bias"),
            Rename(f"{_PREDICTIONS}.decoder.weight", "head.weight"),
            *named(_CLASSIFIER, "score.out"),
        ),
        # The next-sentence classifier belongs to pre-training; nothing here computes it.
        ignore=(f"{prefix}embeddings.position_ids", "cls.seq_relationship.*"),
        duplicates=(
            (f"{_PREDICTIONS}.decoder.weight", f"{prefix}embeddings.word_embeddings.weight"),
            (f"{_PREDICTIONS}.decoder.bias", f"{_PREDICTIONS}.bias"),
        ),
        aliases=((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")),
    )


FAMILY = Family(
    name="bert",
    summary="post-norm encoder, learned positions, token types, masked-LM head, pooler, classifier",
    model_types=("bert",),
    architectures=(*_WITH_HEAD, *_WITH_POOLER),
    configure=_configure,
    harmless=(
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ),
    layouts=(_layout("hf", "bert."), _layout("hf-base", "")),
)
