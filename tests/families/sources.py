"""Random small configurations of every family, and stacks with random weights for them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from tests.families.remote.sources import REMOTE, remote_source
from tests.families.sparse_sources import SPARSE, sparse_source

from laminogram import families
from laminogram.stack.stack import Stack

# Flags of the Llama-shaped families, all of which a random configuration may set.
_FLAGS = {
    "llama": ("attention_bias", "mlp_bias", "tie_word_embeddings"),
    "gemma": ("attention_bias", "tie_word_embeddings"),
    "glm": ("attention_bias", "tie_word_embeddings"),
    "glm4": ("attention_bias", "tie_word_embeddings"),
    "mistral": ("tie_word_embeddings",),
    "phi3": ("tie_word_embeddings",),
    "qwen2": ("use_sliding_window", "tie_word_embeddings"),
    "qwen3": ("use_sliding_window", "attention_bias", "tie_word_embeddings"),
    "starcoder2": ("use_bias", "tie_word_embeddings"),
}


def _decoder(draw: st.DrawFn, family: str, heads: int) -> dict[str, Any]:
    """What the Llama-shaped families have beside the sizes."""
    size = draw(st.sampled_from([4, 8, 12] if family.startswith("glm") else [None, 2, 10]))
    keys = draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0]))
    fields: dict[str, Any] = {"num_key_value_heads": keys, "head_dim": size}
    fields |= {flag: draw(st.booleans()) for flag in _FLAGS[family]}
    if family in ("mistral", "phi3", "qwen2", "qwen3"):
        fields["sliding_window"] = draw(st.sampled_from([None, 1, 4096]))
    if family in ("qwen2", "qwen3"):
        fields["max_window_layers"] = draw(st.integers(0, 12))
    return fields


def _gpt(draw: st.DrawFn, family: str, common: dict[str, Any], heads: int) -> dict[str, Any]:
    """A configuration of GPT-2 or GPT-Neo, which have names of their own for some sizes."""
    layers, ours = common["num_hidden_layers"], dict(common)
    flags = ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings")
    if family == "gpt2":
        names = {"hidden_size": "n_embd", "intermediate_size": "n_inner"}
        ours |= {"num_hidden_layers": layers, "num_attention_heads": heads, "n_positions": 16}
        names |= {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
        ours = {names.get(name, name): value for name, value in ours.items()}
        return ours | {flag: draw(st.booleans()) for flag in flags}
    del ours["num_hidden_layers"]
    kinds = draw(st.lists(st.sampled_from(["global", "local"]), min_size=layers, max_size=layers))
    ours |= {"num_layers": layers, "num_heads": heads, "attention_types": [[kinds, 1]]}
    return ours | {"window_size": draw(st.integers(1, 9)), "max_position_embeddings": 16}


@st.composite
def sources(draw: st.DrawFn, family: str) -> dict[str, Any]:
    """A configuration of this family, as config.json would hold it."""
    heads, size = draw(st.sampled_from([1, 2, 4])), draw(st.sampled_from([4, 8, 12]))
    common: dict[str, Any] = {
        "model_type": families.get(family).model_types[0],
        "vocab_size": draw(st.integers(3, 9)),
        "hidden_size": heads * size,
        "num_hidden_layers": draw(st.integers(1, 12)),
        "intermediate_size": draw(st.integers(1, 9)),
    }
    flags = st.booleans()
    if family in ("gpt2", "gpt_neo"):
        return _gpt(draw, family, common, heads)
    if family in SPARSE:
        return sparse_source(draw, family, common, heads)
    if family in REMOTE:
        return remote_source(draw, family, common, heads)
    if family == "rwkv4":
        extra = {
            "attention_hidden_size": draw(st.integers(1, 9)),
            "tie_word_embeddings": draw(flags),
        }
    elif family in ("rwkv5", "rwkv6"):
        extra = {"head_size": size, "tie_word_embeddings": draw(flags)}
        if family == "rwkv6":
            names = ("proj_low_rank_dim", "gate_low_rank_dim")
            extra |= {name: draw(st.integers(1, 5)) for name in names}
    elif family == "rwkv7":
        names = ("decay", "a", "v", "gate")
        extra = {f"{name}_low_rank_dim": draw(st.integers(1, 5)) for name in names}
        extra["head_dim"] = size
    else:
        extra = {"num_attention_heads": heads}
    if family in _FLAGS:
        extra |= _decoder(draw, family, heads)
    if family == "gpt_neox":
        extra |= {"attention_bias": draw(flags), "rotary_pct": draw(st.sampled_from([0.5, 1.0]))}
    if family == "bert":
        kind = draw(st.sampled_from(["BertForMaskedLM", "BertModel", "BertForPreTraining"]))
        extra |= {"type_vocab_size": draw(st.integers(1, 3)), "architectures": [kind]}
    return common | extra


def random_stack(source: dict[str, Any], seed: int, dtype: torch.dtype = torch.float32) -> Stack:
    """A stack of this configuration with random weights."""
    family = families.find(source)
    stack = Stack(family.config(source), device="cpu", dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in stack.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return stack
