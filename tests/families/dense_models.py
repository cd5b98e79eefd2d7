"""The dense decoders of transformers that parity is held against: cases that show every quirk."""

from __future__ import annotations

from typing import Any

from tests.families import reference as ref
from tests.families.hf_models import WIDE, Case
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_GROUPED = WIDE | _TOKENS | {"num_key_value_heads": 2, "rms_norm_eps": 0.3}
_LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 6.0]}
_TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
_GPT2 = _TOKENS | {
    "vocab_size": ref.VOCAB,
    "n_embd": ref.HIDDEN,
    "n_layer": ref.LAYERS,
    "n_head": ref.HEADS,
    "n_positions": 32,
}


def _mistral(**fields: Any) -> Case:
    return Case(MistralForCausalLM, MistralConfig(**_GROUPED | fields))


def _qwen2(**fields: Any) -> Case:
    return Case(Qwen2ForCausalLM, Qwen2Config(**_GROUPED | fields))


def _qwen3(**fields: Any) -> Case:
    return Case(Qwen3ForCausalLM, Qwen3Config(**_GROUPED | {"head_dim": 12} | fields))


def _gemma(**fields: Any) -> Case:
    sizes = {"num_key_value_heads": 1, "head_dim": 16}
    return Case(GemmaForCausalLM, GemmaConfig(**_GROUPED | sizes | fields))


def _phi3(length: int = 23, rope: dict[str, Any] | None = None, **fields: Any) -> Case:
    rope = {"rope_theta": 100.0, "partial_rotary_factor": 0.5} | (rope or {"rope_type": "default"})
    sizes = {"original_max_position_embeddings": 16, "rope_parameters": rope}
    return Case(Phi3ForCausalLM, Phi3Config(**_GROUPED | sizes | fields), length)


def _gpt2(**fields: Any) -> Case:
    return Case(GPT2LMHeadModel, GPT2Config(**_GPT2 | fields))


def _gpt_neo(**fields: Any) -> Case:
    sizes = {"num_layers": ref.LAYERS, "num_heads": ref.HEADS, "hidden_size": ref.HIDDEN}
    sizes |= {"vocab_size": ref.VOCAB, "max_position_embeddings": 32, "window_size": 5}
    types = {"attention_types": [[["global", "local"], 1], [["global"], 1]]}
    return Case(GPTNeoForCausalLM, GPTNeoConfig(**_TOKENS | sizes | types | fields))


def dense_cases() -> dict[str, Case]:
    """One plain case for each family under its name, and those that its quirks need."""
    windows = {"use_sliding_window": True, "sliding_window": 5}
    glm = _GROUPED | {"head_dim": 8}
    return {
        "mistral": _mistral(sliding_window=7, head_dim=12),
        "mistral-everything": _mistral(sliding_window=None, num_key_value_heads=1),
        "qwen2": _qwen2(),
        "qwen2-windows": _qwen2(**windows, max_window_layers=1),
        "qwen2-types": _qwen2(**windows, layer_types=_TYPES, tie_word_embeddings=True),
        "qwen3": _qwen3(),
        "qwen3-biases": _qwen3(attention_bias=True, **windows, layer_types=_TYPES),
        "gemma": _gemma(),
        "gemma-biases": _gemma(attention_bias=True, hidden_act="gelu"),
        "phi3": _phi3(),
        "phi3-long": _phi3(rope=_LONG),
        "phi3-short": _phi3(13, rope=_LONG, sliding_window=6),
        "glm": Case(GlmForCausalLM, GlmConfig(**glm)),
        "glm-unbiased": Case(GlmForCausalLM, GlmConfig(**glm, attention_bias=False)),
        "glm4": Case(Glm4ForCausalLM, Glm4Config(**glm)),
        "gpt2": _gpt2(),
        "gpt2-scales": _gpt2(scale_attn_by_inverse_layer_idx=True, layer_norm_epsilon=0.3),
        "gpt2-unscaled": _gpt2(
            scale_attn_weights=False,
            reorder_and_upcast_attn=True,
            n_inner=40,
            tie_word_embeddings=False,
        ),
        "gpt_neo": _gpt_neo(),
        "gpt_neo-inner": _gpt_neo(intermediate_size=40, layer_norm_epsilon=0.3),
    }
