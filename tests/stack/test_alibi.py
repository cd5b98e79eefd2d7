"""Slopes, windows and log-n queries against their formulas, on every way through attention.

Caches, ragged rows, plans, groups and captured steps are tested for all kinds of stacks alike.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.families.remote.arithmetic import slopes as published_slopes
from tests.stacks import config_of, ids_of, relative, view_of

from laminogram.errors import ConfigError
from laminogram.stack import alibi
from laminogram.stack.mixers.attention import Attention


@given(heads=st.integers(1, 130))
def test_slopes_are_the_published_ones(heads):
    assert alibi.slopes(heads) == pytest.approx(published_slopes(heads), rel=1e-12)


def test_attention_is_the_formula():
    """Scores of grouped heads, lowered by slope and distance, inside a window of nine tokens."""
    view, tokens = view_of("alibi"), 14
    gram = view.record(ids_of(2, tokens), sites=["q", "k", "pattern"])
    for layer in range(3):
        q, k = (torch.tensor(gram[name, layer]).transpose(1, 2) for name in "qk")
        scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) / math.sqrt(8)
        expected = torch.zeros_like(scores)
        for t in range(tokens):
            seen = slice(max(0, t - 8), t + 1)
            distance = t - torch.arange(tokens)[seen]
            lowered = torch.tensor(published_slopes(4))[:, None] * distance
            expected[:, :, t, seen] = (scores[:, :, t, seen] - lowered).softmax(-1)
        assert relative(torch.tensor(gram["pattern", layer]), expected) < 1e-5


def test_queries_grow_with_the_logarithm_of_their_place():
    """From the seventh token on: the factor is log of the place to the base of six."""
    view, ids = view_of("alibi"), ids_of(1, 12)
    plain = view_of("alibi")
    for layer in plain.stack.layers:
        layer.attn.config = replace(layer.attn.config, log_n=None)
    scaled, unscaled = (torch.tensor(v.record(ids, sites="q")["q", 0]) for v in (view, plain))
    factors = (scaled / unscaled).mean((0, 2, 3))
    wanted = [max(1.0, math.log(place, 6)) for place in range(1, 13)]
    assert factors.tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_fused_product_equals_the_explicit_one():
    view, ids = view_of("alibi"), ids_of(3, 23)
    explicit = view.record(ids, sites=["pattern", "logits"])["logits"]
    assert relative(view.logits(ids), torch.tensor(explicit)) < 1e-5


def test_slopes_look_back_only():
    config = replace(config_of("alibi").layers[0].attn, window=None, causal=False)
    with pytest.raises(ConfigError, match="ALiBi"):
        Attention(config, 32, -1)
