"""Runs the `rwkv` package: IDS OUT CONVERTED MODEL... (without their ending). Its own process.

OUT gets one tensor of logits for each model. CONVERTED, where not empty, is where the first model
is written as the package converts it. The package's class for version 7 leaves a tuned state in the
file to its caller, so that it is given here.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from rwkv.model import RWKV


def first_state(runner: Any) -> Any:
    """The tuned state of a model of version 7 that has one; None for all others."""
    weights = getattr(runner, "z", {})
    if "blocks.0.att.time_state" not in weights:
        return None
    state = runner.generate_zero_state()
    for layer in range(runner.args.n_layer):
        state[3 * layer + 1] = weights[f"blocks.{layer}.att.time_state"].clone()
    return state


ids, out, converted, *models = sys.argv[1:]
if converted:
    RWKV(model=models[0], strategy="cpu fp32", convert_and_save_and_exit=converted)
rows = torch.load(ids, weights_only=True).tolist()
found = []
for model in models:
    runner = RWKV(model=model, strategy="cpu fp32")
    logits = [runner.forward(row, first_state(runner), full_output=True)[0] for row in rows]
    found.append(torch.stack(logits))
torch.save(found, out)
