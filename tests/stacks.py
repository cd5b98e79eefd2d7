"""Small random stacks of every skeleton, with weights drawn so that quirks show."""

from __future__ import annotations

from dataclasses import replace

import torch

from laminogram.stack.config import (
    AttentionConfig,
    ChannelMix4Config,
    ChannelMix6Config,
    ChannelMix7Config,
    EmbeddingConfig,
    HeadConfig,
    LatentAttentionConfig,
    LayerConfig,
    MLPConfig,
    MoEConfig,
    NormConfig,
    RopeConfig,
    StackConfig,
    TimeMix4Config,
    TimeMix5Config,
    TimeMix6Config,
    TimeMix7Config,
)
from laminogram.stack.stack import Stack
from laminogram.view import View

KINDS = ("llama", "gpt_neox", "moe", "latent", "alibi", "bert", "rwkv4", "rwkv5", "rwkv6", "rwkv7")
CAUSAL = tuple(kind for kind in KINDS if kind != "bert")
SIGNED = ("rwkv5", "rwkv6", "rwkv7")  # kinds whose pattern is signed and not normalised
VOCABULARY, WIDTH, LAYERS = 50, 32, 3


def config_of(kind: str, layers: int = LAYERS) -> StackConfig:
    """The configuration of a small stack: 32 channels, 50 tokens."""
    layer_norm = NormConfig(kind="layer", bias=True)
    rms = NormConfig(kind="rms", eps=1e-6)
    norm = rms if kind in ("llama", "moe", "latent", "alibi") else layer_norm
    return StackConfig(
        family=kind,
        hidden_size=WIDTH,
        vocab_size=VOCABULARY,
        layers=tuple(_layer(kind, norm, first=i == 0) for i in range(layers)),
        embedding=EmbeddingConfig(
            positions=64 if kind == "bert" else None,
            types=2 if kind == "bert" else None,
            norm=layer_norm if kind == "bert" or kind.startswith("rwkv") else None,
        ),
        final_norm=None if kind == "bert" else norm,
        head=HeadConfig(tied=True, bias=True, transform="gelu", norm=layer_norm)
        if kind == "bert"
        else HeadConfig(normalised=kind == "alibi"),
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
    if kind == "rwkv5":
        attn5 = TimeMix5Config(num_attention_heads=2, head_dim=16, initial_state=True)
        return LayerConfig(
            block="pre", norm=norm, attn=attn5, ffn=ChannelMix4Config(intermediate_size=64)
        )
    if kind == "rwkv6":
        attn6 = TimeMix6Config(num_attention_heads=2, head_dim=16, mix_rank=4, decay_rank=8)
        return LayerConfig(
            block="pre", norm=norm, attn=attn6, ffn=ChannelMix6Config(intermediate_size=64)
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
    if kind == "alibi":  # with it, what else a few families have: each is felt within 10 tokens
        grouped = _layer("llama", norm, first=first)
        # Without biases the later norms would hide a change of scale before them.
        biases = {"qkv_bias": True, "o_bias": True}
        slopes = {"rope": None, "alibi": True, "log_n": 6, "window": 9, "qk_norm": norm}
        return replace(
            grouped,
            block="sandwich",
            attn=replace(grouped.attn, **slopes, **biases),
            ffn=replace(grouped.ffn, bias=True),
        )
    if kind == "latent":
        latent = LatentAttentionConfig(
            num_attention_heads=4,
            q_lora_rank=12,
            kv_lora_rank=10,
            qk_nope_head_dim=6,
            qk_rope_head_dim=4,
            v_head_dim=8,
            rope=RopeConfig(theta=1e4, rotary_dims=4),
            norm=norm,
        )
        gated = MLPConfig(intermediate_size=48, activation="silu", gated=True)
        return LayerConfig(block="pre", norm=norm, attn=latent, ffn=gated)
    if kind == "moe":
        experts = MoEConfig(
            num_experts=6,
            num_experts_per_tok=2,
            intermediate_size=16,
            activation="silu",
            scoring="sigmoid",
            norm_topk_prob=True,
            routed_scaling_factor=1.5,
            correction_bias=True,
            n_group=3,
            topk_group=2,
            best_of_group=2,
            shared_intermediate_size=24,
        )
        grouped = _layer("llama", norm, first=first)
        return LayerConfig(block="pre", norm=norm, attn=grouped.attn, ffn=experts)
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
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())
