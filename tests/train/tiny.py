"""A small model and text for the tests of the loop; run as a program it trains, and can be killed.

python tests/train/tiny.py FOLDER STEPS SECONDS_A_STEP
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from laminogram.train import Blocks, OptimiserConfig, Schedule, TokenStream, TrainConfig, Trainer

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


def text(path: Path) -> TokenStream:
    """A repeating text that two ids of context predict."""
    ids = np.array([(i * i) % VOCABULARY for i in range(4000)], dtype="<u2")
    ids.tofile(path)
    return TokenStream([path])


def trainer(folder: Path, steps: int | None, pause: float = 0.0, **changes) -> Trainer:
    """A run of `steps` steps (None: `minutes=` says how long) with a checkpoint every five."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = Blocks(text(folder / "text.bin"), context=16, batch=4, seed=7)

    def rows(step: int) -> Tensor:
        time.sleep(pause)
        return blocks(step)

    settings = {
        "steps": steps,
        "optimiser": OptimiserConfig(lr=0.01),
        "schedule": Schedule(warmup=0.1, floor=0.1),
        "log_every": 5,
        "save_every": 5,
    }
    return Trainer(Tiny(), rows, TrainConfig(**{**settings, **changes}), folder / "run")


if __name__ == "__main__":
    torch.set_num_threads(1)
    trainer(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])).run()
