"""The models that are measured: random weights of published shapes, written as checkpoints.

Every side reads the same numbers from disk. Scales are those of trained networks where speed could
depend on them: RWKV's decays are spread as at the start of its training, so that its state neither
vanishes (denormal numbers are slow on a CPU) nor stands still.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """One model: sizes, and the kind that says how its checkpoint is written."""

    kind: str  # "llama" or "rwkv4"
    layers: int
    hidden: int
    ffn: int
    vocab: int
    heads: int = 0
    kv_heads: int = 0

    @property
    def config(self) -> dict:
        """The contents of config.json."""
        sizes = {
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        if self.kind == "llama":
            return sizes | {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "max_position_embeddings": 2048,
                "rms_norm_eps": 1e-5,
                "rope_theta": 10000.0,
                "hidden_act": "silu",
            }
        return sizes | {
            "model_type": "rwkv",
            "architectures": ["RwkvForCausalLM"],
            "attention_hidden_size": self.hidden,
            "context_length": 2048,
            "layer_norm_epsilon": 1e-5,
            "rescale_every": 0,  # halving is for fp16; without it no side pays for it
        }


SHAPES = {
    "llama-125m": Shape("llama", 12, 768, 2048, 32000, 12, 4),
    "llama-1.1b": Shape("llama", 16, 2048, 8192, 32000, 32, 8),
    "rwkv4-169m": Shape("rwkv4", 12, 768, 3072, 50277),
    "rwkv4-1.5b": Shape("rwkv4", 24, 2048, 8192, 50277),
    "llama-tiny": Shape("llama", 2, 64, 128, 256, 4, 2),
    "rwkv4-tiny": Shape("rwkv4", 2, 64, 256, 256),
}


def write(name: str, dtype: torch.dtype, folder: Path, device: str = "cpu") -> Path:
    """Write the checkpoint of a shape below `folder` and return its directory.

    Numbers are drawn on `device`, which on a GPU saves most of the time and gives other ones.

    It holds config.json and model.safetensors under the Hugging Face names; for RWKV-4 also
    blink.pth, the same tensors under the names that the `rwkv` package reads.
    """
    shape = SHAPES[name]
    target = folder / f"{name}-{str(dtype).removeprefix('torch.')}"
    target.mkdir(parents=True, exist_ok=True)
    draw = _llama if shape.kind == "llama" else _rwkv4
    tensors = {key: x.to("cpu", dtype) for key, x in draw(shape, device).items()}
    config = shape.config | {"torch_dtype": str(dtype).removeprefix("torch.")}
    (target / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    if shape.kind == "rwkv4":
        torch.save({_blink_name(key): x for key, x in tensors.items()}, target / "blink.pth")
    return target


class _Draw:
    """Seeded random tensors."""

    def __init__(self, device: str) -> None:
        self.generator, self.device = torch.Generator(device).manual_seed(20), device

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device)

    def matrix(self, rows: int, columns: int, gain: float = 1.0) -> Tensor:
        x = self.normal(rows, columns)
        return x * (gain / math.sqrt(columns))

    def around(self, value: float, spread: float, *shape: int) -> Tensor:
        return value + spread * self.normal(*shape)

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        x = torch.rand(*shape, generator=self.generator, device=self.device)
        return low + (high - low) * x


def _llama(shape: Shape, device: str) -> Tensors:
    draw, size = _Draw(device), shape.hidden
    narrow = size // shape.heads * shape.kv_heads
    out = {
        "model.embed_tokens.weight": draw.around(0, 1, shape.vocab, size),
        "model.norm.weight": draw.around(1, 0.1, size),
        "lm_head.weight": draw.matrix(shape.vocab, size),
    }
    for i in range(shape.layers):
        layer = f"model.layers.{i}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            out[f"{layer}.{norm}.weight"] = draw.around(1, 0.1, size)
        for part, rows in (("q", size), ("k", narrow), ("v", narrow), ("o", size)):
            out[f"{layer}.self_attn.{part}_proj.weight"] = draw.matrix(rows, size)
        for part in ("gate", "up"):
            out[f"{layer}.mlp.{part}_proj.weight"] = draw.matrix(shape.ffn, size)
        out[f"{layer}.mlp.down_proj.weight"] = draw.matrix(size, shape.ffn)
    return out


def _rwkv4(shape: Shape, device: str) -> Tensors:
    draw, size, ffn = _Draw(device), shape.hidden, shape.ffn
    out = {
        "rwkv.embeddings.weight": draw.around(0, 0.1, shape.vocab, size),
        "head.weight": draw.matrix(shape.vocab, size),
    }
    norms = ["rwkv.blocks.0.pre_ln", "rwkv.ln_out"]
    for i in range(shape.layers):
        layer = f"rwkv.blocks.{i}"
        norms += [f"{layer}.ln1", f"{layer}.ln2"]
        mixer, ffn_part = f"{layer}.attention", f"{layer}.feed_forward"
        out[f"{mixer}.time_decay"] = draw.between(-5, 3, size)
        out[f"{mixer}.time_first"] = draw.around(math.log(0.3), 0.5, size)
        for key in ("key", "value", "receptance"):
            out[f"{mixer}.time_mix_{key}"] = draw.between(0, 1, 1, 1, size)
        for key in ("key", "value", "receptance", "output"):
            out[f"{mixer}.{key}.weight"] = draw.matrix(size, size)
        for key in ("key", "receptance"):
            out[f"{ffn_part}.time_mix_{key}"] = draw.between(0, 1, 1, 1, size)
        out[f"{ffn_part}.key.weight"] = draw.matrix(ffn, size)
        out[f"{ffn_part}.value.weight"] = draw.matrix(size, ffn, 0.5)
        out[f"{ffn_part}.receptance.weight"] = draw.matrix(size, size)
    for norm in norms:
        out[f"{norm}.weight"] = draw.around(1, 0.1, size)
        out[f"{norm}.bias"] = draw.around(0, 0.1, size)
    return out


_BLINK = (
    ("rwkv.embeddings.", "emb."),
    ("rwkv.ln_out.", "ln_out."),
    ("rwkv.blocks.", "blocks."),
    (".pre_ln.", ".ln0."),
    (".attention.", ".att."),
    (".feed_forward.", ".ffn."),
    ("_key", "_k"),
    ("_value", "_v"),
    ("_receptance", "_r"),
)


def _blink_name(name: str) -> str:
    """A Hugging Face name of RWKV-4 as the `rwkv` package wants it."""
    for theirs, ours in _BLINK:
        name = name.replace(theirs, ours)
    return name
