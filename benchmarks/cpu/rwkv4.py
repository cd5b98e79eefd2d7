"""RWKV-4 of 169M: one token at a time, and a prompt of 512 tokens, beside the `rwkv` package."""

from __future__ import annotations

import torch

from benchmarks.cpu import _models
from benchmarks.lab import OURS, Lab, Result, Target, row

MODEL, PEER = "rwkv4-169m", "rwkv"
NEW_TOKENS, LONG, PROMPT = 16, 64, 512
DECODE_SPREAD, PREFILL_SPREAD = 0.35, 0.15
"""From the smallest ratio to the largest, rounded up, on the machine of the table, 2026-11-23:
decode fp32 0.293, 0.347, 0.377, 0.378, 0.379, 0.386; bf16 0.508, 0.553 in slow minutes of its
memory, 0.356 and 0.447 in fast ones, of which `rwkv` makes nothing; prefill fp32 0.762, 0.770,
0.788, bf16 0.483, 0.491, 0.500."""


def _decode(lab: Lab, dtype: torch.dtype, *targets: Target) -> Result:
    sides = _models.sides(lab, MODEL, dtype, OURS, PEER)
    prompt = _models.ids(lab, MODEL, 1, 1)
    times = lab.race(
        {name: lambda side=side: side.decode(prompt, NEW_TOKENS) for name, side in sides.items()},
        rounds=15,
    )
    limit = NEW_TOKENS * _models.decode_limit(sides[OURS].stack)
    return Result(
        times, (NEW_TOKENS, "tok"), limit, "its weights read once a token", targets, notes={
            "rwkv of the limit": round(times.median(PEER) / limit, 3)
        }, spread=DECODE_SPREAD,
    )  # fmt: skip


def _prefill(lab: Lab, dtype: torch.dtype, *targets: Target) -> Result:
    sides = _models.sides(lab, MODEL, dtype, OURS, PEER)
    prompt = _models.ids(lab, MODEL, 1, PROMPT)
    times = lab.race(
        {name: lambda side=side: side.last(prompt) for name, side in sides.items()}, rounds=11
    )
    limit = _models.products_limit(sides[OURS].stack, prompt.shape[1], dtype)
    what = "its own products"
    return Result(times, (prompt.numel(), "tok"), limit, what, targets, spread=PREFILL_SPREAD)


@row("rwkv4-decode-fp32", needs=(PEER,))
def decode_fp32(lab: Lab) -> Result:
    return _decode(lab, torch.float32, Target(PEER, 1 / 2))


@row("rwkv4-decode-bf16", needs=(PEER,))
def decode_bf16(lab: Lab) -> Result:
    return _decode(lab, torch.bfloat16, Target(PEER, 1 / 2))


@row("rwkv4-decode-fp32-stored-bf16", needs=(PEER,))
def decode_stored_bf16(lab: Lab) -> Result:
    """Most published checkpoints. Every run is a new cache, which compares its copies first: more
    tokens than above, as in a text."""
    sides = _models.sides(lab, MODEL, torch.float32, OURS, PEER, stored=torch.bfloat16)
    prompt = _models.ids(lab, MODEL, 1, 1)
    times = lab.race(
        {name: lambda side=side: side.decode(prompt, LONG) for name, side in sides.items()},
        rounds=11,
    )
    limit = LONG * _models.decode_limit(sides[OURS].stack) / 2
    what = "its weights read once a token, 16 bits of each"
    return Result(times, (LONG, "tok"), limit, what, (Target(PEER, 1 / 2),))


@row("rwkv4-prefill-fp32", needs=(PEER,))
def prefill_fp32(lab: Lab) -> Result:
    return _prefill(lab, torch.float32, Target(PEER, 1 / 1.15))


@row("rwkv4-prefill-bf16", needs=(PEER,))
def prefill_bf16(lab: Lab) -> Result:
    return _prefill(lab, torch.bfloat16, Target(PEER, 1 / 2))
