"""The quantities of levels.py for a model with a tokenizer of its own, on the same books.

    python experiments/outliers/own_tokens.py NAME=MODEL --corpus DIR --out DIR

Texts are pieces of 900 letters in place of 256 tokens. Writes `levels/NAME@books.json`.
"""

from __future__ import annotations

import argparse
import lzma
import random
from json import loads
from pathlib import Path

from common import DOCUMENTS, once
from levels import measured

import laminogram

LETTERS = 900


def main() -> None:
    """Command line: see the top of the file."""
    args = arguments(__doc__)
    name, model = args.model.split("=", 1)
    texts = pieces(args.corpus / "books.val.jsonl.xz")
    file = args.out / "levels" / f"{name}@books.json"
    once(file, lambda: measured(laminogram.load(model, dtype="fp32"), texts))


def arguments(about: str | None) -> argparse.Namespace:
    """`NAME=MODEL`, `--corpus`, `--out`."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("model", metavar="NAME=MODEL")
    parser.add_argument("--corpus", type=Path, required=True, help="folder with the .jsonl.xz")
    parser.add_argument("--out", type=Path, required=True, help="where the result files go")
    return parser.parse_args()


def pieces(file: Path, count: int = DOCUMENTS, letters: int = LETTERS) -> list[str]:
    """Pieces from seeded places of the books in turn."""
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        books = [loads(line)["text"] for line in lines]
    draw = random.Random(0)
    found = []
    for number in range(count):
        text = books[number % len(books)]
        start = draw.randrange(len(text) // 10, len(text) - letters)
        found.append(text[start : start + letters])
    return found


if __name__ == "__main__":
    main()
