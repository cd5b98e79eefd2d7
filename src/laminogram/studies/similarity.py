"""Similarity of states, layer by layer, and the groups that they fall into.

Axes: R states, T tokens, C channels, N tokens of all texts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from laminogram.probe.program import Effects, check_effects
from laminogram.probe.recording import documents
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.studies.reading import (
    Tables,
    about,
    check_length,
    ids_of,
    names_of,
    step_labels,
    walk,
)

CKA_TOKENS = 1024
"""Tokens over which the kernel alignment is taken, at most: its kernels have N x N entries."""
_CKA_VALUES = 2**26
"""Values (R, N, C) kept for it, at most: 256 MiB."""

_TOKENS_AT_ONCE = 16

SOURCES = {
    "flattened": "Sun et al. 2024, Transformer Layers as Painters: states before the final norm, "
    "each text's state as one vector, cosine, mean over texts; pads are not counted here",
    "per_token": "cosine of each token's state, mean over the tokens of all texts",
    "without_first": "the same without the first token of each text, where massive activations sit",
    "cka": "Kornblith et al. 2019: linear centred kernel alignment, biased form, over tokens",
}


@dataclass(frozen=True, eq=False)
class Similarity:
    """Matrices (R, R) f64 between the inputs of each step and the output of the last.

    flattened: each text's state as one vector of T*C, cosine, mean over texts. per_token: cosine of
    each token's state, mean over all tokens. without_first: the same without each text's first
    token (None where no text has a second). cka: linear centred kernel alignment over
    `cka_tokens` tokens. groups: (name, first, last), inclusive state numbers, empty where there are
    too few states; groups_rule says how they were found. tokens and token_ids are those of the
    first text; `texts` and `count` tell how many texts and tokens were read.
    """

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    flattened: np.ndarray
    per_token: np.ndarray
    without_first: np.ndarray | None
    cka: np.ndarray
    groups: tuple[tuple[str, int, int], ...]
    groups_rule: str
    texts: int
    count: int
    cka_tokens: int
    sources: dict[str, str] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    def tables(self) -> Tables:
        """`similarity`: a row for each pair of states; `similarity-groups`: one for each group."""
        count = len(self.labels)
        first, second = np.divmod(np.arange(count * count), count)
        names = list(self.labels)
        pairs: dict[str, Any] = {
            "state": first,
            "other": second,
            "label": [names[i] for i in first],
            "other_label": [names[i] for i in second],
            "flattened": self.flattened.ravel(),
            "per_token": self.per_token.ravel(),
            "cka": self.cka.ravel(),
        }
        if self.without_first is not None:
            pairs["without_first"] = self.without_first.ravel()
        tables: Tables = {"similarity": pairs}
        if self.groups:
            group, begin, end = zip(*self.groups, strict=True)
            tables["similarity-groups"] = {
                "group": list(group),
                "first": list(begin),
                "last": list(end),
                "first_label": [names[i] for i in begin],
                "last_label": [names[i] for i in end],
            }
        return tables


def similarity(view: Subject, texts: Text, *, progress: bool = True) -> Similarity:
    """Compare the states of one text or many, one text at a time; no text is kept.

    The kernel alignment takes at most `CKA_TOKENS` tokens, spread evenly over all texts. TokenError
    where there is no text, ConfigError for one beyond the context.
    """
    rows = documents(view, texts)
    batches = [view.tokens([row]) for row in rows]
    for batch in batches:
        check_length(view, batch)
    effects: Effects = []
    sums = _Sums(len(view.plan) + 1, sum(map(len, rows)), view.config.hidden_size)
    for batch in tqdm(batches, unit="text", disable=None if progress else True, leave=False):
        sums.add(_states(view, batch, effects))
    check_effects(effects)
    per_token = sums.per_token / sums.tokens
    groups = find_groups(per_token)
    ids = ids_of(batches[0])
    return Similarity(
        model=view.name,
        tokens=names_of(view, ids),
        token_ids=ids,
        labels=(*step_labels(view.plan, range(len(view.plan))), "output"),
        flattened=sums.flattened / len(batches),
        per_token=per_token,
        without_first=sums.later / sums.later_tokens if sums.later_tokens else None,
        cka=linear_cka(sums.kept()),
        groups=groups,
        groups_rule=RULE if groups else TOO_FEW,
        texts=len(batches),
        count=sums.tokens,
        cka_tokens=len(sums.chosen),
        sources=dict(SOURCES),
        manifest=about(
            view, "similarity", batches, texts=len(batches), cka_tokens=len(sums.chosen)
        ),
    )


def _states(view: Subject, batch: Batch, effects: Effects) -> Tensor:
    """The input of every step and the output of the last, (R, T, C), fp64 on the CPU."""
    steps = range(len(view.plan))
    kept: dict[int, Tensor] = {}

    def keep(site: str, step: int, x: Tensor) -> None:
        kept[step] = x[0].detach().cpu().clone()

    end, _ = walk(view, batch, dict.fromkeys(steps, ("resid_pre",)), keep, effects=effects)
    return torch.stack([*(kept[step] for step in steps), end[0].cpu()])


class _Sums:
    """What is added up over texts: cosines (R, R), and the states of some tokens for the CKA."""

    def __init__(self, states: int, tokens: int, channels: int) -> None:
        self.flattened = np.zeros((states, states))
        self.per_token = np.zeros((states, states))
        self.later = np.zeros((states, states))
        self.tokens = self.later_tokens = 0
        room = max(2, min(CKA_TOKENS, _CKA_VALUES // (states * channels)))
        self.chosen = np.unique(np.linspace(0, tokens - 1, min(room, tokens)).round().astype(int))
        self._kept: list[np.ndarray] = []

    def add(self, x: Tensor) -> None:
        """Add the states (R, T, C) of one text."""
        count = x.shape[1]
        whole = np.zeros_like(self.flattened)
        for start in range(0, count, _TOKENS_AT_ONCE):
            part = x[:, start : start + _TOKENS_AT_ONCE].transpose(0, 1).double()
            products = (part @ part.mT).numpy()  # (tokens, R, R)
            whole += products.sum(0)
            cosines = _normalised(products)
            self.per_token += cosines.sum(0)
            self.later += cosines[0 if start else 1 :].sum(0)
        self.flattened += _normalised(whole)
        here = self.chosen[(self.chosen >= self.tokens) & (self.chosen < self.tokens + count)]
        self._kept.append(x[:, here - self.tokens].float().numpy())
        self.tokens += count
        self.later_tokens += count - 1

    def kept(self) -> np.ndarray:
        """The states (R, N, C) of the chosen tokens."""
        return np.concatenate(self._kept, axis=1)


def _normalised(products: np.ndarray) -> np.ndarray:
    """Cosines from inner products (..., R, R); 0 where a state is 0."""
    length = np.sqrt(np.diagonal(products, axis1=-2, axis2=-1))
    scale = length[..., :, None] * length[..., None, :]
    with np.errstate(invalid="ignore"):  # a state that overflowed gives NaN
        return np.divide(products, scale, out=np.zeros_like(products), where=scale != 0)


def linear_cka(x: np.ndarray) -> np.ndarray:
    """Linear centred kernel alignment (R, R) of states (R, N, C), tokens being the examples.

    `|Y'X|_F^2 / (|X'X|_F |Y'Y|_F)` with columns centred (Kornblith et al. 2019, equation 4 and
    after), through the N x N kernels. NaN for a state that is the same at every token.
    """
    kernels = np.empty((len(x), x.shape[1] ** 2))
    for row, state in enumerate(x):
        centred = state.astype(np.float64)
        centred -= centred.mean(0)
        kernels[row] = (centred @ centred.T).ravel()
    products = kernels @ kernels.T
    length = np.sqrt(np.diag(products))
    scale = np.outer(length, length)
    return np.divide(products, scale, out=np.full_like(products, np.nan), where=scale != 0)


NAMES = ("beginning", "middle", "ending")
RULE = (
    "Beginning, middle and ending are the two cuts that make the mean similarity of pairs of "
    "states in one group, minus that of pairs in different groups, largest; on the per-token "
    "cosine, the middle holding at least two states. Every pair of cuts is tried."
)
TOO_FEW = "No groups: there are fewer than the four states that three groups need."


def find_groups(matrix: np.ndarray) -> tuple[tuple[str, int, int], ...]:
    """(name, first, last) of the three groups of states that `RULE` describes; none for fewer than
    four states or where the matrix is not finite. Of equal cuts the earliest stand."""
    count = len(matrix)
    if count < 4 or not np.isfinite(matrix).all():
        return ()
    upper = np.triu(matrix, 1)
    below = np.zeros((count + 1, count + 1))
    below[1:, 1:] = upper.cumsum(0).cumsum(1)
    total, pairs = below[-1, -1], count * (count - 1) / 2

    def inside(a: int, b: int) -> float:
        return float(below[b, b] - below[a, b] - below[b, a] + below[a, a])

    def score(first: int, second: int) -> float:
        spans = ((0, first), (first, second), (second, count))
        own = sum((b - a) * (b - a - 1) / 2 for a, b in spans)
        within = sum(inside(a, b) for a, b in spans)
        return within / own - (total - within) / (pairs - own)

    cuts = [(a, b) for a in range(1, count - 2) for b in range(a + 2, count)]
    first, second = max(cuts, key=lambda cut: score(*cut))
    edges = (0, first, second, count)
    return tuple((name, edges[i], edges[i + 1] - 1) for i, name in enumerate(NAMES))
