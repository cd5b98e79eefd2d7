"""Tiny random checkpoints of these decoders under their published names, and how they are saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from tests.families.reference import HEADS, HIDDEN, LAYERS, VOCAB
from tests.families.remote import models
from tests.families.remote.arithmetic import Tensors
from tests.families.remote.models import Config
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]
INNER = 24


class Case(NamedTuple):
    """A configuration, the shapes of its tensors, its restatement, and how many tokens to run."""

    config: Config
    shapes: Shapes
    logits: Callable[[Tensors, Config, Tensor], Tensor]
    length: int = 23


def _linear(name: str, rows: int, columns: int, bias: bool = False) -> Shapes:
    weight: Shapes = {f"{name}.weight": (rows, columns)}
    return weight | {f"{name}.bias": (rows,)} if bias else weight


def _qwen(length: int = 23, **fields: object) -> Case:
    c: Config = {
        "model_type": "qwen",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "kv_channels": HIDDEN // HEADS,
        "seq_length": 32,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 100,
        "rotary_pct": 1.0,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        **fields,
    }
    bias = not c["no_bias"]
    shapes: Shapes = {"transformer.wte.weight": (VOCAB, HIDDEN)}
    for i in range(LAYERS):
        at = f"transformer.h.{i}"
        shapes |= {f"{at}.ln_1.weight": (HIDDEN,), f"{at}.ln_2.weight": (HIDDEN,)}
        shapes |= _linear(f"{at}.attn.c_attn", 3 * HIDDEN, HIDDEN, True)
        shapes |= _linear(f"{at}.attn.c_proj", HIDDEN, HIDDEN, bias)
        shapes |= _linear(f"{at}.mlp.w1", INNER, HIDDEN, bias)
        shapes |= _linear(f"{at}.mlp.w2", INNER, HIDDEN, bias)
        shapes |= _linear(f"{at}.mlp.c_proj", HIDDEN, INNER, bias)
    shapes |= {"transformer.ln_f.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}
    return Case(c, shapes, models.qwen, length)


def _baichuan(heads: int = HEADS, **fields: object) -> Case:
    size = 8 * heads
    c: Config = {
        "model_type": "baichuan",
        "vocab_size": VOCAB,
        "hidden_size": size,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "model_max_length": 32,
        **fields,
    }
    shapes: Shapes = {"model.embed_tokens.weight": (VOCAB, size)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.input_layernorm.weight": (size,)}
        shapes |= {f"{at}.post_attention_layernorm.weight": (size,)}
        shapes |= _linear(f"{at}.self_attn.W_pack", 3 * size, size)
        shapes |= _linear(f"{at}.self_attn.o_proj", size, size)
        shapes |= _linear(f"{at}.mlp.gate_proj", INNER, size)
        shapes |= _linear(f"{at}.mlp.up_proj", INNER, size)
        shapes |= _linear(f"{at}.mlp.down_proj", size, INNER)
    shapes |= {"model.norm.weight": (size,), "lm_head.weight": (VOCAB, size)}
    return Case(c, shapes, models.baichuan)


def _internlm2(length: int = 23, **fields: object) -> Case:
    c: Config = {
        "model_type": "internlm2",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-6,
        "rope_theta": 100.0,
        "rope_scaling": None,
        "bias": False,
        **fields,
    }
    size, bias = HIDDEN // HEADS, bool(c["bias"])
    shapes: Shapes = {"model.tok_embeddings.weight": (VOCAB, HIDDEN)}
    for i in range(LAYERS):
        at = f"model.layers.{i}"
        shapes |= {f"{at}.attention_norm.weight": (HIDDEN,), f"{at}.ffn_norm.weight": (HIDDEN,)}
        rows = (HEADS + 2 * c["num_key_value_heads"]) * size
        shapes |= _linear(f"{at}.attention.wqkv", rows, HIDDEN, bias)
        shapes |= _linear(f"{at}.attention.wo", HIDDEN, HIDDEN, bias)
        shapes |= _linear(f"{at}.feed_forward.w1", INNER, HIDDEN)
        shapes |= _linear(f"{at}.feed_forward.w3", INNER, HIDDEN)
        shapes |= _linear(f"{at}.feed_forward.w2", HIDDEN, INNER)
    shapes |= {"model.norm.weight": (HIDDEN,), "output.weight": (VOCAB, HIDDEN)}
    return Case(c, shapes, models.internlm2, length)


def _chatglm(**fields: object) -> Case:
    c: Config = {
        "model_type": "chatglm",
        "padded_vocab_size": VOCAB,
        "vocab_size": VOCAB - 1,  # not what the tensors have, and not what is read
        "hidden_size": HIDDEN,
        "ffn_hidden_size": INNER,
        "num_layers": LAYERS,
        "num_attention_heads": HEADS,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "kv_channels": 8,
        "seq_length": 32,
        "layernorm_epsilon": 1e-5,
        "rmsnorm": True,
        "post_layer_norm": True,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "apply_query_key_layer_scaling": True,
        **fields,
    }
    size, bias = c["kv_channels"], bool(c["add_bias_linear"])
    parts = ("weight",) if c["rmsnorm"] else ("weight", "bias")
    norms = ["transformer.encoder.final_layernorm"] if c["post_layer_norm"] else []
    shapes: Shapes = {
        "transformer.embedding.word_embeddings.weight": (VOCAB, HIDDEN),
        "transformer.rotary_pos_emb.inv_freq": (size // 4,),
    }
    for i in range(LAYERS):
        at = f"transformer.encoder.layers.{i}"
        norms += [f"{at}.input_layernorm", f"{at}.post_attention_layernorm"]
        rows = (HEADS + 2 * c["multi_query_group_num"]) * size
        qkv_bias = bool(c["add_qkv_bias"]) or bias
        shapes |= _linear(f"{at}.self_attention.query_key_value", rows, HIDDEN, qkv_bias)
        shapes |= _linear(f"{at}.self_attention.dense", HIDDEN, HEADS * size, bias)
        shapes |= _linear(f"{at}.mlp.dense_h_to_4h", 2 * INNER, HIDDEN, bias)
        shapes |= _linear(f"{at}.mlp.dense_4h_to_h", HIDDEN, INNER, bias)
    shapes |= {f"{name}.{part}": (HIDDEN,) for name in norms for part in parts}
    shapes |= {"transformer.output_layer.weight": (VOCAB, HIDDEN)}
    return Case(c, shapes, models.chatglm)


CASES: dict[str, Case] = {
    "qwen": _qwen(),
    "qwen-beyond": _qwen(seq_length=8),
    "qwen-beyond-plain": _qwen(seq_length=8, use_dynamic_ntk=False, use_logn_attn=False),
    "qwen-biases": _qwen(no_bias=False, layer_norm_epsilon=0.3),
    "qwen-partial": _qwen(rotary_pct=0.5, seq_length=16),
    "baichuan-7b": _baichuan(max_position_embeddings=32),
    "baichuan2-7b": _baichuan(max_position_embeddings=32, z_loss_weight=0),
    "baichuan-13b": _baichuan(heads=6),
    "baichuan2-13b": _baichuan(z_loss_weight=0, rms_norm_eps=0.3),
    "internlm2": _internlm2(),
    "internlm2-biases": _internlm2(bias=True, num_key_value_heads=1, rms_norm_eps=0.3),
    "internlm2-beyond": _internlm2(
        max_position_embeddings=10, rope_scaling={"type": "dynamic", "factor": 2.0}
    ),
    "chatglm": _chatglm(),
    "chatglm-long": _chatglm(rope_ratio=50, multi_query_group_num=1, kv_channels=16),
    "chatglm2-32k": _chatglm(rope_ratio=4, _name_or_path="THUDM/chatglm2-6b-32k"),
    "chatglm-biases": _chatglm(add_bias_linear=True, rmsnorm=False, layernorm_epsilon=0.3),
    "chatglm-open": _chatglm(post_layer_norm=False, add_qkv_bias=False),
}
_SHARP = ("c_attn.weight", "W_pack.weight", "wqkv.weight", "query_key_value.weight")


def draw(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors: sharp attention, norms far from 1, biases far from 0, uneven head rows."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, shape in shapes.items():
        x = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            is_norm = "bias" not in name and "inv_freq" not in name
            out[name] = 1.5 + 0.5 * x if is_norm else 0.6 * x
        elif "wte" in name or "embed" in name:
            out[name] = x
        else:
            out[name] = x * (1.6 if name.endswith(_SHARP) else 1.1) * shape[-1] ** -0.5
        if name.endswith(("lm_head.weight", "output.weight")):
            out[name] = out[name] * (0.3 + torch.rand(shape[0], 1, generator=generator))
    return out


def save(tensors: dict[str, Tensor], config: Config, folder: Path) -> Path:
    """A directory as published: config.json and one file of tensors."""
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder
