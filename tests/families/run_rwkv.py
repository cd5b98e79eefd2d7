"""Runs the `rwkv` package: MODEL (without its ending) IDS OUT [CONVERTED]. Its own process."""

from __future__ import annotations

import sys

import torch
from rwkv.model import RWKV

model, ids, out, converted = sys.argv[1:5]
if converted:
    RWKV(model=model, strategy="cpu fp32", convert_and_save_and_exit=converted)
runner = RWKV(model=model, strategy="cpu fp32")
rows = [
    runner.forward(row, None, full_output=True)[0]
    for row in torch.load(ids, weights_only=True).tolist()
]
torch.save(torch.stack(rows), out)
