"""A small model and text for the tests of the loop; run as a program it trains, and can be killed.

python tests/train/tiny.py FOLDER STEPS SECONDS_A_STEP

A mixture of two sources: squares, and a shorter text that counts.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from laminogram.train import (
    Blocks,
    Mixture,
    OptimiserConfig,
    Schedule,
    TokenStream,
    TrainConfig,
    Trainer,
)

VOCABULARY = 13


class Tiny(nn.Module):
    """Each id and the one before it, through one hidden layer, to logits (B, T, V)."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed = nn.Module()
        self.embed.tokens = nn.Embedding(VOCABULARY, 16)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, VOCABULARY)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(std=0.2, generator=generator)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed.tokens(tokens)
        before = torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), 1)
        return self.down(torch.relu(self.up(torch.cat((x, before), -1))))


def mixture(folder: Path) -> Mixture:
    """Three rows of squares and one of counting, which two ids of context predict."""
    sources = {}
    for name, power, size, rows in (("squares", 2, 4000, 3), ("counting", 1, 900, 1)):
        path = folder / f"{name}.bin"
        np.array([i**power % VOCABULARY for i in range(size)], dtype="<u2").tofile(path)
        sources[name] = Blocks(TokenStream([path]), context=16, batch=rows, seed=7)
    return Mixture(sources)


def trainer(folder: Path, steps: int | None, pause: float = 0.0, **changes) -> Trainer:
    """A run of `steps` steps (None: `minutes=` says how long) with a checkpoint every five."""
    folder.mkdir(parents=True, exist_ok=True)
    mixed = mixture(folder)

    def rows(step: int) -> Tensor:
        time.sleep(pause)
        return mixed(step)

    settings = {
        "steps": steps,
        "optimiser": OptimiserConfig(lr=0.01),
        "schedule": Schedule(warmup=0.1, floor=0.1),
        "log_every": 5,
        "save_every": 5,
    }
    config = TrainConfig(**{**settings, **changes})
    return Trainer(Tiny(), rows, config, folder / "run", places=mixed.places)


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])).run()
