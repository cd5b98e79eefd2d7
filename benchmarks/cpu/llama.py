"""A Llama of 125M: one token at a time beside `generate`, and a batch of 8 x 256."""

from __future__ import annotations

import statistics

import torch

from benchmarks.cpu import _models
from benchmarks.lab import OURS, Lab, Result, Target, row

MODEL, PEER = "llama-125m", "transformers"
NEW_TOKENS, LONG = 16, 64


@row("llama-decode-fp32", needs=(PEER,))
def decode(lab: Lab) -> Result:
    sides = _models.sides(lab, MODEL, torch.float32, OURS, PEER)
    ours, peer = sides[OURS], sides[PEER]
    prompt = _models.ids(lab, MODEL, 1, 1)
    works = {
        OURS: lambda: ours.decode(prompt, NEW_TOKENS),
        "generate": lambda: peer.generate(prompt, NEW_TOKENS),
        "own loop": lambda: peer.decode(prompt, NEW_TOKENS),
    }
    times = lab.race(works, rounds=15)
    limit = NEW_TOKENS * _models.decode_limit(ours.stack)
    notes = {"generate of the limit": round(times.median("generate") / limit, 3)}
    targets = (Target("generate", 1 / 2.5),)
    return Result(
        times, (NEW_TOKENS, "tok"), limit, "its weights read once a token", targets, notes=notes
    )


@row("llama-decode-fp32-stored-bf16", needs=(PEER,))
def decode_stored_bf16(lab: Lab) -> Result:
    """As RWKV-4's row of that name."""
    sides = _models.sides(lab, MODEL, torch.float32, OURS, PEER, stored=torch.bfloat16)
    ours, peer = sides[OURS], sides[PEER]
    prompt = _models.ids(lab, MODEL, 1, 1)
    works = {
        OURS: lambda: ours.decode(prompt, LONG),
        "generate": lambda: peer.generate(prompt, LONG),
    }
    times = lab.race(works, rounds=11)
    limit = LONG * _models.decode_limit(ours.stack) / 2
    what = "its weights read once a token, 16 bits of each"
    return Result(times, (LONG, "tok"), limit, what, (Target("generate", 1 / 2.5),))


@row("llama-forward-fp32", needs=(PEER,))
def forward(lab: Lab) -> Result:
    sides = _models.sides(lab, MODEL, torch.float32, OURS, PEER)
    tokens = _models.ids(lab, MODEL, 8, 256)
    works = {name: lambda side=side: side.forward(tokens) for name, side in sides.items()}
    times = lab.race(works, rounds=10, warmup=2)
    speed = [b / a for a, b in zip(times.seconds[OURS], times.seconds[PEER])]
    low, high = _interval(speed)
    notes = {"speed against transformers, 95 %": f"{low:.3f} to {high:.3f}, wanted from 0.97"}
    return Result(times, (tokens.numel(), "tok"), targets=(Target(PEER, 1 / 0.97),), notes=notes)


def _interval(ratios: list[float]) -> tuple[float, float]:
    """The 95 % interval of their mean, by Student's t for ten pairs."""
    middle = statistics.mean(ratios)
    if len(ratios) < 2:
        return middle, middle
    half = 2.262 * statistics.stdev(ratios) / len(ratios) ** 0.5
    return middle - half, middle + half
