"""Random small configurations of every family, and stacks with random weights for them."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st

from laminogram import families
from laminogram.stack.stack import Stack


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
    if family == "rwkv4":
        extra = {
            "attention_hidden_size": draw(st.integers(1, 9)),
            "tie_word_embeddings": draw(flags),
        }
    elif family == "rwkv7":
        names = ("decay", "a", "v", "gate")
        extra = {f"{name}_low_rank_dim": draw(st.integers(1, 5)) for name in names}
        extra["head_dim"] = size
    else:
        extra = {"num_attention_heads": heads}
    if family == "llama":
        extra |= {
            "num_key_value_heads": draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0])),
            "head_dim": draw(st.sampled_from([None, 2, 10])),
            "attention_bias": draw(flags),
            "mlp_bias": draw(flags),
            "tie_word_embeddings": draw(flags),
        }
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
