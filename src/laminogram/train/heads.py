"""What post-training changes at the ends of a model: a score head, a longer vocabulary.

Both give a new view and leave the old one as it is; the layers are shared between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.stack.config import ScoreConfig, StackConfig
from laminogram.stack.rebuild import rebuild
from laminogram.stack.stack import Stack
from laminogram.view import View

_VOCABULARIES = ("vocab_size", "padded_vocab_size")
_TABLES = ("embed.tokens.weight", "head.weight", "head.bias")


def add_score_head(view: View, labels: int = 1, *, seed: int = 0, std: float = 0.02) -> View:
    """The model with `labels` numbers for each text in place of logits: a reward model for 1.

    The head is one product on each text's last real token, drawn from a normal distribution of
    standard deviation `std`. It is saved as transformers' `...ForSequenceClassification` names it.
    ConfigError for an encoder (it has a classifier of its own) and where there is a head already.
    """
    config = view.config
    if not config.causal:
        raise ConfigError(f"{view.name} is an encoder; a score reads the last token of a decoder")
    if config.score is not None:
        raise ConfigError(f"{view.name} has a score head of {config.score.labels} labels already")
    if labels < 1:
        raise ConfigError(f"labels is {labels}; it must be at least 1")
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(labels, config.hidden_size, generator=generator) * std
    head = replace(config.head, present=False, tied=False)
    source = _classifier_source(config.source, labels)
    config = replace(config, head=head, score=ScoreConfig(labels=labels), source=source)
    stack = view.stack
    made = rebuild(stack, config, {"score.out.weight": weight.to(stack.head_device, stack.dtype)})
    return replace(view, stack=made, name=f"{view.name}-score")


def extend_vocabulary(
    view: View, tokens: Sequence[str], *, multiple: int = 1, name: str | None = None
) -> View:
    """The model with more tokens, their rows the mean of those that the tokenizer had.

    Embedding and head get a row for each new token; the tokenizer is kept in step, so that each of
    `tokens` becomes one id. multiple: the number of rows is rounded up to a multiple of it. Rows
    that the model had beyond its tokenizer's ids are used first. ConfigError without a tokenizer,
    for a token that exists, and for tokens named twice.
    """
    if view.tokenizer is None:
        raise ConfigError(f"{view.name} has no tokenizer to add tokens to")
    if multiple < 1:
        raise ConfigError(f"multiple is {multiple}; it must be at least 1")
    known = view.tokenizer.vocab_size
    tokenizer = view.tokenizer.with_added(tokens)
    rows = -(-max(view.config.vocab_size, tokenizer.vocab_size) // multiple) * multiple
    config = replace(view.config, vocab_size=rows, source=_longer(view.config, rows))
    parameters = dict(view.stack.named_parameters())
    grown = {
        path: _grown(parameters[path].detach(), known, tokenizer.vocab_size, rows)
        for path in _TABLES
        if path in parameters
    }
    made: Stack = rebuild(view.stack, config, grown)
    return replace(view, stack=made, tokenizer=tokenizer, name=name or view.name)


def _grown(table: Tensor, known: int, wanted: int, rows: int) -> Tensor:
    """A table (V, ...) with rows from `known` to `wanted` at the mean of those before; rows beyond
    the old ones get the mean too."""
    mean = table[:known].double().mean(0)
    out = table.new_empty(rows, *table.shape[1:])
    out[: table.shape[0]] = table
    out[table.shape[0] :] = mean
    out[known:wanted] = mean
    return out


def _longer(config: StackConfig, rows: int) -> Mapping[str, Any]:
    named = [key for key in _VOCABULARIES if key in config.source] or [_VOCABULARIES[0]]
    return {**config.source, **dict.fromkeys(named, rows)}


def _classifier_source(source: Mapping[str, Any], labels: int) -> Mapping[str, Any]:
    """The configuration under which transformers opens the same weights as a classifier."""
    named = [str(one) for one in source.get("architectures") or []]
    classes = [
        re.sub("(ForCausalLM|LMHeadModel)$", "ForSequenceClassification", one) for one in named
    ]
    ids = {str(label): f"LABEL_{label}" for label in range(labels)}
    back = {text: int(label) for label, text in ids.items()}
    kept = {key: value for key, value in source.items() if key != "num_labels"}
    return {**kept, "architectures": classes, "id2label": ids, "label2id": back}
