"""The models of the study: Llama and RWKV-4 in four sizes, three seeds, the same tokens for all.

python experiments/outliers/sizes.py          # writes recipes/NAME/recipe.json again
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SEEDS = (1, 2, 3)
STEPS = 3600  # of 128 x 512 tokens: 236 M, 2.65 passes over the books
SIZES: dict[str, dict[str, tuple[int, int, int, float]]] = {
    # hidden size, layers, heads, peak learning rate
    "llama": {
        "xs": (48, 4, 3, 0.006),
        "s": (96, 6, 3, 0.005),
        "m": (160, 8, 5, 0.004),
        "l": (256, 11, 8, 0.003),
    },
    "rwkv4": {
        "xs": (32, 4, 0, 0.005),
        "s": (72, 6, 0, 0.004),
        "m": (144, 7, 0, 0.003),
        "l": (256, 10, 0, 0.0025),
    },
}


def names() -> list[str]:
    """Every model without its seed, the largest first: they take longest."""
    return [f"{kind}-{size}" for size in ("l", "m", "s", "xs") for kind in ("rwkv4", "llama")]


def _llama(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "intermediate_size": 8 * hidden // 3 // 16 * 16,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "head_dim": hidden // heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "max_position_embeddings": 512,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    }


def _rwkv4(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "architectures": ["RwkvForCausalLM"],
        "model_type": "rwkv",
        "context_length": 512,
        "attention_hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "layer_norm_epsilon": 1e-05,
        "rescale_every": 0,
        "tie_word_embeddings": False,
        "use_cache": True,
    }


def recipe(kind: str, size: str) -> dict[str, Any]:
    """The recipe of one model, in the form of zoo/."""
    hidden, layers, heads, rate = SIZES[kind][size]
    make = {"llama": _llama, "rwkv4": _rwkv4}[kind]
    config = {"vocab_size": 4096, "hidden_size": hidden, "num_hidden_layers": layers}
    config |= make(hidden, layers, heads) | {"bos_token_id": 0, "eos_token_id": 0}
    optimiser: dict[str, Any] = {"lr": rate, "betas": [0.9, 0.98], "weight_decay": 0.1}
    if kind == "rwkv4":
        optimiser["rates"] = {"attn.decay": 2.0, "attn.bonus": 3.0}
    return {
        "summary": f"{kind} of {layers} layers and {hidden} channels, for the study of outliers.",
        "layout": "hf",
        "config": config,
        "data": {"batch": 128, "context": 512},
        "train": {
            "steps": STEPS,
            "optimiser": optimiser,
            "schedule": {"kind": "cosine", "warmup": 0.02, "floor": 0.02},
            "clip": 1.0,
            "log_every": 50,
            "save_every": 100_000,
        },
        "evaluate": {"context": 512, "stride": 256},
    }


def write_recipes(folder: Path) -> None:
    """Every recipe as `folder`/NAME/recipe.json."""
    for name in names():
        kind, size = name.split("-")
        (folder / name).mkdir(parents=True, exist_ok=True)
        text = json.dumps(recipe(kind, size), indent=2) + "\n"
        (folder / name / "recipe.json").write_text(text, encoding="utf-8")
