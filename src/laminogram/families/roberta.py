"""RoBERTa (and XLM-RoBERTa): BERT's encoder with positions that begin after the pad's, and heads of
its own."""

from __future__ import annotations

from laminogram.families._encoder import configure_encoder, encoder_norm, encoder_rules, has
from laminogram.families._score import count_labels
from laminogram.families.base import Family, Fields, Layout, Rename, Shapes, named
from laminogram.stack.config import HeadConfig, ScoreConfig, StackConfig

_TYPES = ("Roberta", "XLMRoberta")
_WITH_HEAD = tuple(f"{name}ForMaskedLM" for name in _TYPES)
_WITH_SCORE = tuple(f"{name}ForSequenceClassification" for name in _TYPES)
_WITH_POOLER = tuple(f"{name}Model" for name in _TYPES)


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    pooler = has(fields, shapes, "pooler.dense.weight", *_WITH_POOLER)
    head = HeadConfig(present=False, pooler=pooler)
    nothing_said = shapes is None and not fields.raw("architectures")
    if has(fields, shapes, "lm_head.layer_norm.weight", *_WITH_HEAD) or nothing_said:
        head = HeadConfig(
            tied=fields.flag("tie_word_embeddings", True),
            bias=True,
            transform="gelu",  # whatever the layers' activation is
            norm=encoder_norm(fields),
            pooler=pooler,
        )
    score = None
    if has(fields, shapes, "classifier.out_proj.weight", *_WITH_SCORE):
        labels = count_labels(fields, shapes, "classifier.out_proj.weight")
        score = ScoreConfig(labels=labels, token="first", through="dense", bias=True)
    pad = fields.token("pad_token_id")
    offset = (1 if pad is None else pad) + 1
    return configure_encoder(fields, head=head, score=score, position_offset=offset)


def _layout(name: str, prefix: str) -> Layout:
    return Layout(
        name=name,
        marks=(f"{prefix}encoder.layer.{{i}}.attention.self.query.weight",),
        rules=(
            *encoder_rules(prefix),
            *named("lm_head.dense", "head.transform"),
            *named("lm_head.layer_norm", "head.norm"),
            Rename("lm_head.bias", "head.bias"),
            Rename("lm_head.decoder.weight", "head.weight"),
            *named("classifier.dense", "score.dense"),
            *named("classifier.out_proj", "score.out"),
        ),
        ignore=(f"{prefix}embeddings.position_ids",),
        duplicates=(
            ("lm_head.decoder.weight", f"{prefix}embeddings.word_embeddings.weight"),
            ("lm_head.decoder.bias", "lm_head.bias"),
        ),
    )


FAMILY = Family(
    name="roberta",
    summary="post-norm encoder, positions after the pad's, masked-LM head, pooler, classifier",
    model_types=("roberta", "xlm-roberta"),
    architectures=(*_WITH_HEAD, *_WITH_POOLER, *_WITH_SCORE),
    configure=_configure,
    layouts=(_layout("hf", "roberta."), _layout("hf-base", "")),
)
