"""Passages of held-out books, and a stream of training books, as token ids; each text begins with
the model's begin-of-text token."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator
from pathlib import Path

from laminogram.probe.subject import Subject


def passages(view: Subject, corpus: Path, *, each: int, tokens: int) -> list[list[int]]:
    """From every book of `*.val.jsonl.xz` in `corpus` so many passages of so many tokens, BOS
    counted, from evenly spaced places that never are a book's first or last page.

    FileNotFoundError where the folder has no such file.
    """
    texts = _texts(corpus, "*.val.jsonl.xz")
    return [row for text in texts for row in _of_book(view, text, each, tokens)]


def stream(view: Subject, corpus: Path, tokens: int) -> list[int]:
    """The first so many tokens of the books of `*.train.*.jsonl.xz` in `corpus`.

    FileNotFoundError where the folder has no such file, ValueError where the books end before.
    """
    encode, found = view.needed_tokenizer().encode, list[int]()
    for text in _texts(corpus, "*.train.*.jsonl.xz"):
        found += encode(text, True)
        if len(found) >= tokens:
            return found[:tokens]
    raise ValueError(f"the books in {corpus} have {len(found):,} tokens; {tokens:,} are needed")


def _texts(corpus: Path, pattern: str) -> Iterator[str]:
    files = sorted(corpus.glob(pattern))
    if not files:
        raise FileNotFoundError(f"no {pattern} in {corpus}")
    for file in files:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def _of_book(view: Subject, text: str, each: int, tokens: int) -> list[list[int]]:
    encode = view.needed_tokenizer().encode
    rows = []
    for number in range(1, each + 1):
        begin = text.index(" ", len(text) * number // (each + 1))
        ids = encode(text[begin : begin + 12 * tokens], True)[:tokens]
        if len(ids) == tokens:
            rows.append(ids)
    return rows
