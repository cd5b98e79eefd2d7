"""What is to be written, from a stack's tensors or from a Megatron checkpoint that is cut anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from laminogram.checkpoint.load import Described
from laminogram.checkpoint.megatron.arguments import arguments_of, dtype_arguments
from laminogram.checkpoint.megatron.naming import EMBEDDING, LAYOUT, LINEARS, OUTPUT
from laminogram.checkpoint.megatron.target import Model, Target
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import CheckpointError
from laminogram.stack.config import AttentionConfig, StackConfig

_PLAIN = (str, int, float, bool, type(None), torch.dtype)


def from_stack(
    tensors: Mapping[str, Tensor],
    config: StackConfig,
    target: Target,
    *,
    infos: Mapping[str, TensorInfo] | None = None,
    lossy: bool = False,
) -> Model:
    """The model of a stack's parameters by our names; arguments are those of `write_megatron`."""
    known = dict(
        infos or {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    )
    arguments = arguments_for(config, lossy=lossy)
    mapping = LAYOUT.bind(config)
    blank = {
        name: torch.empty(info.shape, dtype=info.dtype, device="meta")
        for name, info in known.items()
    }
    wanted: dict[str, TensorInfo] = {}
    for name in mapping.names_of_theirs(list(known)):
        bound = mapping.theirs(name)
        assert bound is not None
        made = bound.write(blank.__getitem__)
        wanted[name] = TensorInfo(tuple(made.shape), made.dtype)

    def get(name: str) -> Tensor:
        bound = mapping.theirs(name)
        assert bound is not None
        return bound.write(tensors.__getitem__)

    return compose(wanted, get, arguments, target)


def cut_anew(described: Described, target: Target, dtype: torch.dtype | None = None) -> Model:
    """The model of an open Megatron checkpoint, dtype None for its own; CheckpointError where a
    tied head is none."""
    checkpoint = described.checkpoint
    infos = {
        name: TensorInfo(info.shape, dtype or info.dtype)
        for name, info in checkpoint.tensors.items()
    }
    if described.config.head.tied and OUTPUT in infos:
        if not torch.equal(checkpoint.get(OUTPUT), checkpoint.get(EMBEDDING)):
            raise CheckpointError(
                f"{checkpoint.path}: {OUTPUT} differs from {EMBEDDING}; under its arguments the "
                "model has one tensor for both"
            )
        del infos[OUTPUT]
    stored = checkpoint.extras.get("arguments") or {}
    kept = {name: value for name, value in stored.items() if _is_plain(value)}

    def get(name: str) -> Tensor:
        return checkpoint.get(name).to(infos[name].dtype)

    # Its config.json may tell of scaling beyond the trained length, which its ranks never had.
    arguments = arguments_for(described.config, lossy=True)
    return compose(infos, get, arguments, target, kept)


def arguments_for(config: StackConfig, *, lossy: bool) -> dict[str, Any]:
    """Megatron's arguments for a model; lossy: without scaling beyond the trained length."""
    return arguments_of(_within_trained_length(config) if lossy else config)


def compose(
    infos: Mapping[str, TensorInfo],
    get: Callable[[str], Tensor],
    arguments: Mapping[str, Any],
    target: Target,
    kept: Mapping[str, Any] | None = None,
) -> Model:
    """The model with what Megatron needs besides: biases of zeros where one bias brings all.

    infos, get: whole tensors by global name. kept: arguments of an earlier run. ConfigError where
    the model cannot be cut as the target says.
    """
    complete = dict(infos)
    if arguments["add_bias_linear"]:
        for layer in range(int(arguments["num_layers"])):
            for module in LINEARS:
                stem = f"decoder.layers.{layer}.{module}"
                weight = infos[f"{stem}.weight"]
                rows = TensorInfo(weight.shape[:1], weight.dtype)
                complete.setdefault(f"{stem}.bias", rows)
    dtype = infos[EMBEDDING].dtype

    def made(name: str) -> Tensor:
        if name in infos:
            return get(name)
        return torch.zeros(complete[name].shape, dtype=complete[name].dtype)

    said = {**arguments, **dtype_arguments(dtype)}
    model = Model(complete, made, said, target, dict(kept or {}))
    model.check()
    return model


def _within_trained_length(config: StackConfig) -> StackConfig:
    layers = []
    for layer in config.layers:
        attn = layer.attn
        rope = attn.rope if isinstance(attn, AttentionConfig) else None
        if isinstance(attn, AttentionConfig) and rope is not None and rope.kind == "dynamic":
            attn = replace(attn, rope=replace(rope, kind="default", parameters={}))
        layers.append(replace(layer, attn=attn))
    return replace(config, layers=tuple(layers))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return isinstance(value, _PLAIN)
