"""Small random stacks of every skeleton, with weights drawn so that quirks show."""

from __future__ import annotations

import torch

from laminogram.stack.config import (
    AttentionConfig,
    ChannelMix4Config,
    ChannelMix7Config,
    EmbeddingConfig,
    HeadConfig,
    LayerConfig,
    MLPConfig,
    NormConfig,
    RopeConfig,
    StackConfig,
    TimeMix4Config,
    TimeMix7Config,
)
from laminogram.stack.stack import Stack
from laminogram.view import View

KINDS = ("llama", "gpt_neox", "bert", "rwkv4", "rwkv7")
CAUSAL = tuple(kind for kind in KINDS if kind != "bert")
VOCABULARY, WIDTH, LAYERS = 50, 32, 3


def config_of(kind: str, layers: int = LAYERS) -> StackConfig:
    """The configuration of a small stack: 32 channels, 50 tokens."""
    layer_norm = NormConfig(kind="layer", bias=True)
    rms = NormConfig(kind="rms", eps=1e-6)
    norm = rms if kind == "llama" else layer_norm
    return StackConfig(
        family=kind,
        hidden_size=WIDTH,
        vocab_size=VOCABULARY,
        layers=tuple(_layer(kind, norm, first=i == 0) for i in range(layers)),
        embedding=EmbeddingConfig(
            positions=64 if kind == "bert" else None,
            types=2 if kind == "bert" else None,
            norm=layer_norm if kind in ("bert", "rwkv4", "rwkv7") else None,
        ),
        final_norm=None if kind == "bert" else norm,
        head=HeadConfig(tied=True, bias=True, transform="gelu", norm=layer_norm)
        if kind == "bert"
        else HeadConfig(),
        max_position_embeddings=64,
    )


def _layer(kind: str, norm: NormConfig, *, first: bool) -> LayerConfig:
    if kind == "rwkv4":
        return LayerConfig(
            block="pre",
            norm=norm,
            attn=TimeMix4Config(attention_size=WIDTH),
            ffn=ChannelMix4Config(intermediate_size=64),
        )
    if kind == "rwkv7":
        attn7 = TimeMix7Config(
            num_attention_heads=2,
            head_dim=16,
            decay_rank=8,
            a_rank=8,
            v_rank=8,
            gate_rank=8,
            provides_v_first=first,
        )
        return LayerConfig(
            block="pre", norm=norm, attn=attn7, ffn=ChannelMix7Config(intermediate_size=64)
        )
    rope = (
        None if kind == "bert" else RopeConfig(theta=1e4, rotary_dims=8 if kind == "llama" else 4)
    )
    attn = AttentionConfig(
        num_attention_heads=4,
        num_key_value_heads=2 if kind == "llama" else 4,
        head_dim=8,
        qkv_bias=kind != "llama",
        o_bias=kind != "llama",
        causal=kind != "bert",
        rope=rope,
    )
    ffn = MLPConfig(
        intermediate_size=48,
        activation="silu" if kind == "llama" else "gelu",
        gated=kind == "llama",
        bias=kind != "llama",
    )
    block = {"llama": "pre", "gpt_neox": "parallel", "bert": "post"}[kind]
    return LayerConfig(block=block, norm=norm, attn=attn, ffn=ffn)  # type: ignore[arg-type]


def stack_of(kind: str, seed: int = 0, layers: int = LAYERS) -> Stack:
    """A stack with random weights: attention far from uniform, norms not 1, biases not 0."""
    stack = Stack(config_of(kind, layers))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if ".mix_" in name:
                parameter.uniform_(0, 1, generator=generator)
                continue
            parameter.normal_(0, 0.3, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return stack


def view_of(kind: str, seed: int = 0, layers: int = LAYERS) -> View:
    """A view of `stack_of`, without a tokenizer."""
    stack = stack_of(kind, seed, layers)
    return View(stack, None, kind, stack.full_plan())


def ids_of(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Random token ids (rows, columns)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (rows, columns), generator=generator)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """max|a - b| / max|b|."""
    return float((found - expected).abs().max() / expected.abs().max())
