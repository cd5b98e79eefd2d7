"""The lens: what a model would say if it stopped after each step.

The residual stream after the embedding and after every step goes through the final norm and the
head, as the model's own last state does ("logit lens", nostalgebraist 2020). The last row is the
model's own answer. For an encoder the answer at a position is about the token there, so nothing
follows and `next_rank` and `next_probability` have no column.

Axes: R rows (embedding, steps), T tokens, K candidates, C channels, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from laminogram.errors import TokenError


@dataclass(frozen=True, eq=False)
class Lens:
    """What every row says at every token.

    labels: "embed", then each step, then "output" where that is not the last step's (the plan ends
    with a group, or an edit acts on `final` or `logits`). A rank of 1 is the likeliest token.

    top_ids (R, T, K), top_probability (R, T, K) f32 and top_texts: likeliest first, an id added
    where several shown tokens read the same. entropy (R, T) f32 in nats; kl (R, T) f32 in nats,
    KL(last row || this row). rank (R, T) and probability (R, T) f32: of the token that the last row
    finds likeliest; final_ids (T,) names it. next_rank (R, T-1) and next_probability (R, T-1): of
    the token that follows in the text. chosen: id -> (rank (R, T), probability (R, T)) of followed
    tokens.
    """

    model: str
    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    labels: tuple[str, ...]
    top_ids: np.ndarray
    top_texts: tuple[tuple[tuple[str, ...], ...], ...]
    top_probability: np.ndarray
    entropy: np.ndarray
    kl: np.ndarray
    rank: np.ndarray
    probability: np.ndarray
    final_ids: np.ndarray
    next_rank: np.ndarray
    next_probability: np.ndarray
    vocabulary: int
    chosen: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    chosen_texts: dict[int, str] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)

    @property
    def token_labels(self) -> tuple[str, ...]:
        """The tokens' texts, told apart by position where one occurs twice."""
        return told_apart(self.tokens)

    def trajectory(self, token_id: int, position: int) -> tuple[np.ndarray, np.ndarray]:
        """Rank (R,) and probability (R,) of a token after `position` (negative from the end), row
        by row. TokenError for a token that was not followed there, or a position that is not."""
        count = len(self.tokens)
        if not -count <= position < count:
            raise TokenError(f"position {position} does not exist: the text has {count} tokens")
        position %= count
        if token_id in self.chosen:
            ranks, probabilities = self.chosen[token_id]
            return ranks[:, position], probabilities[:, position]
        if token_id == self.final_ids[position]:
            return self.rank[:, position], self.probability[:, position]
        following = position + 1
        if following <= self.next_rank.shape[1] and token_id == self.token_ids[following]:
            return self.next_rank[:, position], self.next_probability[:, position]
        known = ", ".join(map(str, self.chosen)) or "none"
        raise TokenError(
            f"token {token_id} was not followed at position {position}: give it in follow= "
            f"(followed: {known})"
        )

    def tables(self) -> Tables:
        """`lens`: a row for each (row, token); `lens-followed`: one more for each followed token,
        absent without any."""
        rows, count, _ = self.top_ids.shape
        where = _places(self.labels, self.tokens)
        following = np.full((rows, count), np.nan, np.float32)
        rank = np.zeros((rows, count), np.int64)
        predicted = self.next_rank.shape[1]
        following[:, :predicted], rank[:, :predicted] = self.next_probability, self.next_rank
        tables: Tables = {
            "lens": where
            | {
                "top_ids": self.top_ids.reshape(rows * count, -1),
                "top_probability": self.top_probability.reshape(rows * count, -1),
                "top_text": [texts[0] for row in self.top_texts for texts in row],
                "entropy_nats": self.entropy.ravel(),
                "kl_nats": self.kl.ravel(),
                "final_id": np.tile(self.final_ids, rows),
                "final_rank": self.rank.ravel(),
                "final_probability": self.probability.ravel(),
                "next_rank": [int(one) or None for one in rank.ravel()],
                "next_probability": following.ravel(),
            }
        }
        parts = [
            {"id": np.full(rows * count, one), **where, "rank": r.ravel(), "probability": p.ravel()}
            for one, (r, p) in self.chosen.items()
        ]
        if parts:
            tables["lens-followed"] = {key: _joined([p[key] for p in parts]) for key in parts[0]}
        return tables


def _joined(columns: list[Any]) -> Any:
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return [value for column in columns for value in column]


def _places(labels: Sequence[str], tokens: Sequence[str]) -> dict[str, Any]:
    rows, count = len(labels), len(tokens)
    return {
        "row": np.repeat(np.arange(rows), count),
        "label": [label for label in labels for _ in range(count)],
        "token": np.tile(np.arange(count), rows),
        "token_text": list(tokens) * rows,
    }


def lens(
    view: Subject, text: Text, top: int = 10, *, follow: Sequence[int | str] = ()
) -> Lens:
    """Read a text and let every state speak.

    top: how many candidates of each; follow: tokens, by id or by their text, whose rank and
    probability are kept everywhere. Memory holds the states (R, T, C) and so many logits at a time
    as `_CHUNK` says. FamilyError without a head; TokenError for a text or a followed token that
    does not exist; ConfigError for a text beyond the context or a `top` outside the vocabulary.
    """
    if not view.config.head.present:
        raise FamilyError(f"{view.name} has no language-model head, so it says no token")
    vocabulary = view.config.vocab_size
    if not 1 <= top <= vocabulary:
        raise ConfigError(f"top is {top}; it must be between 1 and the {vocabulary} tokens there are")
    batch = read_one(view, text)
    followed = [_token_id(view, one) for one in follow]
    labels, states, given = _states(view, batch)
    ids = ids_of(batch)
    parts = [
        _read_out(view, states, given, start, stop, ids, top, followed)
        for start, stop in _chunks(len(ids), vocabulary)
    ]
    joined = {key: np.concatenate([part[key] for part in parts], axis=1) for key in parts[0]}
    predicted = len(ids) - 1 if view.config.causal else 0
    return Lens(
        model=view.name,
        tokens=names_of(view, ids),
        token_ids=ids,
        labels=labels,
        top_ids=joined["top_ids"],
        top_texts=_texts(view, joined["top_ids"]),
        top_probability=joined["top_probability"],
        entropy=joined["entropy"],
        kl=joined["kl"],
        rank=joined["rank"],
        probability=joined["probability"],
        final_ids=joined["top_ids"][-1, :, 0],
        next_rank=joined["next_rank"][:, :predicted],
        next_probability=joined["next_probability"][:, :predicted],
        vocabulary=vocabulary,
        chosen={one: (joined[f"rank {one}"], joined[f"p {one}"]) for one in followed},
        chosen_texts=dict(zip(followed, names_of(view, followed), strict=True)),
        manifest=about(view, "lens", [batch], top=top, follow=list(follow)),
    )


def _token_id(view: Subject, token: int | str) -> int:
    """The id of a token that is to be followed."""
    size = view.config.vocab_size
    if isinstance(token, int):
        if not 0 <= token < size:
            raise TokenError(f"token id {token} is outside the vocabulary: ids are 0 to {size - 1}")
        return token
    if view.tokenizer is None:
        raise TokenError(f"{view.name} has no tokenizer: follow token ids instead of {token!r}")
    ids = view.tokenizer.encode(token, False)
    if len(ids) != 1:
        pieces = ", ".join(f"{i} {text!r}" for i, text in zip(ids, names_of(view, ids)))
        raise TokenError(f"{token!r} is not one token but {pieces or 'none'}: follow one of them")
    return int(ids[0])


def _states(view: Subject, batch: Batch) -> tuple[tuple[str, ...], list[Tensor], Tensor | None]:
    """Labels, the states (T, C) that are read out, and the model's own logits (T, V) where no state
    gives them, because an edit acts on them."""
    own = any(edit.site == "logits" for edit in view.edits)
    steps = range(len(view.plan))
    kept: dict[int, Tensor] = {}

    def keep(site: str, step: int, x: Tensor) -> None:
        kept[step] = x[0].clone()

    reads = {STACK_STEP: ("embed",), **{step: ("resid_post",) for step in steps}}
    end, out = walk(view, batch, reads, keep, logits="all" if own else "none")
    labels = ("embed", *step_labels(view.plan, steps))
    states = [kept[STACK_STEP], *(kept[step] for step in steps)]
    ...
