"""Weights stored as fp8 with a scale for each block, read as if they were stored plainly.

`x.weight` in F8_E4M3 comes with `x.weight_scale_inv`, one number for each block of rows and columns
(the last ones may be cut short); a weight is its entry times the number of its block. Each tensor
is multiplied out when it is asked for, so that no more than one exists besides the model. What
programs do with the activations at the same time (rounding them to fp8) is not repeated.

Source: DeepSeek-AI, "DeepSeek-V3" (arXiv 2412.19437), section 3.3, and the published files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from laminogram.checkpoint.reading import Checkpoint, TensorInfo
from laminogram.errors import CheckpointError, ConfigError

FIELD = "quantization_config"
SUFFIX = "_scale_inv"
_EXPECTED: dict[str, tuple[Any, ...]] = {
    "quant_method": ("fp8",),
    "fmt": ("e4m3", None),
    "activation_scheme": ("dynamic", None),
}


@dataclass
class BlockwiseCheckpoint(Checkpoint):
    """A checkpoint whose fp8 weights are given multiplied out, in `dtype`; their scales are hidden.

    `block` is the number of rows and columns that share a scale.
    """

    block: tuple[int, int] = (128, 128)
    dtype: torch.dtype = torch.bfloat16
    _scales: Mapping[str, TensorInfo] = field(default_factory=dict, repr=False)

    def get(self, name: str) -> Tensor:
        """The tensor; CheckpointError where it does not exist."""
        tensor = super().get(name)
        scale = name + SUFFIX
        if scale not in self._scales:
            return tensor
        inner = Checkpoint(self.path, self._scales, _files=self._files)
        return multiplied_out(tensor, inner.get(scale), self.block, self.dtype)


def multiplied_out(
    weight: Tensor, scale: Tensor, block: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    """`weight` (O, I) times the `scale` (blocks of O, blocks of I) of each entry's block.

    The product is formed in fp32 and rounded once, a row of blocks at a time.
    """
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    rows, columns = block
    for number, numbers in enumerate(scale.float()):
        part = slice(number * rows, (number + 1) * rows)
        spread = numbers.repeat_interleave(columns)[: weight.shape[1]]
        out[part] = (weight[part].float() * spread).to(dtype)
    return out


def plain(checkpoint: Checkpoint, source: Mapping[str, Any], dtype: torch.dtype) -> Checkpoint:
    """The checkpoint as if its weights were stored plainly, as the configuration `source` says.

    Without a `quantization_config` it is the checkpoint itself. ConfigError names a method that is
    not read, CheckpointError a scale that is missing, misshaped or left over.
    """
    block = _block(source)
    if block is None:
        return checkpoint
    tensors, scales = dict(checkpoint.tensors), {}
    for name in [name for name in tensors if name.endswith(SUFFIX)]:
        scales[name] = tensors.pop(name)
    fp8 = [name for name, info in tensors.items() if info.dtype == torch.float8_e4m3fn]
    for name in fp8:
        _check_scale(checkpoint, name, tensors[name], scales.get(name + SUFFIX), block)
        tensors[name] = TensorInfo(tensors[name].shape, dtype)
    idle = sorted(set(scales) - {name + SUFFIX for name in fp8})
    if idle:
        raise CheckpointError(
            f"{checkpoint.path}: {idle[0]} scales no tensor of dtype F8_E4M3 ({len(idle)} such)"
        )
    return BlockwiseCheckpoint(
        checkpoint.path, tensors, checkpoint.extras, checkpoint._files, block, dtype, scales
    )


def unquantised(source: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what it says of how weights are stored; ConfigError as in `plain`."""
    _block(source)
    return {name: value for name, value in source.items() if name != FIELD}


def _block(source: Mapping[str, Any]) -> tuple[int, int] | None:
    given = source.get(FIELD)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise ConfigError(f"{FIELD} is {given!r}; expected an object")
    for name, known in _EXPECTED.items():
        if given.get(name) not in known:
            raise ConfigError(
                f"{FIELD}: {name} {given.get(name)!r} is not read; expected {known[0]!r} with "
                "weight_block_size"
            )
    block = given.get("weight_block_size")
    sides = block if isinstance(block, list) else []
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise ConfigError(
            f"{FIELD}: weight_block_size is {block!r}; expected the rows and columns of a block, "
            "such as [128, 128]"
        )
    return sides[0], sides[1]


def _check_scale(
    checkpoint: Checkpoint,
    name: str,
    info: TensorInfo,
    scale: TensorInfo | None,
    block: tuple[int, int],
) -> None:
    if scale is None:
        raise CheckpointError(
            f"{checkpoint.path}: {name} is stored as F8_E4M3 and its scales, {name}{SUFFIX}, are "
            "missing"
        )
    expected = tuple(-(-size // side) for size, side in zip(info.shape, block, strict=False))
    if len(info.shape) != 2 or scale.shape != expected:
        raise CheckpointError(
            f"{checkpoint.path}: {name}{SUFFIX} has shape {scale.shape}; expected {expected} for a "
            f"weight of shape {info.shape} in blocks of {block[0]} x {block[1]}"
        )
    if not scale.dtype.is_floating_point:
        raise CheckpointError(f"{checkpoint.path}: {name}{SUFFIX} holds {scale.dtype}")
