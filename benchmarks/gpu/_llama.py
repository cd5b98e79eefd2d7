"""One Llama for several rows: random weights on the device, the same in every side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.lab import Lab
from benchmarks.limits import products
from benchmarks.shapes import SHAPES, Shape
from laminogram import families
from laminogram.stack.batch import Batch
from laminogram.stack.stack import Stack
from laminogram.view import View

SITES = ("attn_out", "ffn_out", "resid_post")
_NAMES = {
    "model.embed_tokens": "embed.tokens",
    "model.norm": "final_norm",
    "lm_head": "head",
    "model.layers": "layers",
    "self_attn.q_proj": "attn.q",
    "self_attn.k_proj": "attn.k",
    "self_attn.v_proj": "attn.v",
    "self_attn.o_proj": "attn.o",
    "mlp.gate_proj": "ffn.gate",
    "mlp.up_proj": "ffn.up",
    "mlp.down_proj": "ffn.down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@dataclass(frozen=True)
class Llama:
    """A view of random weights, made fast where a GPU is; ids (B, T); the shape and dtype."""

    view: View
    ids: Tensor
    shape: Shape
    dtype: torch.dtype

    @classmethod
    def of(cls, lab: Lab) -> Llama:
        """Llama 1.1 B in bf16 with 8 x 512 tokens; a tiny one in fp32 where the lab says so."""
        tiny = lab.tiny or lab.device == "cpu"
        shape = SHAPES["llama-tiny" if tiny else "llama-1.1b"]
        dtype = torch.float32 if tiny else torch.bfloat16
        view = random_view(shape, lab.device, dtype)
        rows, tokens = (2, 32) if tiny else (8, 512)
        ids = torch.randint(0, shape.vocab, (rows, tokens), device=lab.device)
        return cls(view.fast() if lab.device == "cuda" else view, ids, shape, dtype)

    @property
    def batch(self) -> Batch:
        """The ids as a batch without pads."""
        rows, tokens = self.ids.shape
        return Batch(self.ids, (tokens,) * rows, (0,) * rows, tokens)

    def plain(self) -> Tensor:
        """One forward without the head."""
        return self.view.run(self.batch, logits="none")

    def peer(self) -> Any:
        """The transformers model with the same weights."""
        import transformers

        kept = {k: v for k, v in self.shape.config.items() if k != "model_type"}
        config = transformers.LlamaConfig(**kept, attn_implementation="sdpa", dtype=self.dtype)
        old = torch.get_default_dtype()
        torch.set_default_dtype(self.dtype)
        with torch.device(self.ids.device):
            model = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
        torch.set_default_dtype(old)
        own = dict(self.view.stack.named_parameters())
        for name, weight in model.named_parameters():
            for theirs, ours in _NAMES.items():
                name = name.replace(theirs, ours)
            weight.copy_(own.pop(name))
        assert not own, list(own)
        return model

    def products(self) -> float:
        """Seconds of this model's own products, done by torch one after the other."""
        size, ffn, layers = self.shape.hidden, self.shape.ffn, self.shape.layers
        narrow = size // self.shape.heads * self.shape.kv_heads
        rows = self.ids.numel()
        shapes = (
            (layers, rows, size, size + 2 * narrow),
            (layers, rows, size, size),
            (layers, rows, size, 2 * ffn),
            (layers, rows, ffn, size),
        )
        return products(shapes, str(self.ids.device.type), self.dtype)


def random_view(shape: Shape, device: str, dtype: torch.dtype) -> View:
    """A Llama of a shape, its seeded random weights drawn on the device."""
    torch.manual_seed(0)
    config = families.get("llama").config(shape.config)
    stack = Stack(config, device=device, dtype=dtype).eval().requires_grad_(False)
    for name, weight in stack.named_parameters():
        if weight.dim() == 2:
            weight.normal_(std=1.0 if name.startswith("embed") else weight.shape[1] ** -0.5)
        else:
            weight.normal_(mean=1.0, std=0.1)
    return View(stack, None, "llama", stack.full_plan())


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference, in units of the largest value."""
    return float((a.float() - b.float()).abs().max() / b.float().abs().max())
