"""Normalisation over the last axis, and activation functions by their Hugging Face names."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.errors import ConfigError
from laminogram.stack.config import NormConfig
from laminogram.stack.kernels.row_naive import RowNorm
from laminogram.stack.kernels.rows_triton import is_token, norm_tokens


class Norm(nn.Module):
    """RMSNorm or LayerNorm: `(..., C) -> (..., C)` in the dtype of its weight.

    The residual may be wider than the weights (fp32 above fp16): it is normalised in its own dtype
    and rounded once, afterwards.
    """

    bias: nn.Parameter | None

    def __init__(self, config: NormConfig, size: int) -> None:
        super().__init__()
        self.kind, self.eps, self.size = config.kind, config.eps, size
        self.offset = config.offset
        self.weight = nn.Parameter(torch.empty(size))
        if config.bias:
            self.bias = nn.Parameter(torch.empty(size))
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if x.is_cuda and is_token(x) and weight.is_cuda:
            return norm_tokens(x, RowNorm.of(self), weight.dtype)
        if self.offset:
            return self._offset(x)
        if x.dtype == weight.dtype:
            return self._normalised(x, weight, bias)
        wide = None if bias is None else bias.to(x.dtype)
        return self._normalised(x, weight.to(x.dtype), wide).to(weight.dtype)

    __call__ = forward  # as in `Linear`: a plain function

    def _offset(self, x: Tensor) -> Tensor:
        """With `weight + offset`, which bf16 could not hold: in fp32, and rounded once."""
        wide = torch.promote_types(x.dtype, torch.float32)
        bias = None if self.bias is None else self.bias.to(wide)
        out = self._normalised(x.to(wide), self.weight.to(wide) + self.offset, bias)
        return out.to(self.weight.dtype)

    def _normalised(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.kind == "layer":
            return F.layer_norm(x, (self.size,), weight, bias, self.eps)
        out = F.rms_norm(x, (self.size,), weight, self.eps)
        return out if bias is None else out + bias


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _relu_squared(x: Tensor) -> Tensor:
    return F.relu(x).square()


def relu_squared_(x: Tensor) -> Tensor:
    """The same of a tensor that nobody else holds: in place where no gradient is kept, since fresh
    memory takes longer than the work."""
    return _relu_squared(x) if torch.is_grad_enabled() else x.relu_().square_()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_fast": _gelu_tanh,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": F.relu,
    "relu2": _relu_squared,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation called `name` in Hugging Face configurations; ConfigError where unknown."""
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r} is unknown; there are {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
