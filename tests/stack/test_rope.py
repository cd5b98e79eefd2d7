"""Rotary frequencies against transformers' own, for every kind, and the turn's algebra."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from laminogram.errors import ConfigError
from laminogram.families.base import Fields, read_rope
from laminogram.stack.config import RopeConfig
from laminogram.stack.rope import inverse_frequencies, regime, rotate, spread, tables, turn

HEAD, TRAINED = 16, 64
SHORT, LONG = [1.0 + 0.1 * j for j in range(8)], [2.0 + j for j in range(8)]
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 3.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "yarn-betas": {
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "beta_fast": 8.0,
        "beta_slow": 0.5,
        "truncate": False,
        "attention_factor": 1.3,
    },
    "yarn-mscale": {
        "factor": 8.0,
        "original_max_position_embeddings": 32,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
    },
    "longrope": {
        "factor": 2.0,
        "short_factor": SHORT,
        "long_factor": LONG,
        "original_max_position_embeddings": 32,
    },
    "longrope-stated": {
        "short_factor": SHORT,
        "long_factor": LONG,
        "attention_factor": 1.25,
        "original_max_position_embeddings": 32,
    },
    "proportional": {"partial_rotary_factor": 0.5},
    "proportional-scaled": {"partial_rotary_factor": 0.75, "factor": 2.0},
}


def theirs(name: str) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=4 * HEAD,
        num_attention_heads=4,
        max_position_embeddings=TRAINED,
        rope_parameters={
            "rope_type": name.partition("-")[0],
            "rope_theta": 500.0,
            **KINDS[name],
        },
    )


def ours(name: str) -> RopeConfig:
    fields = Fields(theirs(name).to_dict(), "test")
    return read_rope(fields, HEAD, max_positions=TRAINED)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 64, 65, 200])
@pytest.mark.parametrize("name", KINDS)
def test_frequencies_equal_transformers(name: str, length: int) -> None:
    config = theirs(name)
    kind = name.partition("-")[0]
    init = ROPE_INIT_FUNCTIONS.get(kind, LlamaRotaryEmbedding.compute_default_rope_parameters)
    want, want_scale = init(config, seq_len=length)
    got, scale = inverse_frequencies(ours(name), length)
    assert got.dtype == torch.float32
    assert torch.allclose(got, want, rtol=1e-6, atol=0)
    assert scale == pytest.approx(want_scale, rel=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_turning_equals_transformers(name: str) -> None:
    torch.manual_seed(0)
    q, k = torch.randn(2, 3, 40, HEAD), torch.randn(2, 1, 40, HEAD)
    positions = torch.arange(40).expand(2, -1)
    cos, sin = LlamaRotaryEmbedding(theirs(name))(q, positions)
    want = apply_rotary_pos_emb(q, k, cos, sin)
    table = tables(ours(name), positions, 40)
    for x, y in zip((q, k), want, strict=True):
        turned = rotate(x.transpose(1, 2), *table).transpose(1, 2)
        assert torch.allclose(turned, y, atol=1e-5)


@pytest.mark.parametrize("name", KINDS)
def test_equal_regimes_mean_equal_frequencies(name: str) -> None:
    rope = ours(name)
    lengths = range(1, 130, 3)
    found = [(regime(rope, n), inverse_frequencies(rope, n)) for n in lengths]
    for first, (one, _) in found:
        for second, (other, _) in found:
            assert (first == second) == torch.equal(one, other)


@given(
    dims=st.integers(1, 4).map(lambda n: 2 * n),
    shift=st.integers(0, 1000),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_products_depend_on_distance_alone(dims: int, shift: int, seed: int) -> None:
    """<turn(q, i), turn(k, j)> depends on i - j; channels beyond the turned ones stay."""
    rope = RopeConfig(theta=10_000.0, rotary_dims=dims)
    q, k = torch.randn(2, 1, 3, 1, 8, generator=torch.Generator().manual_seed(seed))
    scores = []
    for start in (0, shift):
        table = tables(rope, torch.arange(start, start + 3), start + 3)
        turned = [rotate(x, *table) for x in (q, k)]
        assert torch.equal(turned[0][..., dims:], q[..., dims:])
        scores.append(torch.einsum("bihd,bjhd->bij", *turned))
    assert torch.allclose(*scores, atol=2e-3)


def test_the_type_of_the_input_is_kept() -> None:
    rope = RopeConfig(theta=10_000.0, rotary_dims=4)
    cos, sin = tables(rope, torch.arange(3), 3)
    assert rotate(torch.randn(1, 3, 1, 8).bfloat16(), cos, sin).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("rope", "words"),
    [
        (RopeConfig(theta=1e4, rotary_dims=8, kind="spiral"), "'spiral' is unknown"),
        (RopeConfig(theta=1e4, rotary_dims=7), "rotary_dims is 7"),
        (RopeConfig(theta=1e4, rotary_dims=8, kind="linear"), "'factor'"),
        (RopeConfig(theta=1e4, rotary_dims=8, kind="llama3"), "factor"),
        (
            RopeConfig(
                theta=1e4,
                rotary_dims=8,
                kind="longrope",
                parameters={
                    "short_factor": [1.0],
                    "long_factor": [1.0],
                    "original_max_position_embeddings": 8,
                },
            ),
            "has 1 numbers; expected one for each of the 4",
        ),
    ],
)
def test_what_is_wrong_is_named(rope: RopeConfig, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        inverse_frequencies(rope, 4)


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.integers(1, 6),
    rest=st.integers(0, 3),
    start=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_the_fast_turn_equals_the_plain_one_with_its_gradient(
    pairs: int, rest: int, start: int, dtype: torch.dtype
) -> None:
    rope = RopeConfig(theta=1e4, rotary_dims=2 * pairs)
    cos, sin = tables(rope, torch.arange(start, start + 5), start + 5)
    generator = torch.Generator().manual_seed(start)
    x = torch.randn(2, 5, 3, 2 * pairs + rest, generator=generator, dtype=torch.float64).to(dtype)
    found, expected = x.clone().requires_grad_(), x.clone().requires_grad_()
    fast, plain = turn(found, *spread(cos[None], sin[None])), rotate(expected, cos, sin)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-6 if dtype == torch.float32 else 1e-2
    assert fast.dtype == plain.dtype == dtype
    assert torch.allclose(fast, plain, rtol=tolerance, atol=tolerance)
    weights = torch.randn(fast.shape, generator=generator, dtype=torch.float64).to(dtype)
    (fast * weights).sum().backward()
    (plain * weights).sum().backward()
    assert found.grad is not None
    assert torch.allclose(found.grad, expected.grad, rtol=tolerance, atol=tolerance)
