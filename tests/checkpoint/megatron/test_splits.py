"""Cutting and merging: nothing is lost, and each rank has what Megatron's rules give it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from laminogram.checkpoint.megatron.naming import LAYOUT, Cut, canonical, cut_of, spelled, stacked
from laminogram.checkpoint.megatron.splits import (
    grouped_rows,
    merge,
    merged_shape,
    pad,
    padded_size,
    part,
    part_shape,
    vocabulary_part,
)
from laminogram.checkpoint.megatron.stages import Stages, split_layers
from laminogram.errors import ConfigError
from laminogram.families.base import Binding
from laminogram.stack.config import (
    AttentionConfig,
    LayerConfig,
    MLPConfig,
    NormConfig,
    StackConfig,
)

CUTS: tuple[Cut, ...] = ("whole", "rows", "columns", "halves", "vocabulary")
RANKS = st.sampled_from([1, 2, 3, 4, 8])
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@given(
    cut=st.sampled_from(CUTS), ranks=RANKS, rows=st.integers(1, 3), flat=st.booleans(), to=DTYPES
)
@settings(max_examples=80, deadline=None)
def test_what_is_cut_can_be_merged(
    cut: Cut, ranks: int, rows: int, flat: bool, to: torch.dtype
) -> None:
    shape = (rows * ranks * 2,) if flat and cut != "columns" else (rows * ranks * 2, 3 * ranks)
    whole = numbers(*shape, dtype=to)
    parts = [part(whole, cut, rank, ranks) for rank in range(ranks)]
    assert torch.equal(merge(parts, cut), whole)
    assert {tuple(piece.shape) for piece in parts} == {part_shape(shape, cut, ranks)}
    assert merged_shape(part_shape(shape, cut, ranks), cut, ranks) == shape


def test_gate_and_up_are_cut_each_for_itself() -> None:
    gate, up = numbers(8, 3), numbers(8, 3) + 10
    for rank in range(4):
        rows = slice(2 * rank, 2 * rank + 2)
        wanted = torch.cat([gate[rows], up[rows]])
        assert torch.equal(part(torch.cat([gate, up]), "halves", rank, 4), wanted)


def layer_of_heads(heads: int, groups: int, size: int) -> StackConfig:
    attn = AttentionConfig(num_attention_heads=heads, num_key_value_heads=groups, head_dim=size)
    ffn = MLPConfig(intermediate_size=8, activation="silu", gated=True)
    layer = LayerConfig(block="pre", attn=attn, ffn=ffn, norm=NormConfig(kind="rms"))
    return StackConfig(family="x", hidden_size=5, vocab_size=3, layers=(layer,))


@given(groups=st.sampled_from([1, 2, 4]), times=st.sampled_from([1, 2, 4]), ranks=RANKS)
@settings(max_examples=40, deadline=None)
def test_a_rank_has_its_share_of_the_groups_rows(groups: int, times: int, ranks: int) -> None:
    """Also where there are more ranks than groups. The order of rows is said here head by head."""
    size, heads = 6, groups * times
    q, k, v = numbers(heads * size, 5), numbers(groups * size, 5) + 9, numbers(groups * size, 5) - 9
    rows: list[Tensor] = []
    for group in range(groups):
        for head in range(group * times, (group + 1) * times):
            rows += [q[head * size + d] for d in range(size)]
        rows += [k[group * size + d] for d in range(size)]
        rows += [v[group * size + d] for d in range(size)]
    config = layer_of_heads(heads, groups, size)
    name = "decoder.layers.0.self_attention.linear_qkv.weight"
    bound = LAYOUT.bind(config).theirs(name)
    assert bound is not None
    ours = dict(zip(bound.our_names, (q, k, v)))
    fused = bound.write(ours.__getitem__)
    assert torch.equal(fused, torch.stack(rows))
    if len(rows) % ranks == 0:
        share = len(rows) // ranks
        for rank in range(ranks):
            wanted = torch.stack(rows[rank * share : (rank + 1) * share])
            assert torch.equal(part(fused, cut_of(name), rank, ranks), wanted)
    binding = Binding(config, {"i": 0})
    for which, tensor in enumerate((q, k, v)):
        assert torch.equal(bound.rule.read(which, lambda _: fused, binding), tensor)


@given(st.integers(1, 40), RANKS, st.sampled_from([1, 2, 8]), st.sampled_from(["zero", "last"]))
@settings(max_examples=60, deadline=None)
def test_vocabularies_are_padded_alike_whole_and_in_parts(
    vocab: int, ranks: int, multiple: int, padding: str
) -> None:
    rows = padded_size(vocab, multiple, ranks)
    assert rows % (multiple * ranks) == 0
    assert 0 <= rows - vocab < multiple * ranks
    table = numbers(vocab, 3)
    whole = pad(table, rows, padding)
    parts = [vocabulary_part(table, rows, padding, rank, ranks) for rank in range(ranks)]
    assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(whole[:vocab], table)
    filler = torch.zeros(3) if padding == "zero" else table[-1]
    assert all(torch.equal(row, filler) for row in whole[vocab:])


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.sampled_from([0.0, 1.0, 2.0, 3.0]))
@settings(max_examples=40, deadline=None)
def test_early_fused_projections_are_reordered(
    heads: int, size: int, bias: bool, version: float
) -> None:
    rest = () if bias else (3,)
    today = numbers(heads, 3, size, *rest)
    stored = {0.0: today.transpose(0, 1), 1.0: today.transpose(1, 2)}.get(version, today)
    flat = stored.reshape(heads * 3 * size, *rest)
    assert torch.equal(grouped_rows(flat, heads, version), today.reshape(flat.shape))


def test_what_cannot_be_cut_is_named() -> None:
    with pytest.raises(ConfigError, match=r"shape \(6, 4\) cannot be cut by halves for 4 tensor"):
        part(numbers(6, 4), "halves", 0, 4)
    with pytest.raises(ConfigError, match="a fused projection with 10 rows is none of 4 heads"):
        grouped_rows(numbers(10, 2), 4, 1.0)


@given(st.integers(1, 5), st.integers(2, 4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_even_stages_are_megatrons(share: int, pp: int, vpp: int) -> None:
    """The first layer of a chunk as Megatron computes it, restated."""
    layers = share * pp * vpp
    stages = split_layers(layers, pp, vpp)
    for stage in range(pp):
        for chunk in range(vpp):
            wanted = chunk * (layers // vpp) + stage * (layers // pp // vpp)
            assert stages.first(stage, chunk) == wanted
            assert stages.count(stage, chunk) == share


@given(st.lists(st.integers(0, 4), min_size=6, max_size=6).filter(any), st.sampled_from([1, 2]))
@settings(max_examples=40, deadline=None)
def test_every_layer_has_one_place(counts: list[int], vpp: int) -> None:
    stages = split_layers(sum(counts), 6 // vpp, vpp, counts=counts)
    places = [stages.place(layer) for layer in range(sum(counts))]
    assert len(set(places)) == len(places)
    for layer, (stage, chunk, local) in enumerate(places):
        assert stages.first(stage, chunk) + local == layer
        assert local < stages.count(stage, chunk)


def test_uneven_stages() -> None:
    assert split_layers(10, 4, first=2, last=2).counts == (2, 3, 3, 2)
    assert split_layers(7, 3, first=1).counts == (1, 3, 3)
    assert split_layers(10, 3, embedding=True, loss=True).counts == (3, 4, 3)
    assert split_layers(8, 2, 2, first=2).counts == (1, 3, 1, 3)
    assert split_layers(3, 2, counts=(1, 2)) == Stages(2, 1, (1, 2))
    for wrong in (
        {"num_layers": 7, "pp": 2},
        {"num_layers": 4, "pp": 1, "vpp": 2},
        {"num_layers": 4, "pp": 2, "counts": (1, 2)},
        {"num_layers": 4, "pp": 2, "counts": (5, -1)},
        {"num_layers": 4, "pp": 3, "first": 3, "last": 2},
        {"num_layers": 4, "pp": 0},
    ):
        with pytest.raises(ConfigError):
            split_layers(**wrong)  # type: ignore[arg-type]


def test_names_old_and_new() -> None:
    layer, today = "language_model.encoder.layers.3", "decoder.layers.3"
    for old, new in {
        f"{layer}.input_norm.weight": f"{today}.self_attention.linear_qkv.layer_norm_weight",
        f"{layer}.input_layernorm.weight": f"{today}.self_attention.linear_qkv.layer_norm_weight",
        f"{layer}.self_attention.query_key_value.bias": f"{today}.self_attention.linear_qkv.bias",
        f"{layer}.attention.dense.weight": f"{today}.self_attention.linear_proj.weight",
        f"{layer}.post_attention_norm.weight": f"{today}.mlp.linear_fc1.layer_norm_weight",
        f"{layer}.mlp.dense_h_to_4h.weight": f"{today}.mlp.linear_fc1.weight",
        f"{layer}.mlp.dense_4h_to_h.weight": f"{today}.mlp.linear_fc2.weight",
        "language_model.encoder.final_norm.weight": "decoder.final_layernorm.weight",
        "language_model.embedding.word_embeddings.weight": "embedding.word_embeddings.weight",
        "language_model.output_layer.weight": "output_layer.weight",
        "word_embeddings_for_head.weight": "output_layer.weight",
        "module.decoder.layers.0.mlp.linear_fc2.bias": "decoder.layers.0.mlp.linear_fc2.bias",
    }.items():
        assert canonical(old) == new
        assert canonical(new) == new
    norm = f"{today}.mlp.linear_fc1.layer_norm_weight"
    assert spelled(norm, "local") == f"{today}.pre_mlp_layernorm.weight"
    assert canonical(spelled(norm, "local")) == norm == spelled(norm, "te")
    assert stacked(norm) == "decoder.layers.mlp.linear_fc1.layer_norm_weight"
