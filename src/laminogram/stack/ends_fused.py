"""What the compiled kernels take of the ends of a stack, where the way of one token of one row on a
CPU begins (`kernels/token/embed.py`), and where it ends: a final norm and a head of one product
(`kernels/token/head.py`)."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from laminogram.stack.ends import Embedding, Head
from laminogram.stack.kernels.matvec import dtype_kind
from laminogram.stack.mixers.fused import (
    STREAMS,
    Stage,
    Value,
    Weights,
    kind_of_norm,
    scaled,
    stored,
    vector,
)

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack


@cache
def _kernel(end: str) -> ModuleType:
    return importlib.import_module(f"laminogram.stack.kernels.token.{end}")


def embed_stage(embed: Embedding, dtype: torch.dtype) -> Stage | None:
    """The stage that makes a residual stream in this dtype of the number of a token; None where the
    kernel does not take the embedding, or places and types have a part in it."""
    config, table = embed.config, embed.tokens.weight
    plain = type(embed) is Embedding and config.types is None and config.positions is None
    if not plain or config.scale != 1 or dtype not in STREAMS:
        return None
    if not isinstance(table, Tensor) or table.dtype is not dtype or not table.is_contiguous():
        return None
    values: dict[str, Value] = {
        "KIND": dtype_kind(dtype),
        "ROWS": table.data_ptr(),
        "SIZE": table.shape[1],
        "NORM": -1,
    }
    if config.norm is not None:
        norm = embed.norm
        if norm.weight.dtype is not dtype:
            return None
        values |= {
            "NORM": kind_of_norm(norm),
            "TABLE": np.stack(scaled(norm)),
            "EPS": np.array([norm.eps], np.float32),
        }
    return Stage(None, _kernel("embed"), values)


def is_one_product(stack: Stack) -> bool:
    """Whether logits are one product of what the final norm gives."""
    config = stack.config.head
    more = config.transform is not None or config.norm is not None or config.normalised
    plain = type(stack.head) is Head and stack.config.final_norm is not None
    return plain and config.present and not more


def head_stage(stack: Stack, dtype: torch.dtype, short: bool) -> Stage | None:
    """The stage that makes logits of a residual stream in this dtype; None where the kernel does
    not take them. With `short` copies of the weight may be read."""
    head = stack.head
    if dtype not in STREAMS or not is_one_product(stack):
        return None
    norm, product = stack.final_norm, stack.embed.tokens if head.weight is None else head
    found = stored((product,))
    if found is None or norm.weight.dtype is not dtype:
        return None
    numbers, steps = found[0]
    if steps is None and numbers.dtype is not dtype:
        return None
    bias: int | np.ndarray = 0 if head.bias is None else vector(head.bias)
    values: dict[str, Value] = {
        "KIND": dtype_kind(dtype),
        "NORM": kind_of_norm(norm),
        "SIZE": norm.size,
        "TABLE": np.stack(scaled(norm)),
        "BIAS": bias,
        "EPS": np.array([norm.eps], np.float32),
    }
    weights = values["WEIGHTS"] = Weights((product,), found, short)
    return Stage(weights, _kernel("head"), values)
