"""RWKV of 1.5 B: one text of 2048 tokens, beside the `rwkv` package with its CUDA kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import limits
from benchmarks.gpu import _rwkv, _rwkv_peer
from benchmarks.lab import LIMIT, OURS, Lab, Result, Target, row

PEER = _rwkv_peer.PACKAGE
TORCH = f"{OURS}, plain torch"
TOKENS = 2048


def _prefill(lab: Lab, version: int, dtype: torch.dtype, of_limit: float) -> Result:
    shape = (_rwkv.TINY if lab.tiny else _rwkv.BIG)[version]
    tokens = 64 if lab.tiny else TOKENS
    if lab.device == "cuda" and _rwkv_peer.installed():
        _rwkv_peer.compiling()
    path = _rwkv.written(shape, lab.device, lab.scratch)
    make = torch.Generator(lab.device).manual_seed(1)
    ids = torch.randint(0, shape.vocab, (1, tokens), device=lab.device, generator=make)

    torch._dynamo.reset()  # the limit on variants counts the rows before as well
    stack = _rwkv.opened(path, dtype, lab.device).eval()
    ours = _last_logits(stack.accelerate() if lab.device == "cuda" else stack.compile_layers(), ids)
    begin = time.perf_counter()
    found = [ours() for _ in range(3)][-1]  # compiled, captured, replayed
    notes: dict[str, Any] = {"seconds to compile": round(time.perf_counter() - begin, 1)}
    sides: dict[str, Callable[[], Any]] = {OURS: ours}
    if version == 6:
        sides[TORCH] = _in_plain_torch(path, dtype, lab, ids)
        notes["logits apart, kernels and plain torch"] = f"{_apart(found, sides[TORCH]()):.1e}"
    targets = [Target(LIMIT, 1 / of_limit)]
    if _rwkv_peer.installed():
        peer, listed = _rwkv_peer.peer(version, path, lab.device), ids[0].tolist()
        sides[PEER] = lambda: peer.last(listed)
        targets.append(Target(PEER, 1.0))
        notes["logits apart"] = f"{_apart(found, peer.last(listed)):.1e}"
        if lab.device == "cuda" and not peer.kernels:
            notes["rwkv without its CUDA kernels"] = "they could not be compiled, or not in time"
    times = lab.race(sides, repeat=3)
    limit = limits.products(shape.products(tokens), lab.device, dtype)
    return Result(times, (tokens, "tok"), limit, "its own products", tuple(targets), notes=notes)


def _last_logits(stack: Any, ids: Tensor) -> Callable[[], Tensor]:
    """The last token's logits (V,) of one row, with the state that decoding needs kept."""
    from laminogram.stack.batch import Batch
    from laminogram.stack.forward import run

    plan, batch = stack.full_plan(), Batch(ids, (ids.shape[1],), (0,), ids.shape[1])

    def last() -> Tensor:
        cache = stack.new_cache(1, plan, "benchmark")
        return run(stack, batch, plan, cache=cache, logits="last")[0, 0]

    return last


def _in_plain_torch(path: Path, dtype: torch.dtype, lab: Lab, ids: Tensor) -> Callable[[], Tensor]:
    """The same of a second stack of the file, captured with RWKV-6's recurrence in plain torch."""
    from laminogram.stack.kernels.wkv6 import wkv6

    stack = _rwkv.opened(path, dtype, lab.device).eval()
    torch._dynamo.reset()
    last = _last_logits(stack.accelerate() if lab.device == "cuda" else stack, ids)
    with _rwkv.recurrence(6, wkv6):
        for _ in range(3):
            last()
    return last


def _apart(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of the logits, relative to their spread."""
    return float((ours.float() - theirs.float()).abs().max() / ours.float().std())


@row("rwkv4-prefill-bf16")
def rwkv4_bf16(lab: Lab) -> Result:
    return _prefill(lab, 4, torch.bfloat16, 0.50)


@row("rwkv4-prefill-fp16")
def rwkv4_fp16(lab: Lab) -> Result:
    return _prefill(lab, 4, torch.float16, 0.50)


@row("rwkv6-prefill-bf16")
def rwkv6_bf16(lab: Lab) -> Result:
    return _prefill(lab, 6, torch.bfloat16, 0.40)


@row("rwkv7-prefill-bf16")
def rwkv7_bf16(lab: Lab) -> Result:
    return _prefill(lab, 7, torch.bfloat16, 0.40)


@row("rwkv7-prefill-fp16")
def rwkv7_fp16(lab: Lab) -> Result:
    return _prefill(lab, 7, torch.float16, 0.40)
