"""Changes of the canonical form leave the function as it is: any model that has what they touch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.families import reference as ref
from tests.families.sources import random_stack

from laminogram.convert import catalogue, rotary
from laminogram.convert.changes import Change, Grade, grade, limit, through
from laminogram.stack.config import StackConfig
from laminogram.stack.stack import Stack

VOCABULARY = 9


def source(family: str, heads: int, keys: int, size: int, **fields: Any) -> dict[str, Any]:
    return {
        "model_type": family,
        "vocab_size": VOCABULARY,
        "hidden_size": heads * size,
        "num_hidden_layers": 2,
        "intermediate_size": 8,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "max_position_embeddings": 32,
        **fields,
    }


def changed(stack: Stack, *changes: Change) -> Stack:
    """The stack after these changes."""
    before = {name: p.detach() for name, p in stack.named_parameters()}
    after = Stack(changes[-1].config, device="cpu", dtype=torch.float64)
    with torch.no_grad():
        for name, p in after.named_parameters():
            p.copy_(through(changes, name, before.__getitem__))
    return after


def calm(fields: dict[str, Any], seed: int) -> Stack:
    """A random model in fp64, calm enough that equal functions give equal numbers."""
    stack = random_stack(fields, seed, torch.float64)
    with torch.no_grad():
        for p in stack.parameters():
            p.mul_(0.4)
    return stack


def same(one: Stack, other: Stack, length: int = 12) -> bool:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (2, length), generator=generator)
    with torch.no_grad():
        # The tables of angles are fp32 in every precision.
        return ref.error(other(ids), one(ids)) <= 1e-5


def proposed(proposal: Any, config: StackConfig, found: StackConfig | None = None) -> list[Change]:
    return list(proposal(config, found, None))


@given(
    half=st.integers(1, 6),
    turned=st.data(),
    theta=st.sampled_from([10.0, 100.0, 10_000.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_a_part_of_a_head_is_a_proportion_of_the_whole(
    half: int, turned: st.DataObject, theta: float, seed: int
) -> None:
    size = 2 * half + 2
    dims = 2 * turned.draw(st.integers(1, half))
    fields = source("phi3", 2, 1, size, rope_theta=theta, partial_rotary_factor=dims / size)
    stack = calm(fields, seed)
    if stack.config.layers[0].attn.rope.rotary_dims != dims:  # the share was rounded down
        return
    (whole,) = proposed(rotary.rotary_changes, stack.config)
    middle = changed(stack, whole)
    assert same(stack, middle)
    (part,) = proposed(rotary.rotary_changes, whole.config)
    assert part.config.layers[0].attn.rope.rotary_dims == dims
    back = changed(stack, whole, part)
    for (name, p), (_, q) in zip(stack.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(p, q), name


@given(groups=st.sampled_from([1, 2, 4]), bias=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_keys_repeated_are_keys_shared(groups: int, bias: bool, seed: int) -> None:
    stack = calm(source("llama", 4, groups, 4, attention_bias=bias), seed)
    found = proposed(catalogue.repeat_keys, stack.config)
    assert len(found) == (groups < 4)
    assert all(same(stack, changed(stack, one)) for one in found)


@given(tied=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_gemma_to_the_usual_origin_and_back(tied: bool, seed: int) -> None:
    stack = calm(source("gemma", 2, 1, 4, head_dim=4, tie_word_embeddings=tied), seed)
    (scale,) = proposed(catalogue.scale_embedding, stack.config)
    (norms,) = proposed(catalogue.offset_norms, scale.config)
    plain = changed(stack, scale, norms)
    assert same(stack, plain)
    assert norms.config.embedding.scale == 1 and norms.config.layers[0].norm.offset == 0
    (again,) = proposed(catalogue.scale_embedding, norms.config, stack.config)
    (origin,) = proposed(catalogue.offset_norms, again.config, stack.config)
    assert same(stack, changed(stack, scale, norms, again, origin))


@given(scale=st.floats(0.05, 3.0), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_the_scale_of_scores_lies_in_the_queries(scale: float, seed: int) -> None:
    stack = calm(source("qwen2", 2, 1, 4), seed)
    plain = stack.config
    other = ref.in_mixer(plain, "attn", scale=scale)
    scaled = Stack(other, device="cpu", dtype=torch.float64)
    scaled.load_state_dict(stack.state_dict())
    (fold,) = proposed(catalogue.fold_scale, other, plain)
    assert fold.config.layers[0].attn.scale is None
    assert same(scaled, changed(scaled, fold))


def test_a_normalised_head_and_an_untied_one() -> None:
    stack = calm(source("baichuan", 2, 2, 4, z_loss_weight=0), 0)
    (unit,) = proposed(catalogue.normalise_head, stack.config)
    assert same(stack, changed(stack, unit))
    tied = calm(source("llama", 2, 1, 4, tie_word_embeddings=True), 0)
    (untied,) = proposed(catalogue.untie, tied.config)
    made = changed(tied, untied)
    assert same(tied, made)
    assert made.head.weight.data_ptr() != made.embed.tokens.weight.data_ptr()


def test_windows_and_biases_that_play_no_part() -> None:
    wide = calm(source("mistral", 2, 1, 4, sliding_window=32), 0)
    (free,) = proposed(catalogue.drop_windows, wide.config)
    assert free.grade is Grade.SAME_BYTES and free.limit == 32
    assert same(wide, changed(wide, free), 32)
    narrow = replace(wide.config, max_position_embeddings=33)
    assert proposed(catalogue.drop_windows, narrow)[0].grade is Grade.LOSSY
    stack = calm(source("llama", 2, 1, 4), 0)
    added = proposed(catalogue.add_biases, stack.config)
    assert len(added) == 3
    assert all(same(stack, changed(stack, one)) for one in added)


def test_a_chain_is_as_good_as_its_worst_part() -> None:
    config = random_stack(source("llama", 2, 1, 4), 0).config
    chain = [
        Change("a", Grade.SAME_BYTES, config, limit=9),
        Change("b", Grade.EXACT, config),
        Change("c", Grade.SAME_BYTES, config, limit=7),
    ]
    assert grade(chain) is Grade.EXACT and limit(chain) == 7
    assert grade([]) is Grade.SAME_BYTES and limit([]) is None
    assert [str(one) for one in Grade] == ["same bytes", "exact in fp32", "lossy"]
