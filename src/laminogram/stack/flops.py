"""What one token costs in each layer of a stack: FLOPs, cache and state, without running anything.

Counted: every weight matrix in a product, 2 x its entries a token; attention, 4 x heads x head size
for each position in view (scores and weighted sum); the state updates of RWKV. Of a mixture of
experts only those that a token meets. Not counted: norms, activations, rotary turns and token
shifts, which are small and read memory rather than multiply.
"""

from __future__ import annotations

from torch import nn

from laminogram.errors import FamilyError
from laminogram.plans.cost import Figures, Half
from laminogram.plans.plan import Part
from laminogram.stack.config import (
    AttentionConfig,
    AttnConfig,
    LatentAttentionConfig,
    TimeMix4Config,
    TimeMix5Config,
    TimeMix6Config,
    TimeMix7Config,
    WrappedLayerConfig,
)
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.moe import MoE
from laminogram.stack.quantise import weights_of
from laminogram.stack.stack import Stack

DEFAULT_CONTEXT = 1024
_RWKV4_OPERATIONS = 23
"""For each channel, counting every sum, product, maximum, division and exponential as one: 12 for
the answer from the state with the token's own bonus, 11 for the state after it (numerator,
denominator, scale)."""
_EAGLE_OPERATIONS = 5
"""RWKV-5 and 6, for each entry of the matrix state S: S r (2), S diag(w) (1), + v k^T (2)."""
_BONUS_OPERATIONS = 5
"""RWKV-5 and 6, for each channel: what a token reads of itself, r . (u * k) (3), times v, added
(2)."""
_RWKV7_OPERATIONS = 9
"""For each entry of the matrix state S: S a (2), S diag(w) (1), + (S a) b^T (2), + v k^T (2),
S r (2)."""


def figures(
    stack: Stack, context: int = DEFAULT_CONTEXT, *, v_first_from_embedding: bool = True
) -> Figures:
    """What a token costs in every layer, with `context` positions in attention's view.

    The bytes are those of the stack's own caches. v_first_from_embedding: count the value product
    that provides RWKV-7's side stream before the first step. FamilyError for a stack whose layers
    another library runs.
    """
    if any(isinstance(layer, WrappedLayerConfig) for layer in stack.config.layers):
        raise FamilyError(f"{stack.config.family} is run by transformers: its FLOPs are not known")
    size = stack.config.hidden_size
    layers = tuple(
        (
            _half(stack, index, "attn", attention_flops(config.attn, size, context)),
            _half(stack, index, "ffn", 0),
        )
        for index, config in enumerate(stack.config.layers)
    )
    ends = _head_flops(stack)
    if v_first_from_embedding and stack.provider is not None:
        ends += 2 * size * size
    return Figures(layers, ends, context)


def attention_flops(config: AttnConfig, size: int, context: int) -> int:
    """What a token mixer of width `size` computes for a token besides its square products."""
    if isinstance(config, AttentionConfig):
        seen = context if config.window is None else min(context, config.window)
        return 4 * config.num_attention_heads * config.head_dim * seen
    if isinstance(config, LatentAttentionConfig):
        return 2 * config.num_attention_heads * (config.qk_head_dim + config.v_head_dim) * context
    if isinstance(config, TimeMix4Config):
        return _RWKV4_OPERATIONS * config.attention_size
    if isinstance(config, TimeMix5Config | TimeMix6Config):
        width = config.num_attention_heads * config.head_dim
        thin = 0 if isinstance(config, TimeMix5Config) else _finch_flops(config, size, width)
        return thin + width * (_EAGLE_OPERATIONS * config.head_dim + _BONUS_OPERATIONS)
    return _low_rank_flops(config, size) + (
        _RWKV7_OPERATIONS * config.num_attention_heads * config.head_dim**2
    )


def _finch_flops(config: TimeMix6Config, size: int, width: int) -> int:
    """Two thin matrices each for the five token shifts and for the decay."""
    return 2 * (2 * 5 * config.mix_rank * size + config.decay_rank * (size + width))


def _low_rank_flops(config: TimeMix7Config, size: int) -> int:
    """Two thin matrices each for decay, rate, gate and, where it takes it, the side stream."""
    ranks = config.decay_rank + config.a_rank + config.gate_rank
    if not config.provides_v_first:
        ranks += config.v_rank
    return 2 * 2 * size * ranks


def idle_entries(module: nn.Module) -> int:
    """The entries of the weights in a module's experts that one token does not meet."""
    return sum(
        (part.config.num_experts - part.config.num_experts_per_tok)
        * sum(weight.numel() for _, weight in weights_of(part.expert(0)))
        for part in module.modules()
        if isinstance(part, MoE)
    )


def _product_flops(module: nn.Module) -> int:
    products = (part for part in module.modules() if isinstance(part, Linear))
    entries = sum(part.weight.shape[0] * part.weight.shape[1] for part in products)
    return 2 * (entries - idle_entries(module))


def _half(stack: Stack, index: int, part: Part, more_flops: int) -> Half:
    layer = stack.layer(index)
    flops = _product_flops(layer.get_submodule(part)) + more_flops
    if not stack.config.causal:
        return Half(flops)
    state, one_token = (_slot_bytes(stack, index, part, capacity) for capacity in (0, 1))
    return Half(flops, one_token - state, state)


def _slot_bytes(stack: Stack, index: int, part: Part, capacity: int) -> int:
    slot = stack.layer(index).new_slot(1, capacity, part)
    tensors = (tensor for _, one in slot.parts() for tensor in one.tensors().values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _head_flops(stack: Stack) -> int:
    config = stack.config
    if not config.head.present:
        return 0
    return _product_flops(stack.head) + 2 * config.vocab_size * config.hidden_size
