"""Tiny random models of other programs, drawn so that every quirk shows, and how to compare."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from laminogram.checkpoint.load import Described, describe
from laminogram.checkpoint.loading import load_into
from laminogram.stack.config import LayerConfig, StackConfig
from laminogram.stack.stack import Stack

VOCAB, HIDDEN, HEADS, LAYERS = 61, 32, 4, 3
TOLERANCE = 1e-4
_HERE = Path(__file__).parent


def draw(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights: sharp attention, norms far from 1, biases far from 0, mixes in (0, 1)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size, scale: float) -> Tensor:
        return torch.randn(shape, generator=generator) * scale

    with torch.no_grad():
        for name, p in model.named_parameters():
            sharp = any(part in name for part in ("q_proj", "k_proj", "query", "self.key"))
            if "time_mix" in name:
                p.copy_(torch.rand(p.shape, generator=generator))
            elif p.dim() > 1 and "embed" in name:
                p.copy_(normal(p.shape, 1.0))
            elif p.dim() > 1:
                p.copy_(normal(p.shape, (1.8 if sharp else 1.1) * p.shape[-1] ** -0.5))
            elif any(part in name.lower() for part in ("norm", "ln")) and name.endswith("weight"):
                p.copy_(1.5 + normal(p.shape, 0.5))
            else:
                p.copy_(normal(p.shape, 0.6))
    return model.eval()


def tokens(rows: int = 2, length: int = 23, seed: int = 1) -> Tensor:
    """Ids from 1 on: transformers' BERT gives its padding row, 0, no gradient."""
    return torch.randint(1, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def error(ours: Tensor, theirs: Tensor) -> float:
    """max|a - b| / max|b|, NaN counted as infinitely wrong."""
    found = float((ours - theirs).abs().max() / theirs.abs().max())
    return found if found == found else float("inf")


def load(
    path: Path,
    change: Callable[[StackConfig], StackConfig] = lambda config: config,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> Stack:
    """Our stack from a checkpoint, its configuration changed on the way."""
    described = describe(path, settings)
    return fill(described, change(described.config), options)


def fill(described: Described, config: StackConfig, options: dict[str, Any] | None = None) -> Stack:
    stack = Stack(config, device="meta", dtype=torch.float32)
    load_into(stack, described.checkpoint, described.layout, config=config, options=options)
    return stack


def every_layer(config: StackConfig, change: Callable[[LayerConfig], LayerConfig]) -> StackConfig:
    return replace(config, layers=tuple(change(layer) for layer in config.layers))


def in_mixer(config: StackConfig, part: str, **fields: Any) -> StackConfig:
    """Every layer's `attn`, `ffn` or `norm` with other fields."""
    return every_layer(
        config,
        lambda layer: replace(layer, **{part: replace(getattr(layer, part), **fields)}),
    )


def hidden_states(stack: Stack, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What every layer leaves in the residual stream, and the logits."""
    states: list[Tensor] = []
    run = stack.run_layer

    def keep(*args: Any) -> Tensor:
        states.append(run(*args))
        return states[-1]

    stack.run_layer = keep
    logits = stack(x)
    stack.run_layer = run
    return states, logits


def blink(generation: int, seed: int = 0, layers: int = LAYERS) -> dict[str, Tensor]:
    """A BlinkDL checkpoint with random weights; v7 has two heads, and each rank its own size."""
    generator = torch.Generator().manual_seed(seed)
    size, inner = HIDDEN, 2 * HIDDEN if generation == 4 else 4 * HIDDEN

    def normal(*shape: int, scale: float | None = None) -> Tensor:
        scale = 1.1 * shape[-1] ** -0.5 if scale is None else scale
        return torch.randn(shape, generator=generator) * scale

    def mix() -> Tensor:
        return torch.rand(1, 1, size, generator=generator)

    def norm(name: str) -> dict[str, Tensor]:
        weight = 1.5 + normal(size, scale=0.5)
        return {f"{name}.weight": weight, f"{name}.bias": normal(size, scale=0.4)}

    out = {"emb.weight": normal(VOCAB, size, scale=0.5), **norm("blocks.0.ln0")}
    for i in range(layers):
        block = f"blocks.{i}"
        out |= norm(f"{block}.ln1") | norm(f"{block}.ln2")
        attention = _blink4(normal, mix) if generation == 4 else _blink7(normal, mix, norm, i)
        out |= {f"{block}.att.{name}": value for name, value in attention.items()}
        for name in ("receptance", "key", "value", "output"):
            # Small values make v7's group norm feel its epsilon.
            scale = 0.002 if generation == 7 and name == "value" else 0.25
            out[f"{block}.att.{name}.weight"] = normal(size, size, scale=scale)
        mixes = ("time_mix_k", "time_mix_r") if generation == 4 else ("x_k",)
        out |= {f"{block}.ffn.{name}": mix() for name in mixes}
        out[f"{block}.ffn.key.weight"] = normal(inner, size)
        out[f"{block}.ffn.value.weight"] = normal(size, inner)
        if generation == 4:
            out[f"{block}.ffn.receptance.weight"] = normal(size, size)
    return out | norm("ln_out") | {"head.weight": normal(VOCAB, size)}


def _blink4(normal: Callable[..., Tensor], mix: Callable[[], Tensor]) -> dict[str, Tensor]:
    named = {f"time_mix_{name}": mix() for name in "kvr"}
    return named | {
        "time_decay": normal(HIDDEN, scale=1.5),
        "time_first": normal(HIDDEN, scale=1.0),
    }


def _blink7(
    normal: Callable[..., Tensor],
    mix: Callable[[], Tensor],
    norm: Callable[[str], dict[str, Tensor]],
    layer: int,
) -> dict[str, Tensor]:
    out = {f"x_{name}": mix() for name in "rwkvag"}
    for name, rank in (("w", 6), ("a", 5), ("v", 3 + layer), ("g", 7)):
        if name != "g":
            out[f"{name}0"] = normal(1, 1, HIDDEN, scale=1.0)
        out[f"{name}1"] = normal(HIDDEN, rank, scale=0.4)
        out[f"{name}2"] = normal(rank, HIDDEN, scale=0.6)
    out["k_k"], out["k_a"] = normal(1, 1, HIDDEN, scale=1.0), normal(1, 1, HIDDEN, scale=1.0)
    out["r_k"] = normal(2, HIDDEN // 2, scale=1.0)
    return out | norm("ln_x")


def run_rwkv(
    model: Path,
    ids: Tensor,
    out: Path,
    *,
    generation: int,
    convert: Path | None = None,
    every: int = 0,
) -> Tensor | None:
    """Logits (B, T, V) of the `rwkv` package in a process of its own, or a file it converted."""
    options = {"RWKV_V7_ON": "1" if generation == 7 else "0"}
    if every:
        options["RWKV_RESCALE_LAYER"] = str(every)
    _rwkv_process([model], ids, out, options, convert)
    return None if convert else torch.load(out, weights_only=True)[0]


def run_rwkv_each(models: list[Path], ids: Tensor, out: Path) -> list[Tensor]:
    """Logits of several models before version 7, all in one process."""
    _rwkv_process(models, ids, out, {"RWKV_V7_ON": "0"}, None)
    found: list[Tensor] = torch.load(out, weights_only=True)
    return found


def _rwkv_process(
    models: list[Path], ids: Tensor, out: Path, options: dict[str, str], convert: Path | None
) -> None:
    environment = os.environ | {"RWKV_JIT_ON": "0", "RWKV_CUDA_ON": "0", "OMP_NUM_THREADS": "1"}
    torch.save(ids, out.with_suffix(".ids"))
    command = [
        sys.executable,
        str(_HERE / "run_rwkv.py"),
        str(out.with_suffix(".ids")),
        str(out),
        str(convert or ""),
        *(str(model.with_suffix("")) for model in models),
    ]
    done = subprocess.run(
        command, env=environment | options, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the rwkv package failed: {done.stderr[-2000:]}")
