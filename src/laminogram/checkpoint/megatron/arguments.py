"""Megatron's run arguments and a model's configuration: each from the other.

Names are those of `megatron/training/arguments.py` of NVIDIA/Megatron-LM; a checkpoint carries the
arguments of the run that wrote it, and a run can take them over (`--use-checkpoint-args`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from laminogram.errors import CheckpointError, FamilyError
from laminogram.families._megatron import published
from laminogram.stack.config import (
    AttentionConfig,
    EmbeddingConfig,
    HeadConfig,
    MLPConfig,
    RopeConfig,
    StackConfig,
)

# What Megatron means by llama3 scaling beyond its factor; it has no arguments for these.
_LLAMA3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
# Arguments that make another model than a dense decoder with rotary positions, unless they hold
# one of these values.
_DENSE: dict[str, tuple[Any, ...]] = {
    "normalization": ("RMSNorm",),
    "swiglu": (True,),
    "num_experts": (None, 0),
    "multi_latent_attention": (None, False),
    "apply_layernorm_1p": (None, False),
    "rotary_interleaved": (None, False),
    "rotary_percent": (None, 1, 1.0),
    "attention_output_gate": (None, False),
    "mtp_num_layers": (None, 0),
    "softmax_type": (None, "vanilla"),
    "position_embedding_type": (None, "rope"),
    "window_attn_skip_freq": (None,),
    "no_rope_freq": (None,),
}


def source_of(arguments: Mapping[str, Any], padded_vocab_size: int) -> dict[str, Any]:
    """config.json's contents for the model that these arguments describe.

    The vocabulary is `vocab_size` where the arguments have it, else the padded one. CheckpointError
    names an argument that is missing, FamilyError one that makes a model of another kind.
    """
    _check_dense(arguments)
    count = int(_needed(arguments, "num_attention_heads"))
    hidden = int(_needed(arguments, "hidden_size"))
    grouped = arguments.get("group_query_attention", False)
    size = arguments.get("kv_channels") or hidden // count
    bias = arguments.get("add_bias_linear", not arguments.get("disable_bias_linear", False))
    theta = arguments.get("rotary_base") or 10_000
    positions = arguments.get("max_position_embeddings") or _needed(arguments, "seq_length")
    common = {
        "vocab_size": int(arguments.get("vocab_size") or padded_vocab_size),
        "hidden_size": hidden,
        "intermediate_size": int(_needed(arguments, "ffn_hidden_size")),
        "num_hidden_layers": int(_needed(arguments, "num_layers")),
        "num_attention_heads": count,
        "num_key_value_heads": int(_needed(arguments, "num_query_groups")) if grouped else count,
        "head_dim": int(size),
        "hidden_act": "silu",
        "rms_norm_eps": float(arguments.get("norm_epsilon") or _epsilon(arguments)),
        "max_position_embeddings": int(positions),
        "rope_theta": float(theta),
        **_scaling(arguments),
        "tie_word_embeddings": not arguments.get("untie_embeddings_and_output_weights", False),
    }
    window = arguments.get("window_size")
    if window is not None and (len(window) != 2 or window[1] not in (0, -1)):
        raise FamilyError(f"the arguments have window_size {window}; expected (tokens before, 0)")
    return published(
        common,
        qkv_bias=bool(arguments.get("add_qkv_bias", False)) and not bias,
        bias=bool(bias),
        qk_norm=bool(arguments.get("qk_layernorm", False)),
        window=int(window[0]) + 1 if window is not None and window[0] >= 0 else None,
    )


def _check_dense(arguments: Mapping[str, Any]) -> None:
    values = {**arguments, "position_embedding_type": _positions(arguments)}
    for name, allowed in _DENSE.items():
        value = values.get(name)
        if value not in allowed:
            known = " or ".join(repr(item) for item in allowed if item is not None) or "none"
            raise FamilyError(
                f"the checkpoint's arguments have {name}={value!r}; what is read here are dense "
                f"decoders with rotary positions, which have {known}"
            )


def _positions(arguments: Mapping[str, Any]) -> Any:
    kind = arguments.get("position_embedding_type")
    return "rope" if arguments.get("use_rotary_position_embeddings") else kind


def _needed(arguments: Mapping[str, Any], name: str) -> Any:
    if arguments.get(name) is None:
        raise CheckpointError(
            f"the checkpoint's arguments have no {name}; give the model's configuration (config=), "
            "as its config.json would hold it"
        )
    return arguments[name]


def _epsilon(arguments: Mapping[str, Any]) -> float:
    return float(_needed(arguments, "layernorm_epsilon"))


def _scaling(arguments: Mapping[str, Any]) -> dict[str, Any]:
    if arguments.get("use_rope_scaling"):
        factor = float(arguments.get("rope_scaling_factor") or 8.0)
        return {"rope_scaling": {"rope_type": "llama3", "factor": factor, **_LLAMA3}}
    stretch = arguments.get("rotary_seq_len_interpolation_factor")
    if stretch and stretch != 1:
        return {"rope_scaling": {"rope_type": "linear", "factor": float(stretch)}}
    return {}


def arguments_of(config: StackConfig) -> dict[str, Any]:
    """The arguments that build this model in Megatron, without those of its parallel layout.

    FamilyError lists everything that Megatron's dense decoder cannot express.
    """
    reasons = inexpressible(config)
    if reasons:
        raise FamilyError(
            f"a Megatron decoder cannot express this {config.family} model: " + "; ".join(reasons)
        )
    layer = config.layers[0]
    attn, ffn = layer.attn, layer.ffn
    assert isinstance(attn, AttentionConfig)
    assert isinstance(ffn, MLPConfig)
    assert attn.rope is not None
    positions = config.max_position_embeddings or attn.rope.max_position_embeddings
    window = None if attn.window is None else (attn.window - 1, 0)
    bias = ffn.bias or attn.o_bias
    return {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "ffn_hidden_size": ffn.intermediate_size,
        "num_attention_heads": attn.num_attention_heads,
        "group_query_attention": attn.num_key_value_heads != attn.num_attention_heads,
        "num_query_groups": attn.num_key_value_heads,
        "kv_channels": attn.head_dim,
        "seq_length": positions,
        "max_position_embeddings": positions,
        "position_embedding_type": "rope",
        "add_position_embedding": True,
        "use_rotary_position_embeddings": False,
        "rotary_base": int(attn.rope.theta) if attn.rope.theta.is_integer() else attn.rope.theta,
        "rotary_percent": 1.0,
        "rotary_interleaved": False,
        **_rope_arguments(attn.rope),
        "add_bias_linear": bias,
        "add_qkv_bias": attn.qkv_bias,
        "qk_layernorm": attn.qk_norm is not None,
        "swiglu": True,
        "squared_relu": False,
        "untie_embeddings_and_output_weights": not config.head.tied,
        "normalization": "RMSNorm",
        "norm_epsilon": layer.norm.eps,
        "apply_layernorm_1p": False,
        "apply_query_key_layer_scaling": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "num_experts": None,
        "vocab_size": config.vocab_size,
        **({} if window is None else {"window_size": window}),
    }


def _rope_arguments(rope: RopeConfig) -> dict[str, Any]:
    given: dict[str, Any] = {"use_rope_scaling": False, "rotary_seq_len_interpolation_factor": None}
    if rope.kind == "llama3":
        return {"use_rope_scaling": True, "rope_scaling_factor": rope.parameters["factor"]}
    if rope.kind == "linear":
        given["rotary_seq_len_interpolation_factor"] = rope.parameters["factor"]
    return given


def inexpressible(config: StackConfig) -> list[str]:
    """Why Megatron's dense decoder is not this model: a line for every reason, none where it is."""
    layer = config.layers[0]
    attn, ffn, norm = layer.attn, layer.ffn, layer.norm
    if not isinstance(attn, AttentionConfig) or not isinstance(ffn, MLPConfig):
        return [f"its layers are {attn.kind} and {ffn.kind}, not attention and a gated network"]
    same_ends = config.final_norm == norm and config.embedding == EmbeddingConfig()
    plain_head = HeadConfig(tied=config.head.tied)
    checks = (
        (any(other != layer for other in config.layers), "its layers differ from each other"),
        (layer.block != "pre", f"its blocks are {layer.block}-norm instead of pre-norm"),
        (norm.kind != "rms" or norm.bias or norm.offset != 0, "its norms are no plain RMSNorm"),
        (not same_ends, "its embedding or its final norm has parts of its own"),
        (config.head != plain_head or config.score is not None, "its head is more than a product"),
        (not ffn.gated or ffn.activation != "silu", "its network is not gated by SiLU"),
        (attn.o_bias and not attn.qkv_bias, "its output projection has a bias, q, k and v none"),
        (ffn.bias and not attn.qkv_bias, "its network has biases, its attention none"),
        (not attn.causal or attn.alibi or attn.scale is not None, "its scores are no plain ones"),
        (attn.log_n is not None, "its queries grow with the text's length"),
        (attn.qk_norm not in (None, replace(norm)), "its q and k have a norm of another kind"),
    )
    return [reason for true, reason in checks if true] + _rope_reasons(attn)


def _rope_reasons(attn: AttentionConfig) -> list[str]:
    rope = attn.rope
    if rope is None:
        return ["it has no rotary embedding"]
    if rope.rotary_dims != attn.head_dim:
        return ["it turns a part of every head"]
    if rope.kind == "llama3" and any(rope.parameters[key] != v for key, v in _LLAMA3.items()):
        wanted = ", ".join(f"{key}={value:g}" for key, value in _LLAMA3.items())
        return [f"its llama3 rotary scaling is not Megatron's ({wanted})"]
    if rope.kind not in ("default", "linear", "llama3"):
        return [f"its rotary embedding is scaled by {rope.kind!r}"]
    return []


def dtype_arguments(dtype: torch.dtype) -> dict[str, Any]:
    """The arguments that name the precision of the weights."""
    return {
        "params_dtype": dtype,
        "bf16": dtype == torch.bfloat16,
        "fp16": dtype == torch.float16,
    }
