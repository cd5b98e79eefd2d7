"""Looking into one layer: small questions, answered by values that print well.

    print(stack.show_topk_token(3, "The river ran"))

Every answer holds its arrays; rows are left-aligned, and what stands at pads has no meaning (`mask`
says where). Where a plan runs the layer more than once, its last step is meant.

Axes: B rows, T tokens, C channels, H heads, S key positions, K candidates, V vocabulary.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.errors import FamilyError, SiteError, TokenError
from laminogram.probe.program import steps_of
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.sites import MATRIX

_LINES = 40
"""Tokens that are printed at most."""


class _Printed:
    """A value that is shown as text: in a terminal as it is, in a notebook in a fixed width."""

    def _lines(self) -> list[str]:
        raise TypeError(f"{type(self).__name__} does not say how it prints")

    def __str__(self) -> str:
        return "\n".join(self._lines())

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


@dataclass(frozen=True, eq=False, repr=False)
class CosDistance(_Printed):
    """How far a layer turns the hidden state.

    cosine: (B, T), of the residual entering and leaving the layer; mask: (B, T) real tokens;
    texts: each token's text, or its id.
    """

    layer: int
    step: int
    cosine: np.ndarray
    mask: np.ndarray
    texts: list[list[str]]

    @property
    def mean(self) -> float:
        """The cosine averaged over real tokens."""
        return float(self.cosine[self.mask].mean())

    @property
    def distance(self) -> np.ndarray:
        """1 - cosine, (B, T)."""
        return 1 - self.cosine

    def _lines(self) -> list[str]:
        title = f"layer {self.layer}: cosine of input and output, mean {self.mean:.4f}"
        return [title, *_by_token(self.texts, lambda row, t: f"{self.cosine[row, t]:+.4f}")]


@dataclass(frozen=True, eq=False, repr=False)
class TopTokens(_Printed):
    """What a model would say next if it stopped at a layer.

    ids, probabilities: (B, T, K), likeliest first, after every token; candidates: their texts;
    mask: (B, T) real tokens; texts: each token's text, or its id.
    """

    layer: int
    step: int
    ids: np.ndarray
    probabilities: np.ndarray
    candidates: list[list[list[str]]]
    mask: np.ndarray
    texts: list[list[str]]

    def _lines(self) -> list[str]:
        def line(row: int, t: int) -> str:
            pairs = zip(self.candidates[row][t], self.probabilities[row, t], strict=True)
            return "  ".join(f"{_shown(text)} {p:.1%}" for text, p in pairs)

        title = f"layer {self.layer}: what the model would say if it stopped here"
        return [title, *_by_token(self.texts, line)]


@dataclass(frozen=True, eq=False, repr=False)
class AttentionBetween(_Printed):
    """The attention between two tokens of one row, head by head.

    weights: (H,), how much the token at `query` attends to the one at `key`; reverse: (H,) the
    other way round, None where the model cannot look ahead; meaning: what a weight is here.
    """

    layer: int
    step: int
    query: int
    key: int
    weights: np.ndarray
    reverse: np.ndarray | None
    meaning: str
    texts: list[str]

    @property
    def mean(self) -> float:
        """The weight averaged over heads."""
        return float(self.weights.mean())

    def _lines(self) -> list[str]:
        def line(query: int, key: int, weights: np.ndarray) -> list[str]:
            names = f"{_shown(self.texts[query])} [{query}] -> {_shown(self.texts[key])} [{key}]"
            heads = "  ".join(f"{i}: {weight:+.4f}" for i, weight in enumerate(weights))
            return [f"{names}, mean {weights.mean():+.4f}", f"  {heads}"]

        found = [f"layer {self.layer}: {self.meaning}", *line(self.query, self.key, self.weights)]
        if self.reverse is not None:
            found += line(self.key, self.query, self.reverse)
        return found


def show_cos_distance(view: Subject, text: Text, layer: int) -> CosDistance:
    """Cosine between a layer's input and output hidden states, per token and on average.

    SiteError for a layer that is not in the view's plan.
    """
    batch = view.tokens(text)
    step = _last_step(view, "resid_pre", layer)
    read = _read(view, batch, step, ("resid_pre", "resid_post"))
    before, after = (_wide(read[site]) for site in ("resid_pre", "resid_post"))
    cosine = F.cosine_similarity(before, after, dim=-1)
    return CosDistance(layer, step, _array(cosine), _array(batch.mask), _texts(view, batch))


def show_topk_token(
    view: Subject,
    text: Text,
    layer: int,
    K: int = 10,
) -> TopTokens:
    """The K likeliest next tokens if the model stopped at a layer: final norm and head on its
    `resid_post`, in the weights' precision, softmax in fp32.

    SiteError for a layer that is not in the view's plan or a K that the vocabulary does not have,
    FamilyError without a head.
    """
    stack, vocabulary = view.stack, view.config.vocab_size
    if not view.config.head.present:
        raise FamilyError(f"{view.name} has no language-model head, so it says no token")
    if not 1 <= K <= vocabulary:
        raise SiteError(f"K is {K}; it must be between 1 and the {vocabulary} tokens there are")
    batch = view.tokens(text)
    step = _last_step(view, "resid_post", layer)
    rows = _read(view, batch, step, ("resid_post",))["resid_post"].to(stack.head_device)
    ids, probabilities = [], []
    with torch.no_grad():
        for row in rows:  # one at a time: the logits of all would be B times as large
            x = stack.final_norm(row) if view.config.final_norm else row
            likely = _wide(stack.head(x, stack.tied_table)).softmax(-1).topk(K)
            ids.append(likely.indices)
            probabilities.append(likely.values)
    found = torch.stack(ids)
    candidates = [[_names(view, one) for one in row] for row in found.tolist()]
    return TopTokens(
        layer,
        step,
        _array(found),
        _array(torch.stack(probabilities)),
        candidates,
        _array(batch.mask),
        _texts(view, batch),
    )


def show_attention(
    view: Subject, text: Text, layer: int, token_a: int | str, token_b: int | str
) -> AttentionBetween:
    """The attention between two tokens of one text, head by head.

    Tokens are given by position (negative from the end) or by their text, which must occur once. In
    a causal model the later one attends to the earlier one; an encoder answers in both directions.
    RWKV gives its effective attention, and says that it is. TokenError for a token that is not
    there, or more than once; SiteError for a layer that is not in the view's plan.
    """
    batch = view.tokens(text)
    if len(batch.lengths) != 1:
        raise TokenError(f"attention is shown for one text; {len(batch.lengths)} were given")
    texts = _texts(view, batch)[0]
    a, b = _position(token_a, texts), _position(token_b, texts)
    step = _last_step(view, "pattern", layer)
    pattern = _array(_wide(_read(view, batch, step, ("pattern",))["pattern"][0]))
    kind = view.config.layers[layer].attn.kind
    causal = getattr(view.config.layers[layer].attn, "causal", True)
    query, key = (max(a, b), min(a, b)) if causal else (a, b)
    return AttentionBetween(
        layer,
        step,
        query,
        key,
        pattern[:, query, key],
        None if causal or a == b else pattern[:, key, query],
        _MEANINGS[kind],
        texts,
    )


_MEANINGS = {
    "attention": "attention weight, head by head",
    "latent": "attention weight, head by head",
    "rwkv4_time": "effective attention of the recurrence: the weight of the earlier token in what "
    "the later one reads, averaged over channels",
    **dict.fromkeys(
        MATRIX,
        "effective attention of the recurrence: how much of the earlier token's value the later "
        "one reads, head by head; signed, not normalised",
    ),
}


def _last_step(view: Subject, site: str, layer: int) -> int:
    return steps_of(site, view.config, view.plan, (layer,))[-1]


@torch.no_grad()
def _read(view: Subject, batch: Batch, step: int, sites: Sequence[str]) -> dict[str, Tensor]:
    """The tensors at some sites of one step; one forward, without the head."""
    found: dict[str, Tensor] = {}

    def keep(site: str, step: int, x: Tensor) -> None:
        found[site] = x.clone()

    program = view.program(reads={step: sites}, sink=keep)
    view.run(batch, logits="none", observer=program)
    return found


def _position(token: int | str, texts: Sequence[str]) -> int:
    """The place of a token in a row; TokenError says what is there."""
    listed = ", ".join(f"{i} {_shown(text)}" for i, text in enumerate(texts[:_LINES]))
    if isinstance(token, int):
        if not -len(texts) <= token < len(texts):
            raise TokenError(
                f"position {token} does not exist: the text has {len(texts)} tokens: {listed}"
            )
        return token % len(texts)
    places = [i for i, text in enumerate(texts) if text == token]
    if not places:  # a word without the space that its token begins with
        places = [i for i, text in enumerate(texts) if text.strip() == token.strip()]
    if not places:
        raise TokenError(f"no token reads {token!r}; the tokens are {listed}")
    if len(places) > 1:
        raise TokenError(
            f"{token!r} occurs at positions {', '.join(map(str, places))}: give one of them"
        )
    return places[0]


def _texts(view: Subject, batch: Batch) -> list[list[str]]:
    """The text of each real token; its id where there is no tokenizer."""
    ids = batch.tokens.tolist()
    return [_names(view, row[:n]) for row, n in zip(ids, batch.lengths, strict=True)]


def _names(view: Subject, ids: Sequence[int]) -> list[str]:
    if view.tokenizer is None:
        return [str(one) for one in ids]
    return view.tokenizer.token_texts(ids)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()


def _shown(text: str) -> str:
    """A token's text in quotes, its blanks visible."""
    return repr(text)


def _by_token(texts: Sequence[Sequence[str]], line: Any) -> list[str]:
    """One line a token, the rows apart; long texts are cut, saying so."""
    width = max((len(_shown(text)) for row in texts for text in row[:_LINES]), default=0)
    lines = []
    for row, tokens in enumerate(texts):
        if len(texts) > 1:
            lines.append(f"row {row}")
        for t, text in enumerate(tokens[:_LINES]):
            lines.append(f"{t:4d} {_shown(text):<{width}}  {line(row, t)}")
        if len(tokens) > _LINES:
            lines.append(f"     ... and {len(tokens) - _LINES} tokens more")
    return lines
