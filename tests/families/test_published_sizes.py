"""The published configurations of dense decoders are read, and have the published sizes.

Each configuration is what the model's config.json says, bookkeeping fields included; its number of
parameters is what transformers counts when it builds the same configuration on the meta device.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from laminogram import families
from laminogram.stack.stack import Stack

_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.40.0",
    "use_cache": True,
    "vocab_size": 32000,
}
_LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
_SMOL = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "is_llama_config": True,
    "max_position_embeddings": 8192,
    "num_attention_heads": 9,
    "num_hidden_layers": 30,
    "num_key_value_heads": 3,
    "rope_interleaved": False,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "vocab_size": 49152,
}
_QWEN = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "qwen2",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
_GEMMA = {
    "architectures": ["GemmaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "hidden_size": 2048,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "vocab_size": 256000,
}
_PHI3 = {
    "architectures": ["Phi3ForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
    "attention_bias": False,
    "attention_dropout": 0.0,
    "embd_pdrop": 0.0,
    "eos_token_id": 32000,
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "model_type": "phi3",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "sliding_window": 2047,
    "tie_word_embeddings": False,
    "vocab_size": 32064,
}
_GLM = {
    "architectures": ["GlmForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": [151329, 151336, 151338],
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 13696,
    "max_position_embeddings": 8192,
    "model_type": "glm",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 2,
    "pad_token_id": 151329,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 1.5625e-07,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 151552,
}
_GPT2 = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "layer_norm_epsilon": 1e-5,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
_GPT2_XL = {
    "n_embd": 1600,
    "n_head": 25,
    "n_layer": 48,
    "n_special": 0,
    "output_past": True,
    "predict_special_tokens": True,
}
_GPT_NEO = {
    "activation_function": "gelu_new",
    "architectures": ["GPTNeoForCausalLM"],
    "attention_dropout": 0,
    "attention_layers": ["global", "local"] * 6,
    "attention_types": [[["global", "local"], 6]],
    "embed_dropout": 0,
    "gradient_checkpointing": False,
    "hidden_size": 768,
    "intermediate_size": None,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neo",
    "num_heads": 12,
    "num_layers": 12,
    "resid_dropout": 0,
    "summary_type": "cls_index",
    "vocab_size": 50257,
    "window_size": 256,
}
_MISTRAL = _LLAMA | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "sliding_window": 4096,
}
_QWEN3 = _QWEN | {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "attention_bias": False,
    "head_dim": 128,
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rope_scaling": None,
    "sliding_window": None,
    "vocab_size": 151936,
}
_QWEN_HALF = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
    "vocab_size": 151936,
}
_PHI4_MINI = {
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "max_position_embeddings": 131072,
    "rope_scaling": {"type": "longrope", "long_factor": [4.0] * 48, "short_factor": [1.0] * 48},
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
_GLM4_32B = {
    "architectures": ["Glm4ForCausalLM"],
    "model_type": "glm4",
    "attention_bias": False,
    "hidden_size": 6144,
    "intermediate_size": 23040,
    "max_position_embeddings": 32768,
    "num_attention_heads": 48,
    "num_hidden_layers": 61,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-5,
}

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "Llama-2-7B": (_LLAMA, 6_738_415_616),
    "Llama-3.1-8B": (
        _LLAMA
        | {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128256}
        | {"max_position_embeddings": 131072, "rope_theta": 500000.0, "mlp_bias": False}
        | {"rope_scaling": _LLAMA3_ROPE, "eos_token_id": [128001, 128008, 128009]},
        8_030_261_248,
    ),
    "Yi-6B": (
        _LLAMA | {"num_key_value_heads": 4, "rope_theta": 5000000.0, "vocab_size": 64000},
        6_061_035_520,
    ),
    "deepseek-llm-7b": (_LLAMA | {"num_hidden_layers": 30, "vocab_size": 102400}, 6_910_365_696),
    "SmolLM2-135M": (_LLAMA | _SMOL, 134_515_008),
    "Mistral-7B-v0.1": (_MISTRAL, 7_241_732_096),
    "Qwen2-7B": (_QWEN, 7_615_616_512),
    "Qwen2.5-0.5B": (_QWEN | _QWEN_HALF, 494_032_768),
    "Qwen3-8B": (_QWEN3, 8_190_735_360),
    "gemma-2b": (_GEMMA, 2_506_172_416),
    "gemma-7b": (
        _GEMMA
        | {"hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28}
        | {"num_attention_heads": 16, "num_key_value_heads": 16},
        8_537_680_896,
    ),
    "Phi-3-mini-4k": (_PHI3, 3_821_079_552),
    "Phi-4-mini": (_PHI3 | _PHI4_MINI, 3_836_021_760),
    "glm-4-9b-hf": (_GLM, 9_399_951_360),
    "GLM-4-32B-0414": (_GLM | _GLM4_32B, 33_141_749_760),
    "gpt2": (_GPT2, 124_439_808),
    "gpt2-xl": (_GPT2 | _GPT2_XL, 1_557_611_200),
    "gpt-neo-125m": (_GPT_NEO, 125_198_592),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size(name: str) -> None:
    source, size = PUBLISHED[name]
    stack = Stack(families.find(source).config(source), device="meta", dtype=torch.bfloat16)
    assert sum(p.numel() for p in stack.parameters()) == size
