"""Benchmarks of a few documents each, made here, laid out as the files of the real ones."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = (
    *("the", "old", "captain", "took", "his", "boat", "out", "to", "sea", "before"),
    *("dawn", "and", "saw", "a", "light", "on", "the", "far", "shore"),
)
DOCUMENTS = 8


def write_benchmarks(folder: Path) -> Path:
    """Write them into `folder`, and give it back."""
    for name, splits in _benchmarks(random.Random(7)).items():
        (folder / name).mkdir()
        for split, rows in splits.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / name / f"{split}.jsonl").write_text(text, encoding="utf-8")
    return folder


def sentence(draw: random.Random, words: int) -> str:
    """Words in any order."""
    return " ".join(draw.choices(WORDS, k=words))


def _benchmarks(draw: random.Random) -> dict[str, dict[str, list[dict[str, Any]]]]:
    numbers = range(DOCUMENTS)
    return {
        "arc_easy": {"test": [_choices(draw, 3 + i % 2) for i in numbers]},
        "winogrande": {"validation": [_blank(draw) for _ in numbers]},
        "lambada_openai": {"test": [{"text": sentence(draw, 9 + i)} for i in numbers]},
        "glue_sst2": {
            "validation": [{"sentence": sentence(draw, 5), "label": i % 2} for i in numbers]
        },
        "gsm8k": {
            split: [
                {"question": sentence(draw, 4), "answer": f"#### {draw.randrange(9)}"}
                for _ in numbers
            ]
            for split in ("train", "test")
        },
        "wikitext2": {"test": [{"text": sentence(draw, 20 + 30 * i)} for i in numbers]},
        "hellaswag": {
            "validation_4": [
                {
                    "query": sentence(draw, 6),
                    "choices": [sentence(draw, 3) for _ in range(4)],
                    "gold": i % 4,
                }
                for i in range(4)
            ]
        },
    }


def _choices(draw: random.Random, choices: int) -> dict[str, Any]:
    labels = list("ABCD"[:choices])
    texts = [sentence(draw, 1 + i) for i in range(choices)]
    return {
        "question": sentence(draw, 6),
        "choices": {"text": texts, "label": labels},
        "answerKey": draw.choice(labels),
    }


def _blank(draw: random.Random) -> dict[str, str]:
    return {
        "sentence": f"{sentence(draw, 4)} _ {sentence(draw, 3)}",
        "option1": "captain",
        "option2": "light",
        "answer": draw.choice("12"),
    }
