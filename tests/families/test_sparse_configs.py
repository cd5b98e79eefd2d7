"""Published configurations of mixtures of experts: read whole, sized as told, refused where odd."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from laminogram import families
from laminogram.errors import ConfigError
from laminogram.stack.config import LatentAttentionConfig, MoEConfig, StackConfig
from laminogram.stack.flops import idle_entries
from laminogram.stack.stack import Stack

_YARN = {
    "type": "yarn",
    "factor": 40,
    "beta_fast": 32,
    "beta_slow": 1,
    "original_max_position_embeddings": 4096,
}
_COMMON: dict[str, Any] = {
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "hidden_act": "silu",
}
_LATENT: dict[str, Any] = _COMMON | {
    "attention_bias": False,
    "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekConfig"},
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_layer_freq": 1,
    "pretraining_tp": 1,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rope_theta": 10000,
    "seq_aux": True,
    "v_head_dim": 128,
}
_V2: dict[str, Any] = _LATENT | {
    "model_type": "deepseek_v2",
    "vocab_size": 102400,
    "n_shared_experts": 2,
    "num_experts_per_tok": 6,
    "first_k_dense_replace": 1,
    "norm_topk_prob": False,
    "scoring_func": "softmax",
    "rope_scaling": _YARN | {"mscale": 0.707, "mscale_all_dim": 0.707},
}
# The configuration, then thousands of millions of parameters as their makers told: all of them,
# and those that a token meets (V2-Lite's are told without its two tables of 0.42).
PUBLISHED: dict[str, tuple[dict[str, Any], float, float]] = {
    "Mixtral-8x7B": (
        _COMMON
        | {
            "model_type": "mixtral",
            "vocab_size": 32000,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "max_position_embeddings": 32768,
            "output_router_logits": False,
            "rope_theta": 1e6,
            "router_aux_loss_coef": 0.02,
            "sliding_window": None,
        },
        46.7,
        12.9,
    ),
    "Qwen3-30B-A3B": (
        _COMMON
        | {
            "model_type": "qwen3_moe",
            "vocab_size": 151936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "moe_intermediate_size": 768,
            "num_hidden_layers": 48,
            "num_attention_heads": 32,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "attention_bias": False,
            "decoder_sparse_step": 1,
            "max_position_embeddings": 40960,
            "max_window_layers": 48,
            "mlp_only_layers": [],
            "norm_topk_prob": True,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "output_router_logits": False,
            "rope_scaling": None,
            "rope_theta": 1e6,
            "router_aux_loss_coef": 0.001,
            "sliding_window": None,
            "use_sliding_window": False,
        },
        30.5,
        3.3,
    ),
    "DeepSeek-V2-Lite": (
        _V2
        | {
            "hidden_size": 2048,
            "intermediate_size": 10944,
            "moe_intermediate_size": 1408,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "n_routed_experts": 64,
            "q_lora_rank": None,
            "routed_scaling_factor": 1.0,
            "topk_method": "greedy",
            "n_group": 1,
            "topk_group": 1,
        },
        15.7,
        2.4 + 0.21,
    ),
    "DeepSeek-V2": (
        _V2
        | {
            "hidden_size": 5120,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_hidden_layers": 60,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "n_routed_experts": 160,
            "q_lora_rank": 1536,
            "routed_scaling_factor": 16.0,
            "topk_method": "group_limited_greedy",
            "n_group": 8,
            "topk_group": 3,
        },
        236,
        21,
    ),
    "DeepSeek-V3": (
        _LATENT
        | {
            "model_type": "deepseek_v3",
            "vocab_size": 129280,
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_hidden_layers": 61,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "first_k_dense_replace": 3,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "num_nextn_predict_layers": 1,
            "norm_topk_prob": True,
            "q_lora_rank": 1536,
            "routed_scaling_factor": 2.5,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "n_group": 8,
            "topk_group": 4,
            "rope_scaling": _YARN | {"mscale": 1.0, "mscale_all_dim": 1.0},
        },
        671,
        37,
    ),
}


def read(name: str, **changes: Any) -> StackConfig:
    source = PUBLISHED[name][0] | changes
    return families.find(source).config(source)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_that_were_published(name: str) -> None:
    config, (_, total, active) = read(name), PUBLISHED[name]
    counts = []
    for kind in {layer.ffn.kind for layer in config.layers}:
        # One layer of each kind: to build all of them takes seconds.
        alike = [layer for layer in config.layers if layer.ffn.kind == kind]
        stack = Stack(replace(config, layers=(alike[0],)), device="meta")
        one = sum(p.numel() for p in stack.layers.parameters())
        counts.append((len(alike) * one, len(alike) * (one - idle_entries(stack))))
        ends = sum(p.numel() for p in stack.parameters()) - one
    found = [(ends + sum(numbers)) / 1e9 for numbers in zip(*counts, strict=True)]
    assert found == pytest.approx([total, active], abs=0.6 if total > 100 else 0.06)


def test_quirks_of_the_published_models() -> None:
    v3 = read("DeepSeek-V3")
    attn, ffn = v3.layers[3].attn, v3.layers[3].ffn
    assert isinstance(attn, LatentAttentionConfig)
    assert isinstance(ffn, MoEConfig)
    # 192 ** -0.5 * (0.1 * ln(40) + 1) ** 2
    assert attn.scale == pytest.approx(0.1352337788608801)
    assert 61 * 2 * attn.latent_size == 70272  # bytes a token in bf16: "about 70 KB"
    assert [layer.ffn.kind for layer in v3.layers[:4]] == ["mlp", "mlp", "mlp", "moe"]
    assert (ffn.n_group, ffn.topk_group, ffn.best_of_group) == (8, 4, 2)
    lite = read("DeepSeek-V2-Lite").layers[1].ffn
    assert isinstance(lite, MoEConfig)
    assert (lite.n_group, lite.shared_intermediate_size) == (1, 2816)


def test_experts_may_stand_in_every_second_layer() -> None:
    kinds = [layer.ffn.kind for layer in read("DeepSeek-V2-Lite", moe_layer_freq=2).layers]
    assert kinds[:5] == ["mlp", "mlp", "moe", "mlp", "moe"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_configurations_come_back(name: str) -> None:
    config = read(name)
    assert StackConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("Mixtral-8x7B", {"num_local_experts": 0}, "num_local_experts is 0"),
        ("Mixtral-8x7B", {"attention_sinks": 4}, "does not know attention_sinks=4"),
        ("Qwen3-30B-A3B", {"use_sliding_window": True}, "use_sliding_window is True"),
        ("Qwen3-30B-A3B", {"mlp_only_layers": "all"}, "mlp_only_layers is 'all'"),
        ("Qwen3-30B-A3B", {"decoder_sparse_step": 100}, "at least one layer with experts"),
        ("DeepSeek-V2", {"topk_method": "random"}, "topk_method is 'random'"),
        ("DeepSeek-V2", {"norm_topk_prob": True}, "norm_topk_prob is True"),
        ("DeepSeek-V2", {"scoring_func": "sigmoid"}, "scoring_func is 'sigmoid'"),
        ("DeepSeek-V2", {"first_k_dense_replace": -1}, "first_k_dense_replace is -1"),
        ("DeepSeek-V2", {"num_key_value_heads": 8}, "num_key_value_heads is 8; expected 128"),
        ("DeepSeek-V3", {"rope_interleave": False}, "rope_interleave is False"),
        ("DeepSeek-V3", {"num_nextn_predict_layers": 2}, "num_nextn_predict_layers is 2"),
        ("DeepSeek-V3", {"scoring_func": "softmax"}, "scoring_func is 'softmax'"),
        ("DeepSeek-V3", {"kv_lora_rank": None}, "kv_lora_rank is None"),
    ],
)
def test_what_is_not_computed_is_refused(name: str, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(name, **changes)
