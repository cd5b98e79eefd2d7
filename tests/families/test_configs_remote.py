"""Configurations of Qwen 1, Baichuan, InternLM 2 and ChatGLM: read, refused, and their sizes."""

from __future__ import annotations

from typing import Any

import pytest

from laminogram import families
from laminogram.errors import ConfigError
from laminogram.stack.config import StackConfig
from laminogram.stack.stack import Stack

QWEN_7B: dict[str, Any] = {
    "model_type": "qwen",
    "attn_dropout_prob": 0.0,
    "bf16": False,
    "emb_dropout_prob": 0.0,
    "fp16": False,
    "fp32": False,
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 22016,
    "kv_channels": 128,
    "layer_norm_epsilon": 1e-06,
    "max_position_embeddings": 32768,
    "no_bias": True,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "onnx_safe": None,
    "rotary_emb_base": 10000,
    "rotary_pct": 1.0,
    "scale_attn_weights": True,
    "seq_length": 8192,
    "tie_word_embeddings": False,
    "tokenizer_class": "QWenTokenizer",
    "use_cache": True,
    "use_dynamic_ntk": True,
    "use_flash_attn": "auto",
    "use_logn_attn": True,
    "vocab_size": 151936,
}
BAICHUAN2_7B: dict[str, Any] = {
    "model_type": "baichuan",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_max_length": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "vocab_size": 125696,
    "z_loss_weight": 0,
}
BAICHUAN_7B = {
    name: value
    for name, value in BAICHUAN2_7B.items()
    if name not in ("z_loss_weight", "model_max_length")
} | {"vocab_size": 64000}
BAICHUAN2_13B: dict[str, Any] = {
    "model_type": "baichuan",
    "gradient_checkpointing": [False],
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "model_max_length": 4096,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "vocab_size": 125696,
    "z_loss_weight": 0,
}
BAICHUAN_13B = {name: value for name, value in BAICHUAN2_13B.items() if name != "z_loss_weight"} | {
    "vocab_size": 64000
}
INTERNLM2_7B: dict[str, Any] = {
    "model_type": "internlm2",
    "attn_implementation": "eager",
    "bias": False,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "vocab_size": 92544,
}
CHATGLM3_6B: dict[str, Any] = {
    "model_type": "chatglm",
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "classifier_dropout": None,
    "eos_token_id": 2,
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1e-05,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_layers": 28,
    "original_rope": True,
    "pad_token_id": 0,
    "padded_vocab_size": 65024,
    "post_layer_norm": True,
    "pre_seq_len": None,
    "prefix_projection": False,
    "quantization_bit": 0,
    "rmsnorm": True,
    "seq_length": 8192,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 65024,
}
GLM_4_9B = CHATGLM3_6B | {
    "layernorm_epsilon": 1.5625e-07,
    "num_layers": 40,
    "padded_vocab_size": 151552,
    "rope_ratio": 500,
    "seq_length": 131072,
}


def read(source: dict[str, Any], **fields: Any) -> StackConfig:
    merged = {**source, **fields}
    return families.find(merged).config(merged)


@pytest.mark.parametrize(
    ("source", "parameters"),
    [
        (QWEN_7B, 7_721_324_544),
        (BAICHUAN_7B, 7_000_559_616),
        (BAICHUAN2_7B, 7_505_973_248),
        (BAICHUAN_13B, 13_264_901_120),
        (BAICHUAN2_13B, 13_896_668_160),
        (INTERNLM2_7B, 7_737_708_544),
        (CHATGLM3_6B, 6_243_584_000),
        (GLM_4_9B, 9_399_951_360),
    ],
)
def test_published_sizes(source: dict[str, Any], parameters: int) -> None:
    """The published configurations have as many parameters as the published files."""
    stack = Stack(read(source), device="meta")
    assert sum(p.numel() for p in stack.parameters()) == parameters


def test_qwen() -> None:
    layer = read(QWEN_7B).layers[0]
    assert (layer.ffn.intermediate_size, layer.ffn.bias, layer.attn.o_bias) == (11008, False, False)
    assert (layer.attn.qkv_bias, layer.attn.log_n, layer.attn.head_dim) == (True, 8192, 128)
    assert (layer.attn.rope.kind, layer.attn.rope.theta) == ("dynamic_log2", 10_000.0)
    off = read(QWEN_7B, use_logn_attn=False, use_dynamic_ntk=False, no_bias=False).layers[0]
    assert (off.attn.log_n, off.attn.rope.kind, off.ffn.bias) == (None, "default", True)


def test_baichuan_tells_its_positions_and_its_head() -> None:
    for source, turned, normalised in (
        (BAICHUAN_7B, True, False),
        (BAICHUAN2_7B, True, True),
        (BAICHUAN_13B, False, False),
        (BAICHUAN2_13B, False, True),
    ):
        config = read(source)
        attn = config.layers[0].attn
        assert (attn.rope is not None, attn.alibi) == (turned, not turned)
        assert config.head.normalised == normalised
        assert config.max_position_embeddings == 4096
    assert read(BAICHUAN2_7B, z_loss_weight=None, vocab_size=125_760).head.normalised


def test_internlm2() -> None:
    attn = read(INTERNLM2_7B).layers[0].attn
    assert (attn.num_key_value_heads, attn.qkv_bias, attn.o_bias) == (8, False, False)
    assert (attn.rope.kind, attn.rope.max_position_embeddings) == ("dynamic", 32768)
    biased = read(INTERNLM2_7B, bias=True).layers[0]
    assert (biased.attn.qkv_bias, biased.attn.o_bias, biased.ffn.bias) == (True, True, False)


def test_chatglm() -> None:
    config = read(CHATGLM3_6B)
    attn = config.layers[0].attn
    assert (attn.num_key_value_heads, attn.head_dim, attn.rope.rotary_dims) == (2, 128, 64)
    assert (attn.qkv_bias, attn.o_bias, config.eos_token_ids) == (True, False, (2,))
    assert read(GLM_4_9B).layers[0].attn.rope.theta == 5_000_000.0
    assert read(GLM_4_9B).layers[0].norm.eps == 1.5625e-07
    assert read(CHATGLM3_6B, post_layer_norm=False).final_norm is None
    assert read(CHATGLM3_6B, rmsnorm=False).layers[0].norm.kind == "layer"


def test_chatglm_reads_one_field_in_two_ways() -> None:
    """chatglm2-6b-32k divides positions by what all others multiply the base with."""
    old = read(CHATGLM3_6B, rope_ratio=4, _name_or_path="THUDM/chatglm2-6b-32k").layers[0].attn
    new = read(CHATGLM3_6B, rope_ratio=50, _name_or_path="THUDM/chatglm3-6b-32k").layers[0].attn
    assert (old.rope.kind, old.rope.theta, dict(old.rope.parameters)) == (
        "linear",
        10_000.0,
        {"factor": 4.0},
    )
    assert (new.rope.kind, new.rope.theta) == ("default", 500_000.0)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (QWEN_7B, {"visual": {"layers": 48}}, "visual is 'given'; expected none: the models that see"),
    (QWEN_7B, {"audio": {"n_mels": 80}}, "audio is 'given'"),
    (QWEN_7B, {"seq_length": None}, "seq_length is None; expected a value"),
    (QWEN_7B, {"seq_length": 1}, "seq_length is 1; expected at least 2"),
    (QWEN_7B, {"intermediate_size": 22017}, "intermediate_size is 22017; expected an even"),
    (QWEN_7B, {"kv_channels": 64}, "kv_channels is 64; expected heads that make up"),
    (QWEN_7B, {"use_cache_quantization": True}, "use_cache_quantization is True"),
    (QWEN_7B, {"scale_attn_weights": False}, "scale_attn_weights is False"),
    (QWEN_7B, {"quantization_config": {"bits": 4}}, "does not know quantization_config"),
    (QWEN_7B, {"rotary_pct": 2.0}, "rotary_pct is 2.0; expected a share of a head"),
    (QWEN_7B, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
    (QWEN_7B, {"rotary_emb_base": 0}, "rotary_emb_base is 0; expected a positive number"),
    (BAICHUAN2_13B, {"max_position_embeddings": 4096}, "expected none: the 13B models have no"),
    (BAICHUAN2_7B, {"max_position_embeddings": None}, "expected the trained length of a 7B"),
    (BAICHUAN_7B | {"hidden_size": 64}, {"max_position_embeddings": None}, "trained length"),
    (BAICHUAN2_7B, {"tie_word_embeddings": True}, "tie_word_embeddings is True; expected false"),
    (BAICHUAN2_7B, {"rope_theta": 500.0}, "rope_theta is 500.0; expected 10000.0"),
    (BAICHUAN2_7B, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
    (BAICHUAN2_13B, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
    (INTERNLM2_7B, {"num_key_value_heads": 5}, "num_key_value_heads is 5; expected a divisor"),
    (INTERNLM2_7B, {"rope_scaling": {"type": "dynamic"}}, "needs the parameter 'factor'"),
    (INTERNLM2_7B, {"sliding_window": 64}, "does not know sliding_window=64"),
    (CHATGLM3_6B, {"position_encoding_2d": True}, "ChatGLM-6B, the first, is not supported"),
    (CHATGLM3_6B, {"inner_hidden_size": 16384}, "ChatGLM-6B, the first, is not supported"),
    (
        CHATGLM3_6B,
        {"apply_residual_connection_post_layernorm": True},
        "apply_residual_connection_post_layernorm is True; expected False",
    ),
    (CHATGLM3_6B, {"multi_query_attention": False}, "multi_query_attention is False"),
    (CHATGLM3_6B, {"multi_query_group_num": 5}, "multi_query_group_num is 5; expected a divisor"),
    (CHATGLM3_6B, {"original_rope": False}, "original_rope is False"),
    (CHATGLM3_6B, {"quantization_bit": 4}, "quantization_bit is 4"),
    (CHATGLM3_6B, {"pre_seq_len": 128}, "does not know pre_seq_len=128"),
    (CHATGLM3_6B, {"kv_channels": 6}, "rotary_dims is 3"),
    (CHATGLM3_6B, {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type is 'linear'"),
    (CHATGLM3_6B, {"vision_config": {"layers": 1}}, "does not know vision_config"),
    (CHATGLM3_6B, {"padded_vocab_size": None}, "padded_vocab_size is None"),
]


@pytest.mark.parametrize(("source", "fields", "words"), REFUSED)
def test_what_is_not_computed_is_refused(
    source: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read(source, **fields)
