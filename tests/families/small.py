"""One small configuration of every family, as config.json would hold it."""

from __future__ import annotations

from typing import Any

_DECODER: dict[str, Any] = {
    "vocab_size": 19,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 12,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
_GROUPED = _DECODER | {"num_key_value_heads": 2}
_LATENT = _DECODER | {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "topk_group": 1,
}
_RECURRENT = {
    "vocab_size": 19,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
}

SMALL: dict[str, dict[str, Any]] = {
    "baichuan": _DECODER | {"model_type": "baichuan"},
    "bert": _DECODER | {"model_type": "bert", "type_vocab_size": 2},
    "chatglm": {
        "model_type": "chatglm",
        "padded_vocab_size": 19,
        "hidden_size": 16,
        "num_layers": 2,
        "ffn_hidden_size": 12,
        "num_attention_heads": 4,
        "multi_query_group_num": 2,
        "multi_query_attention": True,
        "kv_channels": 4,
        "add_qkv_bias": True,
        "seq_length": 32,
    },
    "deepseek_v2": _LATENT | {"model_type": "deepseek_v2", "topk_method": "group_limited_greedy"},
    "deepseek_v3": _LATENT | {"model_type": "deepseek_v3", "topk_group": 2},
    "gemma": _GROUPED | {"model_type": "gemma", "head_dim": 6},
    "glm": _GROUPED | {"model_type": "glm", "head_dim": 4},
    "glm4": _GROUPED | {"model_type": "glm4", "head_dim": 4},
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 19,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 32,
    },
    "gpt_neo": {
        "model_type": "gpt_neo",
        "vocab_size": 19,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 5,
        "max_position_embeddings": 32,
    },
    "gpt_neox": _DECODER | {"model_type": "gpt_neox", "rotary_pct": 0.5},
    "internlm2": _GROUPED | {"model_type": "internlm2"},
    "llama": _GROUPED | {"model_type": "llama"},
    "mistral": _GROUPED | {"model_type": "mistral", "sliding_window": 5},
    "mixtral": _GROUPED | {"model_type": "mixtral", "num_local_experts": 4},
    "phi3": _GROUPED | {"model_type": "phi3"},
    "qwen": _DECODER
    | {"model_type": "qwen", "kv_channels": 4, "seq_length": 8, "intermediate_size": 24},
    "qwen2": _GROUPED | {"model_type": "qwen2"},
    "qwen3": _GROUPED | {"model_type": "qwen3", "head_dim": 6},
    "qwen3_moe": _GROUPED
    | {
        "model_type": "qwen3_moe",
        "head_dim": 6,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
    },
    "roberta": _DECODER | {"model_type": "roberta", "pad_token_id": 1, "type_vocab_size": 1},
    "rwkv4": _RECURRENT | {"model_type": "rwkv"},
    "rwkv5": _RECURRENT | {"model_type": "rwkv5", "head_size": 8},
    "rwkv6": _RECURRENT | {"model_type": "rwkv6", "head_size": 8},
    "rwkv7": _RECURRENT
    | {
        "model_type": "rwkv7",
        "head_dim": 8,
        "decay_low_rank_dim": 4,
        "a_low_rank_dim": 4,
        "v_low_rank_dim": 4,
        "gate_low_rank_dim": 4,
    },
    "starcoder2": _GROUPED | {"model_type": "starcoder2"},
}

_WIDTHS = frozenset(
    {"hidden_size", "n_embd", "intermediate_size", "moe_intermediate_size", "ffn_hidden_size"}
    | {"head_dim", "head_size", "kv_channels", "q_lora_rank", "kv_lora_rank"}
    | {"qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"}
)


def widened(family: str, by: int = 8) -> dict[str, Any]:
    """The same with more channels, for kernels that take so many numbers at a time."""
    return {key: by * x if key in _WIDTHS else x for key, x in SMALL[family].items()}
