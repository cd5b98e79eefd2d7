"""Random configurations of the families whose code the hub holds, for the generic properties."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

REMOTE = ("baichuan", "chatglm", "internlm2", "qwen")
_CHATGLM_NAMES = {
    "vocab_size": "padded_vocab_size",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_hidden_size",
}


def remote_source(
    draw: st.DrawFn, family: str, common: dict[str, Any], heads: int
) -> dict[str, Any]:
    """One of `REMOTE` as config.json would hold it, from the sizes that all families have."""
    size = common["hidden_size"] // heads
    keys = draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0]))
    ours = common | {"num_attention_heads": heads, "tie_word_embeddings": draw(st.booleans())}
    if family == "qwen":
        both = {"intermediate_size": 2 * common["intermediate_size"], "kv_channels": size}
        flags = ("no_bias", "use_logn_attn", "use_dynamic_ntk")
        ours |= both | {flag: draw(st.booleans()) for flag in flags}
        return ours | {"seq_length": draw(st.integers(2, 9))}
    if family == "baichuan":
        if draw(st.booleans()):
            ours |= {"z_loss_weight": 0, "tie_word_embeddings": False}
        length = draw(st.sampled_from(["max_position_embeddings", "model_max_length"]))
        return ours | {length: 9}
    if family == "internlm2":
        scaling = draw(st.sampled_from([None, {"type": "dynamic", "factor": 2.0}]))
        return ours | {
            "num_key_value_heads": keys,
            "bias": draw(st.booleans()),
            "rope_scaling": scaling,
        }
    ours = {_CHATGLM_NAMES.get(name, name): value for name, value in ours.items()}
    flags = ("add_qkv_bias", "add_bias_linear", "rmsnorm", "post_layer_norm")
    return ours | {
        "multi_query_group_num": keys,
        "kv_channels": draw(st.sampled_from([4, 12])),
        "rope_ratio": draw(st.sampled_from([1, 50, 0.5])),
        **{flag: draw(st.booleans()) for flag in flags},
    }
