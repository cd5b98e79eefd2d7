"""Random configurations of the families with mixtures of experts and latent attention."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

SPARSE = ("deepseek_v2", "deepseek_v3", "mixtral", "qwen3_moe")


def sparse_source(
    draw: st.DrawFn, family: str, common: dict[str, Any], heads: int
) -> dict[str, Any]:
    """What they have beside the sizes; few layers, for each has several experts."""
    reach = draw(st.integers(1, 2))
    fields: dict[str, Any] = common | {
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_experts_per_tok": reach,
        "tie_word_embeddings": draw(st.booleans()),
    }
    if family == "mixtral":
        return fields | {
            "num_key_value_heads": draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0])),
            "num_local_experts": draw(st.integers(reach, 12)),
            "sliding_window": draw(st.sampled_from([None, 3])),
        }
    fields |= {
        "moe_intermediate_size": draw(st.integers(1, 5)),
        "attention_bias": draw(st.booleans()),
    }
    if family == "qwen3_moe":
        return fields | {
            "num_experts": draw(st.integers(reach, 12)),
            "num_key_value_heads": draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0])),
            "head_dim": draw(st.sampled_from([2, 10])),
            "norm_topk_prob": draw(st.booleans()),
            "mlp_only_layers": list(range(fields["num_hidden_layers"] - 1)),
        }
    groups = draw(st.integers(1, 3))
    return fields | {
        "q_lora_rank": draw(st.sampled_from([None, 3])),
        "kv_lora_rank": draw(st.integers(1, 5)),
        "qk_nope_head_dim": draw(st.integers(1, 5)),
        "qk_rope_head_dim": draw(st.sampled_from([2, 4])),
        "v_head_dim": draw(st.integers(1, 5)),
        "n_routed_experts": groups * draw(st.integers(2, 4)),
        "n_shared_experts": draw(st.sampled_from([None, 1, 2])),
        "n_group": groups,
        "topk_group": draw(st.integers(1, groups)),
        "first_k_dense_replace": draw(st.integers(0, fields["num_hidden_layers"] - 1)),
    }
