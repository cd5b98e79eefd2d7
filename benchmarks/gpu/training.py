"""A training step of small RWKVs, loss and gradients in bf16 products, beside the kernels of fla.

The same step runs with either kernel, eagerly, since fla's takes no part in a compiled graph; and
with compiled layers, as a user trains who wants speed.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import _rwkv
from benchmarks.lab import OURS, Lab, Result, Target, row

EAGER, FLA = f"{OURS}, eager", "fla's kernel, eager"


def _train(lab: Lab, shape: _rwkv.Shape, rows: int) -> Result:
    from laminogram.stack import kernels
    from laminogram.train.loop import row_losses

    version, tokens = shape.version, 512
    if lab.tiny:
        shape, rows, tokens = _rwkv.TINY[version], 1, 40
    path = _rwkv.written(shape, lab.device, lab.scratch)
    stack = _rwkv.opened(path, torch.float32, lab.device).train()
    for parameter in stack.parameters():
        parameter.requires_grad_(True)
    make = torch.Generator(lab.device).manual_seed(1)
    size = (rows, tokens + 1)
    ids = torch.randint(0, shape.vocab, size, device=lab.device, generator=make)
    torch._dynamo.reset()  # the limit on variants counts the rows before as well
    eager = stack.run_layer
    compiled = stack.compile_layers().run_layer

    def step(run_layer: Any = eager) -> None:
        stack.run_layer = run_layer
        stack.zero_grad(set_to_none=True)
        with torch.enable_grad(), torch.autocast(lab.device, dtype=torch.bfloat16):
            row_losses(stack, ids).mean().backward()

    def with_fla() -> None:
        with _replaced(kernels, f"wkv{version}", _FLA[version]()):
            step()

    begin = time.perf_counter()
    step(compiled)
    notes = {"seconds to compile": round(time.perf_counter() - begin, 1)}
    sides: dict[str, Callable[[], None]] = {OURS: lambda: step(compiled), EAGER: step}
    targets = ()
    if lab.device == "cuda" and importlib.util.find_spec("fla") is not None:
        begin = time.perf_counter()
        with_fla()
        notes["seconds of fla's tuning"] = round(time.perf_counter() - begin, 1)
        sides[FLA] = with_fla
        targets = (Target(FLA, 1.0),)
    times = lab.race(sides, rounds=5, repeat=3)
    if FLA in sides:
        notes["eager against fla's kernel"] = round(times.ratio(EAGER, FLA), 3)
    return Result(times, (rows * tokens, "tok"), targets=targets, notes=notes)


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _fla4() -> Callable[..., tuple[Tensor, Tensor]]:
    from fla.ops.rwkv4 import fused_recurrent_rwkv4

    from laminogram.stack.kernels import wkv4_empty_state

    def wkv4(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Any = None, lengths: Any = None):
        if state is None:
            state = wkv4_empty_state(len(k), k.shape[2], device=k.device, dtype=torch.float32)
        y, after = fused_recurrent_rwkv4(w, u, k, v, state[:, :, None])
        return y, after[:, :, 0]

    return wkv4


def _fla7() -> Callable[..., tuple[Tensor, Tensor]]:
    from fla.ops.rwkv7 import chunk_rwkv7

    def wkv7(r: Tensor, w: Tensor, *rest: Any):
        *values, state = (x for x in rest if x is not None)
        r, *values = (x.bfloat16() for x in (r, *values))
        state = state.mT.contiguous()
        o, after = chunk_rwkv7(r, w.log(), *values, initial_state=state, output_final_state=True)
        return o.float(), after.mT

    return wkv7


_FLA = {4: _fla4, 7: _fla7}


@row("rwkv4-train-12x768")
def rwkv4_middle(lab: Lab) -> Result:
    return _train(lab, _rwkv.MIDDLE[4], 8)


@row("rwkv7-train-12x768")
def rwkv7_middle(lab: Lab) -> Result:
    return _train(lab, _rwkv.MIDDLE[7], 8)


@row("rwkv4-train-12x176")
def rwkv4_small(lab: Lab) -> Result:
    return _train(lab, _rwkv.SMALL[4], 128)


@row("rwkv7-train-6x64")
def rwkv7_small(lab: Lab) -> Result:
    return _train(lab, _rwkv.SMALL[7], 128)
