"""All streaming statistics at three sites of every layer, beside the plain forward and beside
hooks that compute what notebooks compute."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.capture import SITES, capture_by_hooks
from benchmarks.cpu import _models
from benchmarks.lab import OURS, Lab, Result, Target, row

MODEL, PEER = "llama-125m", "transformers"
STATISTICS = ("moments", "thresholds", "histogram", "topk")


@row("statistics-fp32", needs=(PEER,))
def statistics(lab: Lab) -> Result:
    sides = _models.sides(lab, MODEL, torch.float32, OURS, PEER)
    ours, peer = sides[OURS], sides[PEER]
    tokens = _models.ids(lab, MODEL, 8, 256)
    works = {
        OURS: lambda: measured(ours, tokens),
        "plain": lambda: ours.run(tokens, logits="none"),
        "hooks": lambda: by_hooks(peer, tokens),
        "transformers": lambda: peer.model.model(tokens, use_cache=False),
    }
    times = lab.race(works, rounds=10, warmup=2)
    notes = {"hooks of their plain": round(times.ratio("hooks", "transformers"), 3)}
    return Result(times, (tokens.numel(), "tok"), targets=(Target("plain", 1.05),), notes=notes)


def measured(side: Any, tokens: Tensor) -> Any:
    """Moments, extrema, counts, histogram and the largest values at the three sites."""
    from laminogram.probe.measuring import measure

    texts = tokens.tolist()
    how = {"batch_size": len(texts), "progress": False}
    return measure(side.view, texts, STATISTICS, SITES, **how)


def by_hooks(side: Any, tokens: Tensor) -> dict[Any, tuple[Tensor, ...]]:
    """Mean, deviation, kurtosis, largest and median size of every channel, from kept tensors."""
    return {key: _summary(x.flatten(0, -2)) for key, x in capture_by_hooks(side, tokens).items()}


def _summary(x: Tensor) -> tuple[Tensor, ...]:
    mean, deviation = x.mean(0), x.std(0)
    kurtosis = ((x - mean) / deviation).pow(4).mean(0)
    return mean, deviation, kurtosis, x.abs().amax(0), x.abs().median(0).values
