"""Which published form says what the arguments of a Megatron run say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from laminogram.errors import FamilyError


def published(
    common: Mapping[str, Any],
    *,
    qkv_bias: bool = False,
    bias: bool = False,
    qk_norm: bool = False,
    window: int | None = None,
) -> dict[str, Any]:
    """config.json's contents for a decoder with these parts, in the plainest form that has them.

    common: sizes, norms and rotary embedding under the Hugging Face names. bias: every product has
    one. window: tokens that each token sees, itself included. FamilyError where no form has all.
    """
    if qk_norm and (qkv_bias or bias):
        raise FamilyError("no published form has normalised queries and keys beside such biases")
    if bias and window:
        raise FamilyError("no published form has biases on every product and a window")
    everywhere = {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 0}
    if qk_norm or (qkv_bias and not bias):
        named = ("qwen3", "Qwen3ForCausalLM") if qk_norm else ("qwen2", "Qwen2ForCausalLM")
        parts = everywhere if window else {}
    elif window:
        named, parts = ("mistral", "MistralForCausalLM"), {"sliding_window": window}
    else:
        named = ("llama", "LlamaForCausalLM")
        parts = {"attention_bias": True, "mlp_bias": True} if bias else {}
    return {"model_type": named[0], "architectures": [named[1]], **common, **parts}
