from __future__ import annotations

import math

import pytest
import torch

from laminogram import families
from laminogram.errors import ConfigError
from laminogram.stack.stack import Stack
from laminogram.train import initialise

LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
RWKV4 = {
    "model_type": "rwkv",
    "vocab_size": 64,
    "hidden_size": 32,
    "attention_hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
}


def _stack(source: dict) -> Stack:
    return Stack(families.find(source).config(source))


@pytest.mark.parametrize("source", [LLAMA, RWKV4], ids=["llama", "rwkv4"])
def test_seeded_finite_and_uncertain(source):
    one, two, other = _stack(source), _stack(source), _stack(source)
    initialise(one, 1)
    initialise(two, 1)
    initialise(other, 2)
    for (name, a), b in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert a.isfinite().all(), name
    assert not torch.equal(one.embed.tokens.weight, other.embed.tokens.weight)
    tokens = torch.randint(64, (4, 20), generator=torch.Generator().manual_seed(0))
    logits = one(tokens)
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(64), abs=0.4)


def test_recurrence_starts_from_ramps_and_closed_outputs():
    stack = _stack(RWKV4)
    initialise(stack, 1)
    first, last = stack.layers[0], stack.layers[-1]
    assert torch.equal(first.attn.o.weight, torch.zeros_like(first.attn.o.weight))
    assert first.attn.decay[0].item() == -5.0
    assert first.attn.decay[-1].item() == pytest.approx(3.0)
    assert torch.all(first.attn.decay.diff() > 0)
    steps = torch.tensor([-0.5, 0.0, 0.5])
    assert torch.allclose(first.attn.bonus[[2, 0, 1]], math.log(0.3) + steps)
    assert torch.all(last.attn.mix_k >= first.attn.mix_k)
    product = first.ffn.up.weight.T @ first.ffn.up.weight
    assert torch.allclose(product, product[0, 0] * torch.eye(32), atol=1e-5)


def test_only_on_the_cpu_and_only_known_mixers():
    with pytest.raises(ConfigError, match="CPU"):
        initialise(Stack(families.find(LLAMA).config(LLAMA), device="meta"), 1)
    stack = _stack(LLAMA)
    stack.extra = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ConfigError, match="extra"):
        initialise(stack, 1)
