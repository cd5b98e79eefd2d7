"""Other families, one token at a time in bf16: Transformers beside `generate` of transformers, RWKV
beside the `rwkv` package. Random weights, as `transformers` and `gpu/_rwkv.py` draw them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu import _models
from benchmarks.gpu import _rwkv
from benchmarks.lab import OURS, Lab, Result, Target, row
from benchmarks.sides import Laminogram, Rwkv, Transformers

NEW_TOKENS = 16
DTYPE = torch.bfloat16
_WIDE = {"vocab_size": 32000, "hidden_size": 768, "num_hidden_layers": 12}
_HEADS = {"num_attention_heads": 12, "num_key_value_heads": 4, "head_dim": 64}
_EXPERTS = {"moe_intermediate_size": 384, "num_experts": 64, "num_experts_per_tok": 8}
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "qwen3": _WIDE | _HEADS | {"intermediate_size": 2048},
    "gpt_neox": _WIDE | {"intermediate_size": 3072, "num_attention_heads": 12},
    "glm4": _WIDE | _HEADS | {"intermediate_size": 2048, "pad_token_id": 0},
    "qwen3_moe": _WIDE | _HEADS | _EXPERTS | {"num_hidden_layers": 8, "norm_topk_prob": True},
    "deepseek_v3": _WIDE
    | {"num_hidden_layers": 8, "intermediate_size": 2048, "num_attention_heads": 12}
    | {"num_key_value_heads": 12, "q_lora_rank": 384, "kv_lora_rank": 256, "v_head_dim": 64}
    | {"qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "first_k_dense_replace": 1}
    | {"n_routed_experts": 64, "num_experts_per_tok": 8, "moe_intermediate_size": 384},
}
RWKV = {
    6: _rwkv.Shape(6, 12, 768, 2688, 65536),
    7: _rwkv.Shape(7, 12, 768, 3072, 65536),
}


def _transformer(lab: Lab, family: str) -> Result:
    import transformers

    folder = lab.scratch / family
    changes = TRANSFORMERS[family] | ({"num_hidden_layers": 1} if lab.tiny else {})
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(family, **changes)
    transformers.AutoModelForCausalLM.from_config(config).to(DTYPE).save_pretrained(folder)
    ours, peer = (side(folder, DTYPE, "cpu") for side in (Laminogram, Transformers))
    prompt = torch.full((1, 1), 5)
    works = {
        OURS: lambda: ours.decode(prompt, NEW_TOKENS),
        "generate": lambda: peer.generate(prompt, NEW_TOKENS),
        "own loop": lambda: peer.decode(prompt, NEW_TOKENS),
    }
    times = lab.race(works, rounds=11)
    limit, what = NEW_TOKENS * _met(ours.stack), "the weights that a token meets, read once"
    return Result(times, (NEW_TOKENS, "tok"), limit, what, (Target("generate", 1.0),))


def _met(stack: Any) -> float:
    """Seconds to read once what a token meets: of the experts those that are chosen."""
    from benchmarks import limits
    from laminogram.stack.quantise.stack import weights_of

    last = stack.config.layers[-1].ffn
    part = last.num_experts_per_tok / last.num_experts if last.kind == "moe" else 1
    total = sum(
        weight.nbytes * (part if ".experts." in path else 1)
        for path, weight in weights_of(stack)
        if len(weight.shape) == 2 and path != "embed.tokens.weight"
    )
    return limits.reading(int(total), "cpu")


def _recurrent(lab: Lab, version: int) -> Result:
    path: Path = _rwkv.written(
        _rwkv.TINY[version] if lab.tiny else RWKV[version], "cpu", lab.scratch
    )
    ours = Laminogram.of(_rwkv.opened(path, DTYPE, "cpu"))
    peer = Rwkv(path, DTYPE, "cpu", version)
    prompt = torch.full((1, 1), 5)
    works = {
        OURS: lambda: ours.decode(prompt, NEW_TOKENS),
        "rwkv": lambda: peer.decode(prompt, NEW_TOKENS),
    }
    times = lab.race(works, rounds=11)
    limit = NEW_TOKENS * _models.decode_limit(ours.stack)
    targets = (Target("rwkv", 1.0),)
    return Result(times, (NEW_TOKENS, "tok"), limit, "its weights read once a token", targets)


@row("qwen3-decode-bf16", needs=("transformers",))
def qwen3(lab: Lab) -> Result:
    return _transformer(lab, "qwen3")


@row("gpt-neox-decode-bf16", needs=("transformers",))
def gpt_neox(lab: Lab) -> Result:
    return _transformer(lab, "gpt_neox")


@row("glm4-decode-bf16", needs=("transformers",))
def glm4(lab: Lab) -> Result:
    return _transformer(lab, "glm4")


@row("qwen3-moe-decode-bf16", needs=("transformers",))
def qwen3_moe(lab: Lab) -> Result:
    return _transformer(lab, "qwen3_moe")


@row("deepseek-v3-decode-bf16", needs=("transformers",))
def deepseek_v3(lab: Lab) -> Result:
    return _transformer(lab, "deepseek_v3")


@row("rwkv6-decode-bf16", needs=("rwkv",))
def rwkv6(lab: Lab) -> Result:
    return _recurrent(lab, 6)


@row("rwkv7-decode-bf16", needs=("rwkv",))
def rwkv7(lab: Lab) -> Result:
    return _recurrent(lab, 7)
