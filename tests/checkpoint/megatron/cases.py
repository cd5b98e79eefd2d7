"""What the tests of Megatron's layouts share: a tiny model, and the way back to a stack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laminogram.checkpoint.loading import load_into
from laminogram.checkpoint.megatron import read_megatron
from laminogram.stack.stack import Stack

TINY: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 13,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def parameters(stack: torch.nn.Module) -> dict[str, Tensor]:
    """A stack's tensors by name, without their gradients."""
    return {name: p.detach() for name, p in stack.named_parameters()}


def reread(path: Path, **options: Any) -> Stack:
    """The stack that a Megatron checkpoint loads into."""
    described = read_megatron(path, **options)
    stack = Stack(described.config, device="meta", dtype=torch.float32)
    load_into(stack, described.checkpoint, described.layout, config=described.config)
    return stack
