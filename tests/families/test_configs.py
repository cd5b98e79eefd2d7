"""Configurations: every field is honoured or refused, and unknown families are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.families.reference import blink
from tests.families.sources import sources

from laminogram import families
from laminogram.errors import CheckpointError, ConfigError, FamilyError
from laminogram.families.base import Family
from laminogram.stack.config import AttentionConfig, MLPConfig, StackConfig

LLAMA = {
    "model_type": "llama",
    "vocab_size": 11,
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
NEOX = LLAMA | {"model_type": "gpt_neox"}
BERT = LLAMA | {"model_type": "bert"}
MISTRAL = LLAMA | {"model_type": "mistral", "num_key_value_heads": 2}
QWEN2 = LLAMA | {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 1}
QWEN3 = QWEN2 | {"model_type": "qwen3"}
GEMMA = LLAMA | {"model_type": "gemma"}
PHI3 = LLAMA | {"model_type": "phi3", "rms_norm_eps": 1e-5}
GLM = MISTRAL | {"model_type": "glm", "head_dim": 8}
GPT2 = {"model_type": "gpt2", "vocab_size": 11, "n_embd": 16, "n_layer": 2, "n_head": 4}
GPT_NEO = {
    "model_type": "gpt_neo",
    "vocab_size": 11,
    "hidden_size": 16,
    "num_layers": 3,
    "num_heads": 4,
    "attention_types": [[["global", "local"], 1], [["local"], 1]],
}
RWKV = {"model_type": "rwkv", "vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2}
RANKS = {f"{name}_low_rank_dim": 4 for name in ("decay", "a", "v", "gate")}
GOOSE = RWKV | RANKS | {"model_type": "rwkv7", "head_dim": 8}


def read(source: dict[str, Any], **fields: Any) -> StackConfig:
    merged = source | fields
    return families.find(merged).config(merged)


def attention(config: StackConfig) -> AttentionConfig:
    found = config.layers[0].attn
    assert isinstance(found, AttentionConfig)
    return found


@pytest.mark.parametrize("family", families.known())
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_every_configuration_survives_json(family: str, data: st.DataObject) -> None:
    config = read(data.draw(sources(family)))
    again = StackConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert config.family == family


def test_families_are_the_files_of_the_folder() -> None:
    folder = Path(families.__file__).parent
    files = {path.stem for path in folder.glob("[!_]*.py")} - {"base"}
    assert list(families.known()) == sorted(files)
    assert all(isinstance(family, Family) for family in families.known().values())
    assert all(family.summary for family in families.known().values())


def test_rotary_of_old_and_new_configurations() -> None:
    old = read(LLAMA, rope_theta=500_000.0, rope_scaling={"type": "linear", "factor": 2.0})
    new = read(
        LLAMA,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500_000.0},
    )
    assert attention(old).rope == attention(new).rope
    assert attention(old).rope.theta == 500_000.0
    assert attention(read(LLAMA)).rope.theta == 10_000.0
    neox = read(NEOX, rotary_pct=0.5, rotary_emb_base=25_000)
    assert attention(neox).rope.rotary_dims == 2
    assert attention(neox).rope.theta == 25_000.0
    same = {"rope_type": "default", "partial_rotary_factor": 0.5, "rope_theta": 25_000}
    assert attention(read(NEOX, rope_parameters=same)).rope == attention(neox).rope


def test_trained_length_falls_back_to_the_maximum() -> None:
    yarn = read(LLAMA, rope_scaling={"type": "yarn", "factor": 2.0}, max_position_embeddings=99)
    assert attention(yarn).rope.parameters["original_max_position_embeddings"] == 99


def test_llama_fields() -> None:
    config = read(
        LLAMA,
        num_key_value_heads=2,
        head_dim=6,
        attention_bias=True,
        mlp_bias=True,
        rms_norm_eps=1e-3,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=[2, 3],
        torch_dtype="bfloat16",
        use_cache=True,
        pretraining_tp=1,
    )
    mixer, ffn = attention(config), config.layers[1].ffn
    assert (mixer.num_attention_heads, mixer.num_key_value_heads, mixer.head_dim) == (4, 2, 6)
    assert (mixer.qkv_bias, mixer.o_bias, config.head.tied) == (True, True, True)
    assert isinstance(ffn, MLPConfig)
    assert (ffn.bias, ffn.gated, ffn.activation) == (True, True, "silu")
    assert (config.bos_token_id, config.eos_token_ids) == (1, (2, 3))
    assert config.final_norm is not None
    assert config.final_norm.eps == 1e-3
    assert config.source["torch_dtype"] == "bfloat16"


def of_layers(config: StackConfig, name: str) -> list[Any]:
    return [getattr(layer.attn, name) for layer in config.layers]


def test_absent_is_the_family_s_default_and_null_is_none() -> None:
    assert of_layers(read(MISTRAL), "window") == [4096, 4096]
    assert of_layers(read(MISTRAL, sliding_window=None), "window") == [None, None]
    assert attention(read(QWEN3)).head_dim == 128
    assert attention(read(QWEN3, head_dim=None)).head_dim == 4
    assert read(GEMMA).head.tied
    assert not read(GEMMA, tie_word_embeddings=False).head.tied
    assert read(GPT2).embedding.positions == 1024
    assert read(GPT2, n_inner=None).layers[0].ffn.intermediate_size == 64
    assert read(GPT2, hidden_size=16).hidden_size == 16  # said twice, and the same
    assert read(GPT2, n_inner=20).layers[0].ffn.intermediate_size == 20


def test_windows_of_single_layers() -> None:
    assert of_layers(read(QWEN2, sliding_window=5), "window") == [None, 5]
    assert of_layers(read(QWEN2, sliding_window=5, max_window_layers=0), "window") == [5, 5]
    assert of_layers(read(QWEN2, sliding_window=5, max_window_layers=9), "window") == [None, None]
    assert of_layers(read(QWEN2, use_sliding_window=False), "window") == [None, None]
    kinds = ["sliding_attention", "full_attention"]
    assert of_layers(read(QWEN3, layer_types=kinds), "window") == [4096, None]
    assert of_layers(read(GPT_NEO, window_size=7), "window") == [None, 7, 7]
    said = ["global", "local", "local"]
    assert of_layers(read(GPT_NEO, attention_layers=said), "window") == [None, 256, 256]


def test_scales_of_gpt2() -> None:
    assert of_layers(read(GPT2), "scale") == [0.5, 0.5]
    assert of_layers(read(GPT2, scale_attn_weights=False), "scale") == [1.0, 1.0]
    assert of_layers(read(GPT2, scale_attn_by_inverse_layer_idx=True), "scale") == [0.5, 0.25]


def test_gemma_activation_has_an_old_name() -> None:
    for fields in (
        {},
        {"hidden_act": "gelu"},
        {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"},
        {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": None},
    ):
        assert read(GEMMA, **fields).layers[0].ffn.activation == "gelu_pytorch_tanh"
    assert read(GEMMA, hidden_act="silu").layers[0].ffn.activation == "silu"


@pytest.mark.parametrize("kind", ["su", "yarn", "longrope"])
def test_phi3_has_three_names_for_longrope(kind: str) -> None:
    scaling = {"type": kind, "short_factor": [1.0, 1.0], "long_factor": [1.0, 2.0]}
    rope = attention(read(PHI3, rope_scaling=scaling)).rope
    assert (rope.kind, rope.parameters["original_max_position_embeddings"]) == ("longrope", 4096)
    told = read(PHI3, rope_scaling=scaling, original_max_position_embeddings=7)
    assert attention(told).rope.parameters["original_max_position_embeddings"] == 7


def test_rwkv7_ranks_come_from_shapes_over_fields() -> None:
    """One layer may differ from another; only the tensors know."""
    shapes = {name: tuple(value.shape) for name, value in blink(7).items()}
    family, source = families.detect(shapes)
    assert source["v_low_rank_dim"] == 5
    ranks = [layer.attn.v_rank for layer in family.config(source, shapes).layers]
    assert ranks == [0, 4, 5]
    assert read(GOOSE).layers[1].attn.v_rank == 4
    assert read(GOOSE, norm_eps=1e-4).layers[0].attn.group_norm_eps == pytest.approx(8e-4)


REFUSED: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (LLAMA, {"hidden_act": "mish"}, "hidden_act is 'mish'; expected one of gelu"),
    (LLAMA, {"hidden_size": None}, "hidden_size is None"),
    (LLAMA, {"hidden_size": "16"}, "hidden_size is '16'; expected a positive whole number"),
    (LLAMA, {"num_hidden_layers": 0}, "num_hidden_layers is 0"),
    (LLAMA, {"num_hidden_layers": True}, "num_hidden_layers is True"),
    (LLAMA, {"num_attention_heads": 3}, "num_attention_heads is 3; expected a divisor"),
    (LLAMA, {"num_key_value_heads": 3}, "num_key_value_heads is 3; expected a divisor"),
    (LLAMA, {"rms_norm_eps": -1}, "rms_norm_eps is -1; expected a positive number"),
    (LLAMA, {"attention_bias": 1}, "attention_bias is 1; expected true or false"),
    (LLAMA, {"eos_token_id": "</s>"}, "eos_token_id is '</s>'"),
    (LLAMA, {"bos_token_id": 1.5}, "bos_token_id is 1.5"),
    (LLAMA, {"sliding_window": 4096}, "does not know sliding_window=4096"),
    (LLAMA, {"final_logit_softcapping": 30.0}, "does not know final_logit_softcapping=30.0"),
    (LLAMA, {"quantization_config": {"bits": 4}}, "does not know quantization_config"),
    (LLAMA, {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; expected 1.0"),
    (LLAMA, {"rope_scaling": {"type": "spiral"}}, "rope_type is 'spiral'; expected one of default"),
    (LLAMA, {"rope_scaling": {"type": "linear"}}, "needs the parameter 'factor'"),
    (
        LLAMA,
        {"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}},
        "mrope_section",
    ),
    (LLAMA, {"rope_scaling": "linear"}, "expected an object"),
    (
        LLAMA,
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        "one rotary embedding for all layers",
    ),
    (LLAMA, {"use_sliding_window": True}, "does not know use_sliding_window=True"),
    (MISTRAL, {"sliding_window": 0}, "sliding_window is 0; expected a positive whole number"),
    (MISTRAL, {"sliding_window": "4096"}, "sliding_window is '4096'"),
    (MISTRAL, {"attention_bias": True}, "attention_bias is True; expected False"),
    (MISTRAL, {"layer_types": ["full_attention"] * 2}, "does not know layer_types"),
    (MISTRAL, {"attn_logit_softcapping": 50.0}, "does not know attn_logit_softcapping=50.0"),
    (MISTRAL, {"rope_scaling": {"rope_type": "mrope"}}, "rope_type is 'mrope'"),
    (QWEN2, {"max_window_layers": -1}, "max_window_layers is -1; expected a whole number"),
    (QWEN2, {"layer_types": ["full_attention"]}, "layer_types .* expected 2 of full_attention, sl"),
    (QWEN2, {"layer_types": ["chunked_attention"] * 2}, "expected 2 of full_attention, sliding"),
    (
        QWEN2,
        {"layer_types": ["sliding_attention"] * 2, "use_sliding_window": False},
        "full_attention alone, for there is no sliding_window",
    ),
    (QWEN2, {"use_mrope": True}, "does not know use_mrope=True"),
    (QWEN3, {"attention_bias": "no"}, "attention_bias is 'no'; expected true or false"),
    (QWEN3, {"qk_layernorm": True}, "does not know qk_layernorm=True"),
    (GEMMA, {"hidden_activation": "silu"}, "hidden_activation is 'silu'; expected 'gelu_pytorch_t"),
    (GEMMA, {"hidden_activation": "gelu"}, "hidden_activation is 'gelu'; expected 'gelu_pytorch_t"),
    (GEMMA, {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    (GEMMA, {"final_logit_softcapping": 30.0}, "does not know final_logit_softcapping=30.0"),
    (GEMMA, {"query_pre_attn_scalar": 256}, "does not know query_pre_attn_scalar=256"),
    (PHI3, {"rope_scaling": {"type": "yarn", "factor": 2.0}}, "'yarn'; expected default or longro"),
    (
        PHI3,
        {"rope_scaling": {"type": "su", "short_factor": [1.0], "long_factor": [1.0, 2.0]}},
        "'short_factor' has 1 numbers",
    ),
    (GLM, {"partial_rotary_factor": 0.1}, "rotary_dims is 0"),
    (GLM, {"apply_residual_connection_post_layernorm": True}, "does not know apply_residual_conn"),
    (GLM, {"num_attention_heads": 3, "head_dim": 8}, "num_key_value_heads is 2; expected a divis"),
    (GPT2, {"n_embd": None}, "n_embd is None; expected a value"),
    (GPT2, {"hidden_size": 32}, "does not know hidden_size=32"),
    (GPT2, {"n_head": 3}, "n_head is 3; expected a divisor of hidden_size, 16"),
    (GPT2, {"add_cross_attention": True}, "does not know add_cross_attention=True"),
    (GPT2, {"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    (GPT2, {"scale_attn_weights": 1}, "scale_attn_weights is 1; expected true or false"),
    (GPT_NEO, {"num_layers": 4}, "expected .kinds, times. of 4 global or local"),
    (GPT_NEO, {"attention_types": [[["dense"], 3]]}, "attention_types is .* of 3 global or local"),
    (GPT_NEO, {"attention_types": [[["global"], 10**12]]}, "attention_types is"),
    (GPT_NEO, {"attention_types": "global"}, "attention_types is 'global'"),
    (
        GPT_NEO,
        {"attention_layers": ["global"] * 3},
        "attention_layers is .* expected .'global', 'l",
    ),
    (NEOX, {"rotary_pct": 0.3}, "rotary_dims is 1"),
    (BERT, {"position_embedding_type": "relative_key"}, "'relative_key'; expected 'absolute'"),
    (BERT, {"is_decoder": True}, "is_decoder is True; expected False"),
    (BERT, {"add_cross_attention": True}, "does not know add_cross_attention=True"),
    (GOOSE, {"attn": {"layers": [1]}}, "hybrids"),
    (GOOSE, {"hidden_act": "relu"}, "hidden_act is 'relu'; expected 'sqrelu'"),
    (GOOSE, {"norm_bias": False}, "norm_bias is False; expected True"),
    (GOOSE, {"head_dim": 5}, "head_dim is 5; expected heads that make up hidden_size, 16"),
    (GOOSE, {"value_dim": [16, 32]}, r"value_dim is \[16, 32\]"),
    (GOOSE, {"gate_low_rank_dim": None}, "gate_low_rank_dim is None"),
]


@pytest.mark.parametrize(("source", "fields", "words"), REFUSED)
def test_what_is_not_computed_is_refused(
    source: dict[str, Any], fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read(source, **fields)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"model_type": "zamba"}, "model_type 'zamba'.* Families: .*bert"),
        ({}, "no model_type"),
        ({"architectures": ["ZambaForCausalLM"]}, r"architectures \['ZambaForCausalLM'\]"),
    ],
)
def test_unknown_families_are_named(source: dict[str, Any], words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        families.find(source)


def test_a_class_name_tells_the_family_where_no_type_does() -> None:
    assert families.find({"architectures": ["GPTNeoXForCausalLM"]}).name == "gpt_neox"
    with pytest.raises(FamilyError, match=r"no family is named 'mamba'; there are .*bert"):
        families.get("mamba")


def shapes_of(*names: str) -> dict[str, tuple[int, ...]]:
    return {"emb.weight": (5, 4), **dict.fromkeys(names, (4,))}


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (
            ("blocks.0.att.time_decay", "blocks.0.att.ln_x.weight"),
            "RWKV-5 file without blocks.0.ln0",
        ),
        (("blocks.0.att.time_maa_x",), "RWKV-6 file without blocks.0.ln0"),
        (("blocks.0.att.time_decay", "blocks.0.att.time_mix_qq"), "tiny attention"),
        (("blocks.0.att.r_k", "blocks.0.ffn.s_emb.weight"), "DeepEmbed"),
        (("model.something",), "no family can be told from the 2 tensor names"),
    ],
)
def test_bare_files_that_are_not_read(names: tuple[str, ...], words: str) -> None:
    with pytest.raises(FamilyError, match=words):
        families.detect(shapes_of(*names))


def test_bare_files_with_gaps_are_refused() -> None:
    shapes = {name: tuple(value.shape) for name, value in blink(4).items()}
    del shapes["blocks.1.att.time_decay"]
    with pytest.raises(CheckpointError, match=r"lacks blocks.1.att.time_decay"):
        families.detect(shapes)
