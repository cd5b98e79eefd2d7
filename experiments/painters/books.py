"""Passages of held-out books, as token ids that begin with the model's begin-of-text token."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from laminogram.probe.subject import Subject


def passages(view: Subject, corpus: Path, *, each: int, tokens: int) -> list[list[int]]:
    """From every book of `*.val.jsonl.xz` in `corpus` so many passages of so many tokens, BOS
    counted, from evenly spaced places that never are a book's first or last page.

    FileNotFoundError where the folder has no such file.
    """
    files = sorted(corpus.glob("*.val.jsonl.xz"))
    if not files:
        raise FileNotFoundError(f"no *.val.jsonl.xz in {corpus}")
    found = []
    for file in files:
        with lzma.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                found += _of_book(view, json.loads(line)["text"], each, tokens)
    return found


def _of_book(view: Subject, text: str, each: int, tokens: int) -> list[list[int]]:
    encode = view.needed_tokenizer().encode
    rows = []
    for number in range(1, each + 1):
        begin = text.index(" ", len(text) * number // (each + 1))
        ids = encode(text[begin : begin + 12 * tokens], True)[:tokens]
        if len(ids) == tokens:
            rows.append(ids)
    return rows
