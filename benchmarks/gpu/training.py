"""A training step of small RWKVs, loss and gradients in bf16 products, beside the kernels of fla.

The same step runs with either kernel, eagerly, since fla's takes no part in a compiled graph; and
with compiled layers, as a user trains who wants speed. fla tunes its kernels of RWKV-6 and 7 over
some hundreds of choices, for minutes: here over those with the fewest stages of a pipeline.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import _rwkv
from benchmarks.lab import OURS, Lab, Result, Target, row

EAGER, FLA = f"{OURS}, eager", "fla's kernel, eager"
PLAIN = f"{OURS}, plain torch, eager"


def _train(lab: Lab, shape: _rwkv.Shape, rows: int) -> Result:
    from laminogram.stack.kernels.wkv6 import wkv6 as wkv6_chunks
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

    begin = time.perf_counter()
    step(compiled)
    notes: dict[str, Any] = {"seconds to compile": round(time.perf_counter() - begin, 1)}
    sides: dict[str, Callable[[], None]] = {OURS: lambda: step(compiled), EAGER: step}
    targets = ()

    def with_kernel(kernel: Callable[..., tuple[Tensor, Tensor]]) -> None:
        with _rwkv.recurrence(version, kernel):
            step()

    if version == 6:
        sides[PLAIN] = lambda: with_kernel(wkv6_chunks)
    if lab.device == "cuda" and importlib.util.find_spec("fla") is not None:
        kernel = _FLA[version]()
        notes["fla's choices left"] = _tune_less("fla.ops")
        begin = time.perf_counter()
        with_kernel(kernel)
        notes["seconds of fla's tuning"] = round(time.perf_counter() - begin, 1)
        sides[FLA] = lambda: with_kernel(kernel)
        targets = (Target(FLA, 1.0),)
    times = lab.race(sides, rounds=5, repeat=3)
    if FLA in sides:
        ratio = times.ratio(EAGER, FLA)
        verdict = "met" if ratio <= 1.0 else "NOT met"
        notes["eager against fla's kernel"] = f"{ratio:.3f}  target 1.000  {verdict}"
    return Result(times, (rows * tokens, "tok"), targets=targets, notes=notes)


@functools.cache
def _tune_less(package: str) -> str:
    """Leaves the kernels of a package's loaded modules only the choices with fewest stages."""
    from triton.runtime.autotuner import Autotuner

    tuners: dict[int, Any] = {}
    for name in [name for name in sys.modules if name.startswith(f"{package}.")]:
        for one in vars(sys.modules[name]).values():
            while one is not None and not isinstance(one, Autotuner):
                one = one.__dict__.get("fn") if hasattr(one, "__dict__") else None
            if one is not None:
                tuners[id(one)] = one
    before = sum(len(tuner.configs) for tuner in tuners.values())
    for tuner in tuners.values():
        fewest = min(choice.num_stages for choice in tuner.configs)
        tuner.configs = [choice for choice in tuner.configs if choice.num_stages == fewest]
    return f"{sum(len(tuner.configs) for tuner in tuners.values())} of {before}"


def _fla4() -> Callable[..., tuple[Tensor, Tensor]]:
    from fla.ops.rwkv4 import fused_recurrent_rwkv4

    from laminogram.stack.kernels import wkv4_empty_state

    def wkv4(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Any = None, lengths: Any = None):
        if state is None:
            state = wkv4_empty_state(len(k), k.shape[2], device=k.device, dtype=torch.float32)
        y, after = fused_recurrent_rwkv4(w, u, k, v, state[:, :, None])
        return y, after[:, :, 0]

    return wkv4


def _fla6() -> Callable[..., tuple[Tensor, Tensor]]:
    from fla.ops.rwkv6 import chunk_rwkv6

    def wkv6(r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor, *_: Any):
        r, k, v, u = (x.bfloat16() for x in (r, k, v, u))
        start = {"initial_state": state.mT.contiguous(), "output_final_state": True}
        o, after = chunk_rwkv6(r, k, v, w.log(), u, scale=1.0, **start)
        return o.float(), after.mT

    return wkv6


def _fla7() -> Callable[..., tuple[Tensor, Tensor]]:
    from fla.ops.rwkv7 import chunk_rwkv7

    def wkv7(r: Tensor, w: Tensor, *rest: Any):
        *values, state = (x for x in rest if x is not None)
        r, *values = (x.bfloat16() for x in (r, *values))
        state = state.mT.contiguous()
        o, after = chunk_rwkv7(r, w.log(), *values, initial_state=state, output_final_state=True)
        return o.float(), after.mT

    return wkv7


_FLA = {4: _fla4, 6: _fla6, 7: _fla7}


@row("rwkv4-train-12x768")
def rwkv4_middle(lab: Lab) -> Result:
    return _train(lab, _rwkv.MIDDLE[4], 8)


@row("rwkv6-train-12x768")
def rwkv6_middle(lab: Lab) -> Result:
    return _train(lab, _rwkv.MIDDLE[6], 8)


@row("rwkv7-train-12x768")
def rwkv7_middle(lab: Lab) -> Result:
    return _train(lab, _rwkv.MIDDLE[7], 8)


@row("rwkv4-train-12x176")
def rwkv4_small(lab: Lab) -> Result:
    return _train(lab, _rwkv.SMALL[4], 128)


@row("rwkv7-train-6x64")
def rwkv7_small(lab: Lab) -> Result:
    return _train(lab, _rwkv.SMALL[7], 128)
