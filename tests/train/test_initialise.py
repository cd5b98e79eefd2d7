from __future__ import annotations

import math

import pytest
import torch

from laminogram import families
from laminogram.errors import ConfigError
from laminogram.stack.stack import Stack
from laminogram.train import OptimiserConfig, build_optimiser, initialise
from laminogram.train.loop import row_losses
from laminogram.train.optimiser import decays, take_step

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
RWKV5 = RWKV4 | {"model_type": "rwkv5", "head_size": 16}
RWKV6 = RWKV5 | {"model_type": "rwkv6", "proj_low_rank_dim": 4, "gate_low_rank_dim": 8}
RWKV7 = {
    "model_type": "rwkv7",
    "vocab_size": 64,
    "hidden_size": 32,
    "num_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "decay_low_rank_dim": 8,
    "a_low_rank_dim": 8,
    "v_low_rank_dim": 8,
    "gate_low_rank_dim": 8,
}


def _stack(source: dict) -> Stack:
    return Stack(families.find(source).config(source))


@pytest.mark.parametrize(
    "source", [LLAMA, RWKV4, RWKV5, RWKV6, RWKV7], ids=["llama", "rwkv4", "rwkv5", "rwkv6", "rwkv7"]
)
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


def test_rwkv7_starts_from_ramps_inside_heads_and_closed_products():
    stack = _stack(RWKV7)
    initialise(stack, 1)
    first, last = stack.layers[0].attn, stack.layers[-1].attn
    for name in ("w1", "a1", "g1"):
        assert not getattr(first, name).any(), name
    gram = last.v2 @ last.v2.T
    assert torch.allclose(gram, 0.01 * torch.eye(8), atol=1e-6)
    # The slowest channel of each head is its last, and heads follow each other to slower decays.
    heads = last.w0.view(2, 16)
    assert (heads.argmin(-1) < 8).all() and (heads.argmax(-1) == 15).all()
    assert heads[1].mean() > heads[0].mean()
    assert (first.mix_r[0].item(), last.k_a[5].item()) == (1.0, pytest.approx(1.02))
    assert last.out_norm.weight[0].item() == 1.0
    assert first.out_norm.weight[0].item() == pytest.approx((1 / 3) ** 0.7)
    decay = [decays(name, parameter) for name, parameter in stack.named_parameters()]
    assert sum(decay) == 3 * 6 + 1  # r, k, v, o, up, down of each layer, and the head


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_is_counted_as_a_write(fused):
    """torch's fused kernels write past what decoders and fingerprints look at."""
    parameter = torch.nn.Parameter(torch.ones(4))
    parameter.grad = torch.ones(4)
    version = parameter._version
    take_step(torch.optim.AdamW([parameter], lr=0.1, fused=fused))
    assert parameter._version > version and (parameter < 1).all()


def test_rwkv7_learns_to_repeat():
    """Through the decay, the rates and the low-rank products: all of them get gradients."""
    torch.manual_seed(0)
    stack = _stack(RWKV7)
    initialise(stack, 1)
    optimiser = build_optimiser(stack, OptimiserConfig(lr=0.01, rates={"attn.w0": 2.0}))
    half = torch.randint(64, (8, 10), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([half, half], 1)
    losses = []
    for _ in range(30):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = row_losses(stack, ids).mean()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
        idle = [n for n, p in stack.named_parameters() if p.grad is None]
        optimiser.zero_grad()
    assert idle == []
    assert losses[0] > 4.0
    assert losses[-1] < 1.5


def test_only_on_the_cpu_and_only_known_mixers():
    with pytest.raises(ConfigError, match="CPU"):
        initialise(Stack(families.find(LLAMA).config(LLAMA), device="meta"), 1)
    stack = _stack(LLAMA)
    stack.extra = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(ConfigError, match="extra"):
        initialise(stack, 1)
