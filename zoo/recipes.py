"""Recipes: everything that makes one model of the zoo, in `<name>/recipe.json`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from laminogram.train import OptimiserConfig, Schedule, TrainConfig

HERE = Path(__file__).resolve().parent

PROMPTS = (
    "It was a dark and stormy night",
    "The old captain looked at the sea and said,",
    '"I do not believe you," she replied.',
    "The history of the world is",
    "Once upon a time there was a king who",
    "In the middle of the forest stood",
    "He opened the letter with trembling hands and read:",
    "CHAPTER I\n\n",
    "Philosophy teaches us that",
    "At last the train arrived,",
)


@dataclass(frozen=True)
class Recipe:
    """One model: its Hugging Face configuration, and how it is trained and judged."""

    name: str
    summary: str
    layout: str
    config: dict[str, Any]
    batch: int
    context: int
    train: TrainConfig
    evaluate_context: int
    stride: int
    new_tokens: int = 120
    skills: dict[str, int] = field(default_factory=dict)  # rows of every batch, out of `batch`
    lines: int = 500_000  # of each skill, before they come again

    @property
    def rows(self) -> dict[str, int]:
        """How many of the `batch` rows each source of text has."""
        return {"books": self.batch - sum(self.skills.values()), **self.skills}

    @classmethod
    def named(cls, name: str, folder: Path = HERE) -> Recipe:
        """Read `<folder>/<name>/recipe.json`; FileNotFoundError names the recipes there are."""
        path = folder / name / "recipe.json"
        if not path.exists():
            known = ", ".join(sorted(found.parent.name for found in folder.glob("*/recipe.json")))
            raise FileNotFoundError(f"no recipe {name!r}; there are {known}")
        data = json.loads(path.read_text(encoding="utf-8"))
        fields = dict(data["train"])
        optimiser = dict(fields.pop("optimiser"))
        optimiser["betas"] = tuple(optimiser["betas"])
        schedule = Schedule(**fields.pop("schedule"))
        train = TrainConfig(
            optimiser=OptimiserConfig(**optimiser), schedule=schedule, precision="bf16", **fields
        )
        return cls(
            name=name,
            summary=data["summary"],
            layout=data["layout"],
            config=data["config"],
            batch=data["data"]["batch"],
            context=data["data"]["context"],
            train=train,
            evaluate_context=data["evaluate"]["context"],
            stride=data["evaluate"]["stride"],
            skills=data["data"].get("skills", {}),
        )
