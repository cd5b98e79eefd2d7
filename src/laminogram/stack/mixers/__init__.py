"""Token mixers and channel mixers, one file a kind, made from their configuration.

A mixer is `forward(h, ctx, slot, taps) -> out` and `new_slot(batch, capacity, device, dtype)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from laminogram.stack.config import (
    AttentionConfig,
    AttnConfig,
    ChannelMix4Config,
    ChannelMix6Config,
    ChannelMix7Config,
    FfnConfig,
    LatentAttentionConfig,
    LayerConfig,
    MLPConfig,
    MoEConfig,
    TimeMix4Config,
    TimeMix5Config,
    TimeMix6Config,
    TimeMix7Config,
)
from laminogram.stack.context import Context, Rotary
from laminogram.stack.mixers import block_fused, matrix_state_fused, rwkv4_decode
from laminogram.stack.mixers.attention import Attention
from laminogram.stack.mixers.latent import LatentAttention
from laminogram.stack.mixers.mlp import MLP
from laminogram.stack.mixers.moe import MoE
from laminogram.stack.mixers.rwkv4 import ChannelMix4, TimeMix4
from laminogram.stack.mixers.rwkv5 import TimeMix5
from laminogram.stack.mixers.rwkv6 import ChannelMix6, TimeMix6
from laminogram.stack.mixers.rwkv7 import ChannelMix7, TimeMix7
from laminogram.stack.taps import Taps

RowDecoder = Callable[[Tensor, Context], Tensor]
"""`(x (1, 1, C), ctx) -> (1, 1, C)`: a layer's forward, with the memory that it was made for."""
FindRowDecoder = Callable[..., RowDecoder | None]
"""`(layer, slot, dtype)`: the decoder of a layer, or None where a token must go the usual way."""

_MATRIX_STATES = (
    (TimeMix5Config, ChannelMix4Config),
    (TimeMix6Config, ChannelMix6Config),
    (TimeMix7Config, ChannelMix7Config),
)
"""What the layers of RWKV-5, 6 and 7 are made of."""


class Mixer(Protocol):
    """What every mixer can do: answer (B, T, C), and say what it remembers."""

    def __call__(self, h: Tensor, ctx: Context, slot: Any, taps: Taps) -> Tensor: ...

    def new_slot(
        self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> Any: ...


def token_mixer(config: AttnConfig, size: int, rotary: Rotary) -> nn.Module:
    """The token mixer that a configuration describes, for a residual of `size` channels."""
    match config:
        case AttentionConfig():
            return Attention(config, size, rotary.index(config.rope))
        case LatentAttentionConfig():
            return LatentAttention(config, size, rotary.index(config.rope))
        case TimeMix4Config():
            return TimeMix4(config, size)
        case TimeMix5Config():
            return TimeMix5(config, size)
        case TimeMix6Config():
            return TimeMix6(config, size)
        case TimeMix7Config():
            return TimeMix7(config, size)


def row_decoder(config: LayerConfig) -> FindRowDecoder | None:
    """The shortest path of a layer for one token of one row on a CPU; None where it has no path of
    its own for that."""
    if block_fused.has_fused_step(config):
        return block_fused.row_decoder
    if config.block == "pre" and (type(config.attn), type(config.ffn)) in _MATRIX_STATES:
        return matrix_state_fused.row_decoder
    four = isinstance(config.attn, TimeMix4Config) and isinstance(config.ffn, ChannelMix4Config)
    plain = config.block == "pre" and config.norm.kind == "layer"
    return rwkv4_decode.row_decoder if four and plain else None


def channel_mixer(config: FfnConfig, size: int) -> nn.Module:
    """The channel mixer that a configuration describes, for a residual of `size` channels."""
    match config:
        case MLPConfig():
            return MLP(config, size)
        case MoEConfig():
            return MoE(config, size)
        case ChannelMix4Config():
            return ChannelMix4(config, size)
        case ChannelMix6Config():
            return ChannelMix6(config, size)
        case ChannelMix7Config():
            return ChannelMix7(config, size)
