"""Reward heads and classifiers on a decoder: one product on the last real token, any family.

The name `score.weight` is that of transformers' `...ForSequenceClassification`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from laminogram.families._fields import Fields
from laminogram.families._rules import Rename, Rule
from laminogram.stack.config import ScoreConfig, StackConfig

_WEIGHT = "score.weight"
RULES: tuple[Rule, ...] = (Rename(_WEIGHT, "score.out.weight"),)
CLASS_ENDING = "ForSequenceClassification"


def with_score(
    config: StackConfig, fields: Fields, shapes: Mapping[str, tuple[int, ...]] | None
) -> StackConfig:
    """The configuration with a score in place of its language-model head, where the checkpoint has
    one; an encoder's family reads its classifier itself."""
    if config.score is not None or not config.causal or not _is_scored(fields, shapes):
        return config
    labels = count_labels(fields, shapes, _WEIGHT)
    head = replace(config.head, present=False, tied=False)
    return replace(config, head=head, score=ScoreConfig(labels=labels))


def count_labels(fields: Fields, shapes: Mapping[str, tuple[int, ...]] | None, weight: str) -> int:
    """How many labels a classifier has: by its weight, else by its names for them."""
    if shapes is not None and weight in shapes:
        return shapes[weight][0]
    names = fields.raw("id2label", {})
    if not isinstance(names, Mapping):
        fields.refuse("id2label", names, "an object: the name of each label")
    return fields.integer("num_labels", len(names) or 2)


def _is_scored(fields: Fields, shapes: Mapping[str, tuple[int, ...]] | None) -> bool:
    if shapes is not None:
        return _WEIGHT in shapes
    return any(name.endswith(CLASS_ENDING) for name in fields.listed("architectures"))
