"""Small random stacks that speak bytes, and stacks whose rotary depends on the length."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tests.stacks import config_of, stack_of
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from laminogram.stack.config import StackConfig
from laminogram.stack.stack import Stack
from laminogram.tokenizers import FastTokenizer, Tokenizer
from laminogram.view import View


def byte_tokenizer(merges: list[tuple[str, str]] | None = None) -> Tokenizer:
    """A byte-level BPE of single bytes and a few merges; id 0 to 255 are not in byte order."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = merges or [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
    vocabulary = [*alphabet, *(a + b for a, b in merges)]
    inner = Inner(models.BPE({text: i for i, text in enumerate(vocabulary)}, merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return FastTokenizer(inner)


def speaking_view(kind: str, seed: int = 0, eos: tuple[int, ...] = ()) -> View:
    """A random stack of this kind with a tokenizer of bytes."""
    tokenizer = byte_tokenizer()
    config = replace(config_of(kind), vocab_size=tokenizer.vocab_size, eos_token_ids=eos)
    return _view(config, seed, tokenizer)


def view_with_eos(kind: str, eos: tuple[int, ...]) -> View:
    """`view_of(kind)` that ends texts at these ids."""
    stack = stack_of(kind)
    stack.config = replace(stack.config, eos_token_ids=eos)
    return View(stack, None, kind, stack.full_plan())


def view_with_rope(kind: str, **parameters: Any) -> View:
    """A Llama whose rotary is of another kind and was trained for 8 positions."""
    config = config_of("llama")
    layers = []
    for layer in config.layers:
        rope = replace(layer.attn.rope, kind=kind, parameters=parameters, max_position_embeddings=8)
        layers.append(replace(layer, attn=replace(layer.attn, rope=rope)))
    return _view(replace(config, layers=tuple(layers)), 0, None)


def _view(config: StackConfig, seed: int, tokenizer: Tokenizer | None) -> View:
    stack = Stack(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            if ".mix_" in name:
                parameter.uniform_(0, 1, generator=generator)
                continue
            parameter.normal_(0, 0.3, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return View(stack, tokenizer, config.family, stack.full_plan())
