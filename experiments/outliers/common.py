"""What the scripts of the study share: arguments, models, the four inputs, results kept by file."""

from __future__ import annotations

import argparse
import json
import lzma
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sizes import SEEDS, SIZES

import laminogram
from laminogram.view import View

DOCUMENTS, TOKENS = 24, 256  # of every input, the begin-of-text token included
BOS = 0
INPUTS = ("books", "chinese", "random", "repeated")
Rows = list[list[int]]


def arguments(about: str | None, *, corpus: bool = True) -> argparse.Namespace:
    """`--models`, `--corpus`, `--out`, `--only`."""
    parser = argparse.ArgumentParser(description=(about or "").split("\n")[0])
    parser.add_argument("--models", type=Path, required=True, help="folder with NAME-SEED folders")
    if corpus:
        parser.add_argument("--corpus", type=Path, required=True, help="folder with the .jsonl.xz")
    parser.add_argument("--out", type=Path, required=True, help="where the result files go")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="llama-l-1, ...")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return parser.parse_args()


def runs(seeds: tuple[int, ...] = SEEDS) -> list[str]:
    """The names of all models, the smallest first."""
    return [f"{kind}-{size}-{seed}" for size in SIZES["llama"] for kind in SIZES for seed in seeds]


def zoo() -> list[str]:
    """The pair of 12 layers that `load` knows by name; it saw the same books, and some skills."""
    return ["small-llama", "small-rwkv4"]


def load(models: Path, name: str) -> View:
    """A model of the study, or of the zoo, in fp32."""
    folders = [
        file.parent for way in (name, f"*/{name}") for file in models.glob(f"{way}/*.safetensors")
    ]
    return laminogram.load(str(folders[0]) if folders else name, dtype="fp32")


def inputs(corpus: Path, names: tuple[str, ...] = INPUTS) -> dict[str, Rows]:
    """The inputs by name: the same token ids for every model."""
    from transformers import PreTrainedTokenizerFast

    file = Path(laminogram.__file__).parent / "bundled" / "tiny-llama" / "tokenizer.json"
    encode = PreTrainedTokenizerFast(tokenizer_file=str(file)).encode
    made: dict[str, Callable[[], Rows]] = {
        "books": lambda: _cut(_texts(corpus / "books.val.jsonl.xz", 13), encode),
        "chinese": lambda: _cut(_texts(corpus / "chinese.jsonl.xz", 4000), encode),
        "random": _random,
        "repeated": _repeated,
    }
    return {name: made[name]() for name in names}


def _texts(file: Path, count: int) -> list[str]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line, _ in zip(lines, range(count), strict=False)]


def _cut(texts: list[str], encode: Callable[[str], list[int]]) -> Rows:
    """Pieces from seeded places of the texts in turn; short texts are joined to long ones."""
    draw = random.Random(0)
    if max(map(len, texts)) < 5000:
        joined = "\n".join(texts)
        texts = [joined[n : n + 20000] for n in range(0, len(joined) - 20000, 20000)]
    rows = []
    for number in range(DOCUMENTS):
        text = texts[number % len(texts)]
        start = draw.randrange(len(text) // 10, len(text) - 4000)
        ids = [one for one in encode(text[start : start + 4000]) if one != BOS]
        rows.append([BOS, *ids[: TOKENS - 1]])
    return rows


def _random() -> Rows:
    draw = random.Random(1)
    return [[BOS, *(draw.randrange(1, 4096) for _ in range(TOKENS - 1))] for _ in range(DOCUMENTS)]


def _repeated() -> Rows:
    draw = random.Random(2)
    return [[BOS, *[draw.randrange(1, 4096)] * (TOKENS - 1)] for _ in range(DOCUMENTS)]


def once(file: Path, make: Callable[[], Any]) -> Any:
    """What `file` holds; made and written first where it is not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(make(), default=float), encoding="utf-8")
        part.replace(file)
        print(file.stem, flush=True)
    return json.loads(file.read_text(encoding="utf-8"))


def results(folder: Path) -> Iterator[tuple[list[str], Any]]:
    """The parts of the name and the content of every result file, sorted."""
    for file in sorted(folder.glob("*.json")):
        yield file.stem.split("@"), json.loads(file.read_text(encoding="utf-8"))


def short(value: float | None, digits: int = 4) -> str:
    """A number for a table of results; empty for none."""
    return "" if value is None or not math.isfinite(value) else f"{value:.{digits}g}"
