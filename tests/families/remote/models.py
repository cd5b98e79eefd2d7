"""Logits of four published decoders, straight from their raw tensors: independent restatements.

No package that can be installed holds these architectures, so each is written anew from what its
published modeling code computes, in fp64 and with the published names of tensors and fields:
`modeling_qwen.py` (Qwen/Qwen-7B), `modeling_baichuan.py` (baichuan-inc, 7B and 13B, 1 and 2),
`modeling_internlm2.py` (internlm/internlm2-7b), `modeling_chatglm.py` (THUDM/chatglm2-6b-32k,
chatglm3-6b, glm-4-9b). Each function takes tensors, configuration and ids (B, T); gives (B, T, V).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from tests.families.remote.arithmetic import (
    Tensors,
    angles,
    attend,
    distances,
    layer_norm,
    product,
    rms_norm,
    silu,
    split_heads,
    turn_halves,
    turn_neighbours,
)
from torch import Tensor

Config = dict[str, Any]


def qwen(w: Tensors, c: Config, ids: Tensor) -> Tensor:
    heads, eps, trained = c["num_attention_heads"], c["layer_norm_epsilon"], c["seq_length"]
    tokens, turned = ids.shape[1], int(c["kv_channels"] * c["rotary_pct"])
    base = c["rotary_emb_base"]
    if c["use_dynamic_ntk"]:
        alpha = max(2 ** math.ceil(math.log2(tokens / trained) + 1) - 1, 1)
        base *= alpha ** (turned / (turned - 2))
    angle, factors = angles(tokens, turned, base), torch.ones(tokens, 1).double()
    if c["use_logn_attn"]:
        for place in range(trained + 1, tokens + 1):
            factors[place - 1] = math.log(place) / math.log(trained)
    x = w["transformer.wte.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        at = f"transformer.h.{i}"
        fused = product(rms_norm(x, w[f"{at}.ln_1.weight"], eps), w, f"{at}.attn.c_attn")
        q, k, v = (split_heads(part, heads) for part in fused.chunk(3, -1))
        z = attend(turn_halves(q, angle) * factors, turn_halves(k, angle), v)
        x = x + product(z, w, f"{at}.attn.c_proj")
        h = rms_norm(x, w[f"{at}.ln_2.weight"], eps)
        inner = product(h, w, f"{at}.mlp.w1") * silu(product(h, w, f"{at}.mlp.w2"))
        x = x + product(inner, w, f"{at}.mlp.c_proj")
    return product(rms_norm(x, w["transformer.ln_f.weight"], eps), w, "lm_head")


def baichuan(w: Tensors, c: Config, ids: Tensor) -> Tensor:
    heads, eps, tokens = c["num_attention_heads"], c["rms_norm_eps"], ids.shape[1]
    is_7b, is_2 = "max_position_embeddings" in c, "z_loss_weight" in c
    angle = angles(tokens, c["hidden_size"] // heads, 10_000)
    x = w["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}"
        h = rms_norm(x, w[f"{at}.input_layernorm.weight"], eps)
        fused = product(h, w, f"{at}.self_attn.W_pack").unflatten(-1, (3, c["hidden_size"]))
        q, k, v = (split_heads(fused[..., part, :], heads) for part in range(3))
        if is_7b:
            z = attend(turn_halves(q, angle), turn_halves(k, angle), v)
        else:
            z = attend(q, k, v, distances(tokens, heads))
        x = x + product(z, w, f"{at}.self_attn.o_proj")
        h = rms_norm(x, w[f"{at}.post_attention_layernorm.weight"], eps)
        inner = silu(product(h, w, f"{at}.mlp.gate_proj")) * product(h, w, f"{at}.mlp.up_proj")
        x = x + product(inner, w, f"{at}.mlp.down_proj")
    head = w["lm_head.weight"]
    if is_2:
        head = head / head.square().sum(1, keepdim=True).sqrt()
    return rms_norm(x, w["model.norm.weight"], eps) @ head.T


def internlm2(w: Tensors, c: Config, ids: Tensor) -> Tensor:
    heads, keys, eps = c["num_attention_heads"], c["num_key_value_heads"], c["rms_norm_eps"]
    tokens, size, trained = ids.shape[1], c["hidden_size"] // heads, c["max_position_embeddings"]
    base, scaling = c["rope_theta"], c["rope_scaling"]
    if scaling is not None and tokens > trained:
        stretch = scaling["factor"] * tokens / trained - (scaling["factor"] - 1)
        base *= stretch ** (size / (size - 2))
    angle = angles(tokens, size, base)
    x = w["model.tok_embeddings.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        at = f"model.layers.{i}"
        h = rms_norm(x, w[f"{at}.attention_norm.weight"], eps)
        groups = product(h, w, f"{at}.attention.wqkv").unflatten(-1, (keys, -1, size))
        q, k, v = groups[..., :-2, :].flatten(2, 3), groups[..., -2, :], groups[..., -1, :]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        z = attend(turn_halves(q, angle), turn_halves(k, angle), v)
        x = x + product(z, w, f"{at}.attention.wo")
        h = rms_norm(x, w[f"{at}.ffn_norm.weight"], eps)
        w1, w3 = (product(h, w, f"{at}.feed_forward.{name}") for name in ("w1", "w3"))
        x = x + product(silu(w1) * w3, w, f"{at}.feed_forward.w2")
    return product(rms_norm(x, w["model.norm.weight"], eps), w, "output")


def chatglm(w: Tensors, c: Config, ids: Tensor) -> Tensor:
    heads, keys, size = c["num_attention_heads"], c["multi_query_group_num"], c["kv_channels"]
    ratio, tokens = c.get("rope_ratio", 1), ids.shape[1]
    if "chatglm2" in c.get("_name_or_path", ""):
        angle = angles(tokens, size // 2, 10_000, stretch=ratio)
    else:
        angle = angles(tokens, size // 2, 10_000 * ratio)

    def norm(x: Tensor, name: str) -> Tensor:
        weight, eps = w[f"{name}.weight"], c["layernorm_epsilon"]
        rms = c["rmsnorm"]
        return rms_norm(x, weight, eps) if rms else layer_norm(x, weight, w[f"{name}.bias"], eps)

    x = w["transformer.embedding.word_embeddings.weight"][ids]
    for i in range(c["num_layers"]):
        at = f"transformer.encoder.layers.{i}"
        h = norm(x, f"{at}.input_layernorm")
        fused = product(h, w, f"{at}.self_attention.query_key_value")
        q, k, v = fused.split([heads * size, keys * size, keys * size], -1)
        q, k, v = split_heads(q, heads), split_heads(k, keys), split_heads(v, keys)
        z = attend(turn_neighbours(q, angle), turn_neighbours(k, angle), v)
        x = x + product(z, w, f"{at}.self_attention.dense")
        h = norm(x, f"{at}.post_attention_layernorm")
        gate, up = product(h, w, f"{at}.mlp.dense_h_to_4h").chunk(2, -1)
        x = x + product(silu(gate) * up, w, f"{at}.mlp.dense_4h_to_h")
    if c["post_layer_norm"]:
        x = norm(x, "transformer.encoder.final_layernorm")
    return product(x, w, "transformer.output_layer")
