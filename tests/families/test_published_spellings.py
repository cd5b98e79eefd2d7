"""What published and re-saved configurations hold beside the sizes: read, refused where it counts,
and what an absent field means.

Sizes are those that the makers or the hubs' file headers tell.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from laminogram import families
from laminogram.checkpoint.configuration import configuration
from laminogram.errors import ConfigError, LaminogramError
from laminogram.stack.config import AttentionConfig, StackConfig
from laminogram.stack.stack import Stack

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-6,
    "vocab_size": 32000,
}
_PHI3: dict[str, Any] = {
    "model_type": "phi3",
    "attention_bias": False,
    "embd_pdrop": 0.0,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 17920,
    "num_attention_heads": 40,
    "num_hidden_layers": 40,
    "num_key_value_heads": 10,
    "original_max_position_embeddings": 4096,
    "resid_pdrop": 0.0,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
_FACTORS = {"long_factor": [4.0] * 48, "short_factor": [1.0] * 48}
_PHI4_MINI = _PHI3 | {
    "full_attn_mod": 1,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "interpolate_factor": 1,
    "lm_head_bias": False,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "num_attention_heads": 24,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "partial_rotary_factor": 0.75,
    "rope_scaling": {"type": "longrope", **_FACTORS},
    "sliding_window": 262144,
    "tie_word_embeddings": True,
    "vocab_size": 200064,
}
_STARCODER2: dict[str, Any] = {
    "model_type": "starcoder2",
    "attention_softmax_in_fp32": True,
    "embedding_dropout": 0.1,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 3072,
    "intermediate_size": 12288,
    "layer_norm_epsilon": 1e-5,
    "max_position_embeddings": 16384,
    "mlp_type": "default",
    "norm_epsilon": 1e-5,
    "norm_type": "layer_norm",
    "num_attention_heads": 24,
    "num_hidden_layers": 30,
    "num_key_value_heads": 2,
    "rope_theta": 999999.4420358813,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "sliding_window": 4096,
    "use_bias": True,
    "vocab_size": 49152,
}
# As transformers 4.46 to 4.57 saved it: the rotary's two numbers under two names each.
_NEOX: dict[str, Any] = {
    "model_type": "gpt_neox",
    "attention_bias": True,
    "hidden_act": "gelu",
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "partial_rotary_factor": 0.25,
    "rope_scaling": None,
    "rope_theta": 10000,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "vocab_size": 50304,
}
_RWKV6: dict[str, Any] = {
    "model_type": "rwkv6",
    "attention_hidden_size": 4096,
    "head_size": 64,
    "head_size_divisor": 8,
    "hidden_size": 4096,
    "intermediate_size": None,
    "num_attention_heads": 64,
    "num_hidden_layers": 32,
    "rescale_every": 6,
    "tie_word_embeddings": False,
    "vocab_size": 65536,
}
_MISTRAL = _LLAMA | {"model_type": "mistral", "num_key_value_heads": 8, "rope_theta": 1e6}

PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "llama-7b": (_LLAMA | {"max_sequence_length": 2048}, 6_738_415_616),
    "vicuna-7b-v1.5-16k": (
        _LLAMA
        | {"max_position_embeddings": 4096, "max_sequence_length": 16384}
        | {"rope_scaling": {"factor": 4.0, "type": "linear"}},
        6_738_415_616,
    ),
    "Llama-2-70b": (
        _LLAMA
        | {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80}
        | {"num_attention_heads": 64, "num_key_value_heads": 8},
        68_976_648_192,
    ),
    "Llama-3.2-1B": (
        _LLAMA
        | {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
        | {"head_dim": 64, "num_key_value_heads": 8, "vocab_size": 128256}
        | {"tie_word_embeddings": True, "tokenizer_model_max_length": 4096},
        1_235_814_400,
    ),
    "Mistral-Nemo": (
        _MISTRAL
        | {"head_dim": 128, "hidden_size": 5120, "intermediate_size": 14336}
        | {"num_hidden_layers": 40, "sliding_window": None, "vocab_size": 131072},
        12_247_782_400,
    ),
    "Phi-3-medium-4k": (_PHI3 | {"sliding_window": 2047, "vocab_size": 32064}, 13_960_238_080),
    "phi-4": (
        _PHI3
        | {"max_position_embeddings": 16384, "original_max_position_embeddings": 16384}
        | {"rope_theta": 250000, "sliding_window": None, "vocab_size": 100352},
        14_659_507_200,
    ),
    "Phi-4-mini": (_PHI4_MINI, 3_836_021_760),
    "starcoder2-3b": (_STARCODER2, 3_030_371_328),
    "pythia-70m": (_NEOX, 70_426_624),
    "rwkv-6-world-7b": (_RWKV6, 7_635_746_816),
    "rwkv-5-world-1b5": (
        _RWKV6
        | {"model_type": "rwkv5", "model_version": "5_2"}
        | {"attention_hidden_size": 2048, "hidden_size": 2048, "num_hidden_layers": 24},
        1_577_754_624,
    ),
}


_LABELLED: dict[str, dict[str, Any]] = {
    "bert": _LLAMA | {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
    "llama": _LLAMA | {"architectures": ["LlamaForSequenceClassification"]},
    "rwkv7": {
        **{"model_type": "rwkv7", "hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 9},
        **{f"{name}_low_rank_dim": 8 for name in ("a", "decay", "gate", "v")},
        "value_dim": 64,
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_size(name: str) -> None:
    source, size = PUBLISHED[name]
    stack = Stack(configuration(source)[0], device="meta")
    assert sum(p.numel() for p in stack.parameters()) == size


@pytest.mark.parametrize(
    ("source", "field", "value"),
    [
        (_PHI4_MINI, "full_attn_mod", 2),
        (_PHI4_MINI, "interpolate_factor", 2),
        (_PHI4_MINI, "lm_head_bias", True),
        (_PHI4_MINI, "mlp_bias", True),
        (_STARCODER2, "layer_norm_epsilon", 1e-6),
        (_STARCODER2, "scale_attn_weights", False),
        (_NEOX, "rope_theta", 20000),
        (_NEOX, "partial_rotary_factor", 0.5),
        (_LLAMA, "original_max_position_embeddings", "long"),
        (_LLAMA, "rope_theta", 1),
        (_LLAMA, "architectures", "LlamaForCausalLM"),
        (_LABELLED["bert"], "id2label", 3),
        (_LABELLED["rwkv7"], "value_dim", 128),
    ],
)
def test_another_value_is_refused(source: dict[str, Any], field: str, value: Any) -> None:
    if field == "original_max_position_embeddings":
        source = source | {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}
    with pytest.raises(LaminogramError, match=field):
        configuration(source | {field: value})


_ANYTHING = st.sampled_from(
    [
        *([], {}, "x", "", -1, 0, 1, 0.5, 1e308, math.inf, math.nan, True, False, 2**70, -(2**70)),
        *([1, 2], ["a"], [None], [[1]], {"a": 1}, {"0": [1]}),
    ]
)
_SOURCES = [*(source for source, _ in PUBLISHED.values()), *_LABELLED.values()]
_ROPES = {
    **{kind: {"factor": 2.0} for kind in ("linear", "dynamic", "yarn", "proportional")},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "longrope": _FACTORS,
    "default": {},
}
_ROPE_FIELDS = (
    *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "truncate"),
    *("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    *("short_factor", "long_factor", "attention_factor", "mscale", "mscale_all_dim", "beta_fast"),
)
_OTHERS = ("architectures", "id2label", "num_labels", "head_dim", "eos_token_id", "pad_token_id")


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_a_field_of_any_kind_is_read_or_refused(data: st.DataObject) -> None:
    """Never another error than the package's own, whatever a file says."""
    source = dict(data.draw(st.sampled_from(_SOURCES)))
    if data.draw(st.booleans()):
        source[data.draw(st.sampled_from([*source, *_OTHERS]))] = data.draw(_ANYTHING)
    else:
        kind = data.draw(st.sampled_from(list(_ROPES)))
        rope = {"rope_type": kind, **_ROPES[kind]}
        rope[data.draw(st.sampled_from(_ROPE_FIELDS))] = data.draw(_ANYTHING)
        source[data.draw(st.sampled_from(["rope_scaling", "rope_parameters"]))] = rope
    with suppress(LaminogramError):
        configuration(source)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("default", "rope_theta", 0),
        ("linear", "factor", [2.0]),
        ("llama3", "high_freq_factor", 1.0),
        ("longrope", "short_factor", 1.0),
        ("yarn", "original_max_position_embeddings", 0.5),
        ("yarn", "truncate", 0),
        ("proportional", "partial_rotary_factor", 1.5),
    ],
)
def test_a_rotary_that_cannot_be_computed_is_refused(kind: str, field: str, value: Any) -> None:
    rope = {"rope_type": kind, **_ROPES[kind]}
    if kind != "longrope":  # whose lists fit other heads
        configuration(_LLAMA | {"rope_parameters": rope})
    with pytest.raises(ConfigError, match=field):
        configuration(_LLAMA | {"rope_parameters": rope | {field: value}})


def test_a_base_that_stands_in_both_places_is_the_inner_one() -> None:
    both = {"rope_theta": 1e4, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    attn = configuration(_LLAMA | both)[0].layers[0].attn
    assert isinstance(attn, AttentionConfig) and attn.rope is not None
    assert attn.rope.theta == 5e5


# What transformers calls the configuration of a family, and what it does not say by itself.
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", {}),
    "mixtral": ("MixtralConfig", {}),
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3_moe": ("Qwen3MoeConfig", {}),
    "glm": ("GlmConfig", {}),
    "glm4": ("Glm4Config", {}),
    "gemma": ("GemmaConfig", {}),
    "phi3": ("Phi3Config", {}),
    "gpt2": ("GPT2Config", {}),
    "gpt_neo": ("GPTNeoConfig", {}),
    "gpt_neox": ("GPTNeoXConfig", {}),
    "starcoder2": ("Starcoder2Config", {}),
    "bert": ("BertConfig", {}),
    "roberta": ("RobertaConfig", {}),
    "deepseek_v2": ("DeepseekV2Config", {"num_experts_per_tok": 6}),
    "deepseek_v3": ("DeepseekV3Config", {}),
}
# The first program that ran V2 has none, transformers two: a file says it.
_DISPUTED = {("deepseek_v2", "n_shared_experts")}


def _mathematics(source: dict[str, Any]) -> StackConfig:
    """The configuration without what it was read from and without the ids that end a text."""
    config = families.find(source).config(source)
    return replace(config, source={}, bos_token_id=None, eos_token_ids=())


def _asked_for(source: dict[str, Any]) -> bool:
    """Whether the configuration is refused for something that is not there."""
    try:
        _mathematics(source)
    except ConfigError as error:
        return "is missing" in str(error) or "is None" in str(error)
    return False


@pytest.mark.parametrize("kind", _CLASSES)
def test_an_absent_field_means_what_it_does_to_transformers(kind: str) -> None:
    """Or it is asked for: each field is left out in turn."""
    name, given = _CLASSES[kind]
    made = getattr(transformers, name)
    whole = made(**given).to_dict() | {"model_type": kind}
    for field in whole.keys() - {"model_type"}:
        if (kind, field) in _DISPUTED:
            continue
        part = {key: value for key, value in whole.items() if key != field}
        filled = made(**{key: part[key] for key in part if key != "model_type"}).to_dict()
        assert _asked_for(part) or _mathematics(part) == _mathematics(
            filled | {"model_type": kind}
        ), field
