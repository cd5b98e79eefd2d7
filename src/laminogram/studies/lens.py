"""The lens: what a model would say if it stopped after each step.

The residual stream after the embedding and after every step goes through the final norm and the
head, as the model's own last state does ("logit lens", nostalgebraist 2020). The last row is the
model's own answer. For an encoder the answer at a position is about the token there, so nothing
follows and `next_rank` and `next_probability` have no column.

Axes: R rows (embedding, steps), T tokens, K candidates, C channels, V vocabulary.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import ConfigError, FamilyError, TokenError
from laminogram.plans import Step
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.sites import STACK_STEP
from laminogram.studies.reading import (
    Tables,
    about,
    ids_of,
    names_of,
    read_one,
    step_labels,
    told_apart,
    walk,
    wide,
)

_CHUNK = 2**22
"""Logits of one row that exist at one time: 16 MiB in fp32, of which a few tables are held."""

_NEVER = -1e30


@dataclass(frozen=True, eq=False)
class Lens:
    """What every row says at every token.

    labels: "embed", then each step, then "output" where that is not the last step's (the plan ends
    with a group, or an edit acts on `final` or `logits`). A rank of 1 is the likeliest token; where
    a row is not a number, all stand last.

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


def lens(view: Subject, text: Text, top: int = 10, *, follow: Sequence[int | str] = ()) -> Lens:
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
        raise ConfigError(
            f"top is {top}; it must be between 1 and the {vocabulary} tokens there are"
        )
    batch = read_one(view, text)
    followed = [_token_id(view, one) for one in follow]
    labels, voices = _voices(view, batch)
    ids, chunk = ids_of(batch), max(1, _CHUNK // vocabulary)
    spans = [(start, min(start + chunk, len(ids))) for start in range(0, len(ids), chunk)]
    parts = [_read_out(voices, ids, span, top, followed) for span in spans]
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
        final_ids=joined["final_ids"][0],
        next_rank=joined["next rank"][:, :predicted],
        next_probability=joined["next probability"][:, :predicted],
        vocabulary=vocabulary,
        chosen={one: (joined[f"{one} rank"], joined[f"{one} probability"]) for one in followed},
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


@dataclass(frozen=True)
class _Voice:
    """What one row has to say: from a state before the final norm, from one after it, or scores."""

    view: Subject
    x: Tensor
    stage: str = "state"

    def log_probabilities(self, start: int, stop: int) -> Tensor:
        """(c, V), fp32 at least; `_NEVER` where the probability is 0, so that products exist."""
        stack, x = self.view.stack, self.x[start:stop].to(self.view.stack.head_device)
        if self.stage == "state" and self.view.config.final_norm:
            x = stack.final_norm(x)
        scores = x if self.stage == "scores" else stack.head(x, stack.tied_table)
        return wide(scores).log_softmax(-1).clamp_(min=_NEVER)


def _voices(view: Subject, batch: Batch) -> tuple[tuple[str, ...], list[_Voice]]:
    """The rows' labels and voices; the last is the model's own answer."""
    last = next((one for one in ("logits", "final") if _is_edited(view, one)), "")
    steps = range(len(view.plan))
    kept: dict[int, Tensor] = {}

    def keep(site: str, step: int, x: Tensor) -> None:
        kept[step] = x[0].clone()

    reads = {STACK_STEP: ("embed",), **dict.fromkeys(steps, ("resid_post",))}
    end, out = walk(view, batch, reads, keep, "all" if last == "logits" else "none")
    labels = ["embed", *step_labels(view.plan, steps)]
    voices = [_Voice(view, kept[STACK_STEP]), *(_Voice(view, kept[step]) for step in steps)]
    if last or not isinstance(view.plan.items[-1], Step):
        labels.append("output")
        own = {"logits": _Voice(view, out[0], "scores"), "final": _Voice(view, out[0], "final")}
        voices.append(own.get(last) or _Voice(view, end[0]))
    return tuple(labels), voices


def _is_edited(view: Subject, site: str) -> bool:
    return any(edit.site == site for edit in view.edits)


@torch.no_grad()
def _read_out(
    voices: Sequence[_Voice],
    ids: Sequence[int],
    span: tuple[int, int],
    top: int,
    followed: Sequence[int],
) -> dict[str, np.ndarray]:
    """Every array of the tokens `span`, (R, c, ...)."""
    start, stop = span
    answer = voices[-1].log_probabilities(start, stop)
    final = answer.topk(top).indices[:, 0]
    following = torch.tensor([*ids[1:], 0], device=answer.device)[start:stop]
    weights = answer.exp()
    known = torch.linalg.vecdot(weights, answer)
    wanted = {"": final, "next ": following}
    wanted |= {f"{one} ": torch.full_like(final, one) for one in followed}
    rows: list[dict[str, Tensor]] = []
    for voice in voices:
        log_p = answer if voice is voices[-1] else voice.log_probabilities(start, stop)
        likely = log_p.topk(top)
        kl = known - torch.linalg.vecdot(weights, log_p)
        found = {
            "top_ids": likely.indices,
            "top_probability": likely.values.exp(),
            "entropy": -torch.linalg.vecdot(log_p.exp(), log_p),
            # 0 but for rounding where it is the same row; infinite where it rules out what may be.
            "kl": torch.where(kl > -_NEVER / 1e8, torch.inf, kl.clamp(min=0)),
        }
        for name, tokens in wanted.items():
            value = log_p.gather(-1, tokens[:, None])
            # Of what is not a number nothing is likely: it stands last.
            ahead = (~(log_p <= value)).sum(-1)
            found[f"{name}rank"] = ahead.clamp(max=log_p.shape[-1] - 1) + 1
            found[f"{name}probability"] = value[:, 0].exp()
        rows.append(found)
    found = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    found["final_ids"] = final[None]
    return {name: _array(x) for name, x in found.items()}


def _array(x: Tensor) -> np.ndarray:
    return (x.float() if x.is_floating_point() else x).cpu().numpy()


def _texts(view: Subject, ids: np.ndarray) -> tuple[tuple[tuple[str, ...], ...], ...]:
    """The candidates' texts; with the id where several of the shown tokens read the same."""
    shown = np.unique(ids).tolist()
    texts = names_of(view, shown)
    times = Counter(texts)
    names = {
        one: text if times[text] == 1 else f"{text} #{one}"
        for one, text in zip(shown, texts, strict=True)
    }
    return tuple(tuple(tuple(names[one] for one in at) for at in row) for row in ids.tolist())
