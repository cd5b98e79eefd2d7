"""Generation: continue one text or many, token by token.

    made = generate(view, "The river", max_new_tokens=40, temperature=0.8, seed=3)
    more = generate(view, " And then", cache=made.cache)

Rows are independent: each has its own length, its own draws, and ends on its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from laminogram.errors import CacheError, ConfigError, FamilyError, TokenError
from laminogram.infer import captured
from laminogram.infer.feeding import CachedFeeder, Feeder
from laminogram.infer.past import Past
from laminogram.infer.result import FinishReason, Generation, Generations
from laminogram.infer.sampling import Sampling, choose, history_mask, uniforms
from laminogram.infer.text import StopFilter, TextStream
from laminogram.probe.program import Program
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.taps import Observer

__all__ = ["Generation", "Generations", "generate"]

Stream = Callable[..., object]


@torch.no_grad()
def generate(
    view: Subject,
    prompts: Text | None = None,
    *,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    stop: str | Sequence[str] = (),
    stop_at_eos: bool = True,
    bos: bool | None = None,
    cache: Past | None = None,
    use_cache: bool = True,
    stream: Stream | None = None,
    observer: Observer | None = None,
) -> Generation | Generations:
    """Continue prompts: one text or list of ids gives a `Generation`, many give `Generations`.

    Args:
        view: the model, with its plan and edits.
        prompts: text, texts, ids, ragged lists of ids, a tensor or a batch. With `cache` it is what
            follows there, and may be empty or None.
        max_new_tokens: new tokens a row, at most.
        temperature, top_k, top_p, repetition_penalty, seed: see `Sampling`; greedy at 0.
        stop: texts before which a row ends; they may span tokens and are not part of its text.
        stop_at_eos: end a row at the model's end-of-text tokens.
        bos: begin texts with the model's bos token; None follows the tokenizer.
        cache: the `cache` of an earlier result, which is advanced in place (`fork` it to keep it).
        use_cache: False computes the whole text anew for each token, and gives the same text.
        stream: called with each new piece of text; for many rows with (row, piece).
        observer: sees every forward; it must carry the view's edits (`view.program` makes such).

    Warns where a text ends longer than the model was made for (`StackConfig.longest_text`).
    Raises FamilyError for a model that cannot go on from a text, ConfigError for options out of
    range, TokenError for ids or text that cannot be read, CacheError for a cache of other
    conditions.
    """
    sampling = Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    _check(view, max_new_tokens, cache, use_cache)
    rows, single = _read(view, prompts, cache, bos)
    _check_text(view, stop, stream)
    past, begun = _begin(view, rows, cache, max_new_tokens)
    texts = _texts(view, past, stop, stream, single)
    ends = _Ends(begun, max_new_tokens, frozenset(view.config.eos_token_ids if stop_at_eos else ()))
    reasons = _watched(view, past, sampling, texts, ends, use_cache, observer)
    _note_context(view, past)
    kept = past if use_cache else None
    made = [
        Generation(
            None if text is None else text.text,
            tuple(past.tokens[row][begun[row] :]),
            tuple(past.tokens[row][: begun[row]]),
            reasons[row],
            kept,
            row,
        )
        for row, text in enumerate(texts)
    ]
    return made[0] if single else Generations(made, kept)


@dataclass(frozen=True)
class _Ends:
    """Where rows end: `begun` is each one's length before the new tokens."""

    begun: Sequence[int]
    max_new_tokens: int
    eos: frozenset[int]

    def reached(
        self, row: int, tokens: Sequence[int], text: TextStream | None
    ) -> FinishReason | None:
        """Take a row's last token into its text; why the row ends here, None where it goes on."""
        is_eos = tokens[-1] in self.eos
        if not is_eos and text is not None and text.push(tokens[-1]):
            return "stop"
        if not is_eos and len(tokens) - self.begun[row] < self.max_new_tokens:
            return None
        if text is not None and text.close():
            return "stop"
        return "eos" if is_eos else "length"


def _watched(
    view: Subject,
    past: Past,
    sampling: Sampling,
    texts: Sequence[TextStream | None],
    ends: _Ends,
    use_cache: bool,
    observer: Observer | None,
) -> list[FinishReason]:
    """Generate under the observer, or under one that carries the view's edits."""
    own = view.program() if observer is None and view.edits else None
    watching = observer or own
    if isinstance(watching, Program) and watching.prompt_lengths is None:
        watching.prompt_lengths = tuple(past.prompts)
    fresh = not any(past.cache.lengths)  # else an edit may have done its work in what was read
    feeder: Feeder | None = None
    if use_cache:
        feeder = captured.feeder(view, past, ends.max_new_tokens, watching)
        feeder = feeder or CachedFeeder(view, past, watching)
    else:
        feeder = Feeder(view, past.tokens, watching)
    reasons = _loop(feeder, sampling, texts, ends, past.draws)
    if own is not None and fresh:
        own.check()
    return reasons


def _loop(
    feeder: Feeder,
    sampling: Sampling,
    texts: Sequence[TextStream | None],
    ends: _Ends,
    streams: Sequence[int],
) -> list[FinishReason]:
    """Draw and feed until every row has ended; why each did."""
    tokens = feeder.tokens
    reasons: dict[int, FinishReason] = {}
    history: Tensor | None = None
    try:
        logits = feeder.first()
        if sampling.needs_history:
            history = history_mask(tokens, logits.shape[-1], logits.device)
        while True:
            ids = choose(logits, history, sampling, _draws(sampling, tokens, streams))
            if history is not None:
                history.scatter_(1, ids[:, None], True)
            ended = []
            for row, token in enumerate(ids.tolist()):
                if row in reasons:
                    continue
                tokens[row].append(token)
                reason = ends.reached(row, tokens[row], texts[row])
                if reason is not None:
                    reasons[row] = reason
                    ended.append(row)
            if len(reasons) == len(tokens):
                return [reasons[row] for row in range(len(tokens))]
            feeder.end(ended)
            logits = feeder.next(ids)
    finally:
        feeder.close()


def _draws(
    sampling: Sampling, tokens: Sequence[Sequence[int]], streams: Sequence[int]
) -> Tensor | None:
    if sampling.greedy:
        return None
    lengths = (len(row) for row in tokens)
    return uniforms(sampling.seed, zip(streams, lengths, strict=True))


def _check(view: Subject, max_new_tokens: int, cache: Past | None, use_cache: bool) -> None:
    config = view.config
    if not config.causal:
        raise FamilyError(
            f"{view.name} ({config.family}) is an encoder: it reads a text in both directions and "
            "fills gaps in it, so it cannot continue one; generate needs a causal model"
        )
    if not config.head.present:
        raise FamilyError(f"{view.name} has no language-model head, so it cannot generate")
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens is {max_new_tokens}; it must be at least 1")
    if view.kv == "averaged" and not use_cache:
        raise ConfigError(
            "kv='averaged' is about what a cache remembers: use_cache=False gives kv='exact'"
        )
    if cache is None:
        return
    if not use_cache:
        raise ConfigError("use_cache=False cannot go on from a cache: give the whole text instead")
    if not isinstance(cache, Past):
        raise ConfigError(
            f"cache must be the `cache` of an earlier generation, found {type(cache).__name__}"
        )
    cache.cache.check(view.memory, cache.rows)


def _note_context(view: Subject, past: Past) -> None:
    context, longest = view.config.longest_text, max(map(len, past.tokens))
    if context is not None and longest > context:
        warnings.warn(
            f"the text is {longest} tokens long, and {view.name} was made for {context}: what "
            "comes after them may make no sense",
            stacklevel=4,
        )


def _check_text(view: Subject, stop: str | Sequence[str], stream: Stream | None) -> None:
    stops = StopFilter(stop).stops
    if view.tokenizer is None and (stops or stream is not None):
        asked = "stop strings need" if stops else "streaming needs"
        raise TokenError(f"{view.name} has no tokenizer, and {asked} one")


def _read(
    view: Subject, prompts: Text | None, past: Past | None, bos: bool | None
) -> tuple[list[list[int]], bool]:
    """The new ids of each row, and whether one row was meant rather than a list of one."""
    single = _is_single(prompts)
    if past is None:
        if prompts is None:
            raise TokenError("no prompt was given: a text needs at least one token")
        batch = view.tokens(prompts, bos=bos)
        ids = batch.tokens.tolist()
        return [row[:length] for row, length in zip(ids, batch.lengths, strict=True)], single
    if prompts is None:
        return [[] for _ in range(past.rows)], past.rows == 1
    rows = _following(view, prompts, single)
    if len(rows) != past.rows:
        raise CacheError(f"the cache holds {past.rows} rows, {len(rows)} prompts were given")
    return rows, single


def _is_single(prompts: Any) -> bool:
    if prompts is None or isinstance(prompts, str):
        return True
    if isinstance(prompts, Tensor):
        return prompts.dim() == 1
    if not isinstance(prompts, Sequence):
        return False
    return not prompts or not isinstance(prompts[0], str | Sequence | Tensor)


def _following(view: Subject, prompts: Any, single: bool) -> list[list[int]]:
    """Ids that follow a cache: texts begin without bos, and any row may be empty."""
    rows = []
    for one in [prompts] if single else prompts:
        if isinstance(one, str):
            rows.append(view.needed_tokenizer().encode(one, bos=False))
        else:
            rows.append(one.tolist() if isinstance(one, Tensor) else [int(i) for i in one])
    if any(rows):  # an id that does not exist is found before the cache is touched
        Batch.of([row for row in rows if row], vocab_size=view.config.vocab_size)
    return rows


def _begin(
    view: Subject, rows: list[list[int]], past: Past | None, max_new_tokens: int
) -> tuple[Past, list[int]]:
    """Where to go on from, the new ids joined to it; and each row's length before generating.

    TokenError for a row without any token, or beyond the positions that the model has learned.
    """
    known = [0] * len(rows) if past is None else [len(row) for row in past.tokens]
    capacity = max(a + len(b) for a, b in zip(known, rows, strict=True)) + max_new_tokens - 1
    view.stack.embed.check_length(capacity)
    if past is None:
        past = Past(view.new_cache(len(rows), capacity=capacity), rows, [len(row) for row in rows])
    else:
        for i, new in enumerate(rows):
            if not new and not past.pending[i]:
                raise TokenError(f"row {i} has no new token, and none is left over in the cache")
        for i, new in enumerate(rows):
            past.tokens[i].extend(new)
            if new:
                past.prompts[i] = len(past.tokens[i])
    return past, [len(row) for row in past.tokens]


def _texts(
    view: Subject, past: Past, stop: str | Sequence[str], stream: Stream | None, single: bool
) -> list[TextStream | None]:
    """A stream of text for each row; None where there is no tokenizer to make any."""
    if view.tokenizer is None:
        return [None] * past.rows

    def show(row: int) -> Callable[[str], object] | None:
        if stream is None or single:
            return stream
        return partial(stream, row)

    return [
        TextStream(view.tokenizer.decode, stop, tokens, show(row))
        for row, tokens in enumerate(past.tokens)
    ]
