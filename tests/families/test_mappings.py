"""Tensor mappings are reversible: ours -> theirs -> ours keeps every bit, in every layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.families.sources import random_stack, sources
from torch import Tensor

from laminogram import families
from laminogram.errors import CheckpointError, ConfigError
from laminogram.families.base import (
    Binding,
    Layout,
    Rename,
    SplitHeads,
    SplitRows,
    Transpose,
    match,
)
from laminogram.stack.config import StackConfig

FORMS = [
    (family.name, layout.name)
    for family in families.known().values()
    for layout in family.layouts
    if not (family.name == "bert" and layout.name == "hf-base")
]


def to_theirs(
    layout: Layout, config: StackConfig, ours: Mapping[str, Tensor], **options: Any
) -> dict[str, Tensor]:
    mapping = layout.bind(config, options)
    out = {}
    for name in mapping.names_of_theirs(list(ours)):
        bound = mapping.theirs(name)
        assert bound is not None
        out[name] = bound.write(lambda key: ours[key])
    return out


def to_ours(
    layout: Layout,
    config: StackConfig,
    theirs: Mapping[str, Tensor],
    names: list[str],
    **options: Any,
) -> dict[str, Tensor]:
    mapping = layout.bind(config, options)
    out = {}
    for name in names:
        bound = mapping.ours(name)
        assert bound is not None
        out[name] = bound.read(lambda key: theirs[key])
    return out


@pytest.mark.parametrize(("family", "form"), FORMS)
@given(data=st.data(), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_there_and_back(family: str, form: str, data: st.DataObject, seed: int) -> None:
    layout = families.get(family).layout_named(form)
    stack = random_stack(data.draw(sources(family)), seed)
    ours = {name: p.detach() for name, p in stack.named_parameters()}
    options: dict[str, Any] = {}
    if form == "rwkv-converted":  # it holds the embedding after its norm
        ours = {name: p for name, p in ours.items() if not name.startswith("embed.norm")}
        options = {"_rescale_layer": data.draw(st.integers(0, 3))}
    elif layout.options:
        options = dict.fromkeys(layout.options, data.draw(st.integers(0, 3)))
    theirs = to_theirs(layout, stack.config, ours, **options)
    marks = [*theirs, "_strategy"]
    assert families.get(family).layout(marks if form == "rwkv-converted" else theirs) is layout
    back = to_ours(layout, stack.config, theirs, list(ours), **options)
    for name, p in ours.items():
        if form == "rwkv-converted" and name.endswith("decay"):
            assert torch.allclose(back[name], p, atol=1e-6)  # a logarithm of an exponential
        else:
            assert torch.equal(back[name], p), name


@given(data=st.data(), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_one_form_to_another(data: st.DataObject, seed: int) -> None:
    """Two layouts of one family meet in the stack: a conversion is a write after a read."""
    family = families.get("rwkv7")
    stack = random_stack(data.draw(sources("rwkv7")), seed)
    ours = {name: p.detach() for name, p in stack.named_parameters()}
    first, second = family.layouts
    there = to_ours(first, stack.config, to_theirs(first, stack.config, ours), list(ours))
    again = to_ours(second, stack.config, to_theirs(second, stack.config, there), list(ours))
    assert all(torch.equal(again[name], p) for name, p in ours.items())


@given(
    heads=st.integers(1, 5),
    size=st.integers(1, 4),
    parts=st.integers(1, 4),
    columns=st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_split_heads_orders_rows(heads: int, size: int, parts: int, columns: int) -> None:
    """Row (head, part, d) of the fused tensor is row (head, d) of its part."""
    fused = torch.arange(heads * parts * size * columns).float().reshape(-1, columns)

    class Rows(SplitHeads):
        @staticmethod
        def _heads(binding: Binding) -> int:
            return heads

    rule = Rows("f", *(f"p{n}" for n in range(parts)))
    binding = Binding(None)
    found = [rule.read(n, lambda name: fused, binding) for n in range(parts)]
    for head in range(heads):
        for part in range(parts):
            for d in range(size):
                row = fused[(head * parts + part) * size + d]
                assert torch.equal(found[part][head * size + d], row)
    assert torch.equal(rule.write(0, lambda name: found[int(name[1:])], binding), fused)


def test_split_rows_are_views_and_join_again() -> None:
    rule = SplitRows("f", "a", "b", rows=lambda binding: (2, 3))
    binding, fused = Binding(None), torch.randn(5, 2)
    parts = {name: rule.read(n, lambda _: fused, binding) for n, name in enumerate("ab")}
    assert parts["b"].data_ptr() == fused[2:].data_ptr()
    assert torch.equal(rule.write(0, parts.__getitem__, binding), fused)


def test_operations_apply_in_order_and_undo_in_reverse() -> None:
    class Add:
        def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
            return tensor + 1

        def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
            return tensor - 1

    class Double:
        def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
            return tensor * 2

        def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
            return tensor / 2

    rule, binding = Rename("a", "b", Add(), Double(), Transpose()), Binding(None)
    x = torch.randn(2, 3)
    y = rule.read(0, lambda _: x, binding)
    assert torch.equal(y, (2 * (x + 1)).t())
    assert torch.allclose(rule.write(0, lambda _: y, binding), x)


def test_templates_match_whole_names_with_plain_numbers() -> None:
    assert match("layers.{i}.attn.q.weight", "layers.12.attn.q.weight") == {"i": 12}
    assert match("experts.{i}.{e}.w", "experts.3.40.w") == {"i": 3, "e": 40}
    for name in ("layers.01.w", "layers.x.w", "xlayers.1.w", "layers.1.ww", "layers.1xw"):
        assert match("layers.{i}.w", name) is None


def test_unknown_options_and_layouts_are_named() -> None:
    family = families.get("rwkv4")
    config = family.config({"vocab_size": 3, "hidden_size": 4, "num_hidden_layers": 1})
    with pytest.raises(ConfigError, match="'blink' has no option rescaled; it has: none"):
        family.layout_named("blink").bind(config, {"rescaled": 6})
    with pytest.raises(ConfigError, match="no layout 'mlx'; it has: hf"):
        family.layout_named("mlx")
    with pytest.raises(CheckpointError, match=r"the 1 tensors \(x, ...\) are in no layout"):
        family.layout(["x"])
