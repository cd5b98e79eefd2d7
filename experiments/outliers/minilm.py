"""Precisions of a sentence encoder, and operations on its outliers: what they do to its embeddings.

    python experiments/outliers/minilm.py NAME=MODEL --corpus DIR --out DIR

Writes `embeddings/NAME@precisions.json` and `embeddings/NAME@operations.json` below `--out`. An
encoder predicts no next token, so what is compared is the embedding of a text (mean over tokens,
unit length): 1 - cosine with that of the fp32 model, and whether the nearest of the other texts is
the same one. Operated on is the channel of `ffn_out` with the largest |x| in the first layer that
has a massive activation: at the first token of every text, where it is massive, and at all tokens.
"""

from __future__ import annotations

import lzma
from collections.abc import Mapping, Sequence
from json import loads
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import once
from own_tokens import arguments, pieces

import laminogram
from laminogram.evaluate.divergence import mean_of_documents
from laminogram.probe.edits import Edit
from laminogram.studies.operation_targets import Target, controls, massive_scalars
from laminogram.studies.operations import OPERATIONS, calibrate
from laminogram.view import View

FORMATS = ("bf16", "int8", "w8a8", "w8a8-per-tensor", "llm.int8", "int4-g8", "fp8")
TEXTS, LETTERS = 24, {"books": 300, "chinese": 80}
RULES: Mapping[str, Sequence[float]] = {"zero": (1.0,), "mean": (1.0,), "scale": (0.5, 2.0)}
DRAWS = 20
SITE = "ffn_out"


def main() -> None:
    """Command line: see the top of the file."""
    torch.set_num_threads(1)
    args = arguments(__doc__)
    name, model = args.model.split("=", 1)
    view = laminogram.load(model, dtype="fp32")
    texts = {
        "books": pieces(args.corpus / "books.val.jsonl.xz", 2 * TEXTS, LETTERS["books"]),
        "chinese": _chinese(args.corpus / "chinese.jsonl.xz"),
    }
    folder = args.out / "embeddings"
    once(folder / f"{name}@precisions.json", lambda: precisions(view, texts))
    own, other = texts["books"][:TEXTS], texts["books"][TEXTS:]
    once(folder / f"{name}@operations.json", lambda: operations(view, own, other))


def _chinese(file: Path) -> list[str]:
    with lzma.open(file, "rt", encoding="utf-8") as lines:
        found = (loads(line)["text"] for line in lines)
        long = (text for text in found if len(text) >= LETTERS["chinese"])
        return [text[: LETTERS["chinese"]] for text, _ in zip(long, range(TEXTS), strict=False)]


class Embeddings:
    """The unit embeddings (N, C) of the unchanged model, with which others are compared."""

    def __init__(self, view: View, texts: list[str]) -> None:
        self.texts = texts
        self.plain = self._of(view)

    def _of(self, view: View) -> torch.Tensor:
        return view.embeddings(self.texts, unit_length=True).double()

    def moved(self, view: View) -> dict[str, float]:
        """1 - cosine with its interval over texts, and the share that keeps its neighbour."""
        found = self._of(view)
        # Half the squared distance of unit vectors keeps the digits that 1 - cosine loses.
        away = (found - self.plain).square().sum(1) / 2
        mean = mean_of_documents(away, torch.ones(len(away)), replicates=200)
        kept = (_nearest(found) == _nearest(self.plain)).double().mean()
        return {"away": mean.value, "low": mean.low, "high": mean.high, "neighbour": float(kept)}


def _nearest(x: torch.Tensor) -> torch.Tensor:
    return (x @ x.T).fill_diagonal_(-1.0).argmax(1)


def precisions(view: View, texts: Mapping[str, list[str]]) -> dict[str, Any]:
    """By `INPUT@FORMAT`."""
    found = {}
    for of, rows in texts.items():
        here = Embeddings(view, rows[:TEXTS])
        found |= {f"{of}@{one}": here.moved(view.using(precision=one)) for one in FORMATS}
    return found


def operations(view: View, texts: list[str], other: list[str]) -> dict[str, Any]:
    """A line for each operation on a target, and on each of its controls."""
    massive = massive_scalars(view, other, SITE)
    if massive is None:
        return {"rows": []}
    layer = massive.layers[0]
    gram = view.record(texts, sites=SITE, layers=layer)
    channel = (int(np.abs(gram[SITE, layer]).max((0, 1)).argmax()),)
    first = tuple((0,) for _ in texts)
    targets = [
        Target("scalars", SITE, (layer,), channel, first),
        Target("channel", SITE, (layer,), channel),
    ]
    known = calibrate(view, other, SITE, (layer,))
    here, rows = Embeddings(view, texts), []
    for target in targets:
        for one in (target, *controls(view, texts, target, draws=DRAWS)):
            for rule, doses in RULES.items():
                for dose in doses:
                    made = OPERATIONS[rule](one, known, dose, _where(one))
                    edits = [edit for edit in made if isinstance(edit, Edit)]
                    about = {"target": target.name, "role": one.role, "layer": layer}
                    about |= {"operation": rule, "dose": dose, "channels": len(one.channels)}
                    rows.append(about | here.moved(view.using(edits=edits)))
    return {"rows": rows, "channel": channel[0]}


def _where(target: Target) -> dict[str, Any]:
    where: dict[str, Any] = {"steps": list(target.layers), "channels": target.channels}
    return where if target.positions is None else where | {"positions": list(target.positions)}


if __name__ == "__main__":
    main()
