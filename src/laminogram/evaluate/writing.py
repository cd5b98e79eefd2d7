"""Answers that are written: greedy text after a prompt, cut at stop strings as the harness does.

The harness decodes the new tokens alone and cuts at the first place of every stop string
(`postprocess_generated_text`, 0.4.13). Ours end a row as soon as it has a stop string; theirs go on
until a whole batch has, and cut then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

from laminogram.evaluate.encode import Encoder
from laminogram.evaluate.ledger import Ledger
from laminogram.evaluate.requests import Requests
from laminogram.infer.generate import Generations, generate
from laminogram.probe.program import Effects
from laminogram.probe.subject import Subject

_Prompt = tuple[int, ...]
_Ends = tuple[tuple[str, ...], int]


def write(
    view: Subject,
    requests: Requests,
    encoder: Encoder,
    batch_tokens: int,
    ledger: Ledger,
    key: str,
    bar: Any,
    effects: Effects,
) -> list[str]:
    """The text after each request's context; equal prompts are continued once.

    What the ledger has is not generated again. `bar` counts requests; `effects` gets what the
    view's edits did, in what the ledger has too.
    """
    asked: dict[_Ends, dict[_Prompt, str]] = {}
    places: list[tuple[_Ends, _Prompt]] = []
    for request in requests:
        assert request.max_new_tokens is not None
        ends = request.until, request.max_new_tokens
        places.append((ends, encoder.prompt(request.context, request.max_new_tokens)))
        asked.setdefault(ends, {})[places[-1][1]] = ""
    wanted = Counter(places)
    for ends, texts in asked.items():
        for prompts in _batches(list(texts), ends[1], batch_tokens):
            texts.update(
                zip(prompts, _written(view, prompts, ends, ledger, key, effects), strict=True)
            )
            bar.update(sum(wanted[ends, prompt] for prompt in prompts))
    return [asked[ends][prompt] for ends, prompt in places]


def _written(
    view: Subject,
    prompts: Sequence[_Prompt],
    ends: _Ends,
    ledger: Ledger,
    key: str,
    effects: Effects,
) -> list[str]:
    name = blake2b(repr((prompts, ends)).encode(), digest_size=8).hexdigest()
    known = ledger.answers(key, name)
    if known is None:
        until, new_tokens = ends
        program = view.program() if view.edits else None
        made = generate(
            view,
            [list(prompt) for prompt in prompts],
            max_new_tokens=new_tokens,
            stop=tuple(one for one in until if one),
            observer=program,
        )
        done = [] if program is None else program.effects()
        assert isinstance(made, Generations)
        decode = view.needed_tokenizer().decode
        known = [_cut(decode(one.tokens, skip_special=True), until) for one in made]
        ledger.add_answers(key, name, known, done)
    effects += ledger.effects(key, name)
    return known


def _cut(text: str, until: Sequence[str]) -> str:
    """The text before the first place of any stop string."""
    for stop in until:
        text = text.split(stop)[0] if stop else text
    return text


def _batches(
    prompts: list[_Prompt], new_tokens: int, batch_tokens: int
) -> Iterator[tuple[_Prompt, ...]]:
    """Prompts of like length, longest first, whose tokens and new tokens fit a batch."""
    waiting: list[_Prompt] = []
    for prompt in sorted(prompts, key=lambda one: (-len(one), one)):
        if waiting and (len(waiting) + 1) * (len(waiting[0]) + new_tokens) > batch_tokens:
            yield tuple(waiting)
            waiting = []
        waiting.append(prompt)
    if waiting:
        yield tuple(waiting)
