"""Weights in int8, one token at a time, beside the same model in fp32."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.cpu import _models
from benchmarks.lab import OURS, Lab, Result, Target, row
from benchmarks.sides import Laminogram

NEW_TOKENS = 16
SPREADS = {"rwkv4-169m": 0.35, "llama-125m": 0.35}
"""From the smallest ratio to the largest, rounded up: RWKV-4 0.425, 0.451, 0.444, 0.337 on an Intel
Xeon, 0.372, 0.324, 0.364 on the machine of the table; Llama there 0.394, 0.343, 0.308, 0.305."""


def _decode(lab: Lab, model: str) -> Result:
    from laminogram.stack.quantise import Scheme, quantised

    full: Any = _models.sides(lab, model, torch.float32, OURS)[OURS]
    small = Laminogram.of(quantised(full.stack, Scheme.parse("int8+head")))
    prompt = _models.ids(lab, model, 1, 1)
    works = {
        OURS: lambda: small.decode(prompt, NEW_TOKENS),
        "fp32": lambda: full.decode(prompt, NEW_TOKENS),
    }
    times = lab.race(works, rounds=15)
    limit = NEW_TOKENS * _models.decode_limit(small.stack)
    what = "its int8 weights read once a token"
    targets = (Target("fp32", 1 / 2),)
    return Result(times, (NEW_TOKENS, "tok"), limit, what, targets, spread=SPREADS[model])


@row("int8-decode-rwkv4")
def rwkv4(lab: Lab) -> Result:
    return _decode(lab, "rwkv4-169m")


@row("int8-decode-llama")
def llama(lab: Lab) -> Result:
    return _decode(lab, "llama-125m")
