"""Every kind of stack under every precision, and what a view says of it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from tests.stack.quantise.cases import ALONE, FORMATS, TOGETHER
from tests.stacks import CAUSAL, KINDS, config_of, ids_of, relative, stack_of, view_of

from laminogram.errors import CacheError, ConfigError
from laminogram.stack.quantise import Scheme, packed_weights, quantised
from laminogram.stack.stack import Stack
from laminogram.view import View

PARTS = (slice(0, 6), slice(6, 7), slice(7, 8))
TOLERANCE = {"float32": 2e-5, "bfloat16": 0.1, "float16": 1e-2}


def tolerance(view: View) -> float:
    """Of a result against the same computed in another order: a rounded input may fall on the
    other side of a step, and then it moves by a whole one."""
    own = TOLERANCE[str(view.dtype).removeprefix("torch.")]
    scheme = view.stack.quantised.scheme  # type: ignore[union-attr]
    return own if scheme.activations is None else max(own, 0.05)


@cache
def unquantised(kind: str) -> tuple[View, torch.Tensor]:
    """A view of two layers, and its logits of the tokens below."""
    view = view_of(kind, layers=2)
    return view, view.logits(ids_of(2, 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [*ALONE, *TOGETHER])
def test_every_kind_runs_under_every_precision(kind: str, name: str) -> None:
    (view, plain), ids = unquantised(kind), ids_of(2, 8)
    other = view.using(precision=name)
    whole = other.logits(ids)
    assert whole.shape == (2, 8, 50) and bool(whole.isfinite().all())
    assert not torch.equal(whole.float(), plain)
    if name == "int8":
        assert relative(whole, plain) < 0.1
    if name in TOGETHER:
        return
    # A row alone, and with a cache where there is one.
    cache = other.new_cache(1, capacity=8) if kind in CAUSAL else None
    with torch.no_grad():
        parts = [
            other.run(other.tokens(ids[1:, at]), cache=cache)
            for at in (PARTS if kind in CAUSAL else (slice(None),))
        ]
    assert relative(torch.cat(parts, 1), whole[1:]) <= tolerance(other)


@pytest.mark.parametrize("name", TOGETHER)
def test_what_shares_a_forward_matters_where_it_is_said_to(name: str) -> None:
    view, ids = view_of("llama").using(precision=name), ids_of(3, 9)
    assert view.facts()["quantised"]["rows_independent"] is False
    alone = torch.cat([view.logits(row[None]) for row in ids])
    assert not torch.allclose(view.logits(ids), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "rwkv7", "moe"])
def test_a_precision_that_changes_nothing_keeps_every_bit(kind: str) -> None:
    view, ids = view_of(kind), ids_of(2, 7)
    same = view.using(precision="fp32")
    assert same.stack is view.stack
    assert torch.equal(same.logits(ids), view.logits(ids))
    assert view.using(precision="int8").facts() == view.using(precision="int8").facts()


def test_what_is_exact_in_a_format_changes_nothing() -> None:
    view, ids = view_of("llama"), ids_of(2, 7)
    once = view.using(precision="int8")
    dense = stack_of("llama")
    for path, one in packed_weights(once.stack):
        owner, _, name = path.rpartition(".")
        setattr(dense.get_submodule(owner), name, torch.nn.Parameter(one.dense()))
    restored = View(dense, None, "llama", dense.full_plan())
    torch.testing.assert_close(once.logits(ids), restored.logits(ids), rtol=1e-5, atol=1e-5)
    again = restored.using(precision="int8")
    assert relative(again.logits(ids), once.logits(ids)) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_norms_tables_vectors_and_routers_stay_dense(kind: str) -> None:
    view = view_of(kind)
    other = view.using(precision="int4")
    found = other.stack.quantised
    assert found is not None
    paths = dict(packed_weights(other.stack))
    assert set(paths) == set(found.weights)
    assert all(path.startswith("layers.") and path.endswith(".weight") for path in paths)
    assert not any(word in path for path in paths for word in ("norm", "router", "embed", "mix_"))
    own = dict(view.stack.named_parameters())
    for path, parameter in other.stack.named_parameters():
        if path.rpartition(".")[0] not in paths:
            assert parameter is own[path]  # shared, not copied


def test_a_router_stays_dense_however_many_experts_it_has() -> None:
    config = config_of("moe", 1)
    layer = config.layers[0]
    many = replace(layer, ffn=replace(layer.ffn, num_experts=12))  # type: ignore[arg-type]
    stack = quantised(Stack(replace(config, layers=(many,))), Scheme.parse("int8"))
    assert isinstance(stack.layer(0).ffn.router.weight, torch.nn.Parameter)
    assert len(list(packed_weights(stack))) == 4 + 3 * 12 + 3


def test_the_head_and_the_table_are_quantised_where_asked_for() -> None:
    for kind in ("llama", "bert"):  # bert's head multiplies with the token table
        view, ids = view_of(kind), ids_of(2, 6)
        plain, head = view.using(precision="int8"), view.using(precision="int8+head")
        assert "head.weight" in head.stack.quantised.weights  # type: ignore[union-attr]
        assert head.stack.embed.tokens.weight is view.stack.embed.tokens.weight
        assert 0 < relative(head.logits(ids), plain.logits(ids)) < 0.05
    table = view_of("llama").using(precision="int4-g16+embeddings")
    rounded = table.stack.embed.tokens.weight
    assert len(rounded[0].unique()) <= 30  # two groups of 15 numbers
    assert table.facts()["quantised"]["embeddings"] == "simulated"
    with pytest.raises(ConfigError, match="unit length"):
        view_of("alibi").using(precision="int8+head")


def test_four_bits_take_a_fifth_at_most() -> None:
    for name, share in (("int4", 0.2), ("int4-g32-asym", 0.2), ("mxfp4", 0.15), ("int8", 0.3)):
        found = view_of("llama").using(precision=name).stack.quantised
        assert found is not None
        assert found.nbytes <= share * 4 * found.entries
        assert found.entries == 3 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 48 * 32)


def test_a_view_says_what_it_is() -> None:
    view = view_of("moe")
    facts = view.using(precision="bf16+w8a8").facts()
    assert facts["precision"] == "bf16+int8-a8"
    said = facts["quantised"]
    assert said["format"] == "int8-a8" and said["weights"] == "packed"
    assert "straight-through" in said["activations"]
    assert said["quantised"]["layers.*.ffn.experts.*.up.weight"] == 18
    assert said["not_quantised"]["layers.*.ffn.router.weight"] == 3
    assert view.facts()["quantised"] is None and view.facts()["precision"] == "float32"
    # One block of 128 x 128 is the whole of these small weights: the same bytes as per tensor.
    told_apart = [name for name in FORMATS if name != "fp8-blocks"]
    hashes = {view.using(precision=name).facts()["weights_hash"] for name in told_apart}
    assert len(hashes) == len(told_apart) and view.facts()["weights_hash"] not in hashes


def test_a_changed_code_changes_the_hash() -> None:
    view = view_of("llama").using(precision="int8")
    before = view.facts()["weights_hash"]
    _, one = next(packed_weights(view.stack))
    one.get_parameter("codes")[0, 0] += 1
    assert view.facts()["weights_hash"] != before


def test_what_is_quantised_is_not_quantised_again() -> None:
    view = view_of("llama").using(precision="int8")
    for name in ("int4", "bf16", "fp32"):
        with pytest.raises(ConfigError, match=r"fp32\+int8 already"):
            view.using(precision=name)


def test_a_cache_belongs_to_its_precision() -> None:
    view, ids = view_of("llama"), ids_of(1, 4)
    cache = view.using(precision="int8").new_cache(1, capacity=8)
    with pytest.raises(CacheError):
        view.run(view.tokens(ids), cache=cache)


@pytest.mark.parametrize("name", ["int4", "w8a8"])
def test_a_parallel_group_runs_layer_by_layer(name: str) -> None:
    view, ids = view_of("llama").using(precision=name), ids_of(2, 6)
    with torch.no_grad():
        parallel = view.using(plan="mean(0-2)")
        logits = parallel.logits(ids)
    assert parallel.stack.together.moves == 0
    streams = [
        view.record(ids, sites=["resid_post"]).tensor("resid_post", 0)
        for view in (view.using(plan=str(layer)) for layer in range(3))
    ]
    mean = torch.stack([torch.as_tensor(one) for one in streams]).mean(0)
    wanted = view.stack.head(view.stack.final_norm(mean), view.stack.tied_table)
    assert relative(logits, wanted) < 1e-2


@pytest.mark.parametrize("name", ["int4", "w8a8", "fp8-a8"])
def test_gradients_reach_what_stays_dense(name: str) -> None:
    view, ids = view_of("llama").using(precision=name), ids_of(2, 6)
    view.stack(ids).square().mean().backward()
    found = dict(view.stack.named_parameters())
    for path in ("embed.tokens.weight", "layers.0.attn_norm.weight"):
        assert found[path].grad is not None and found[path].grad.abs().sum() > 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["int4", "llm.int8"])
def test_it_compiles_without_a_break(name: str) -> None:
    view, ids = view_of("llama", layers=1).using(precision=name), ids_of(2, 6)
    plain = view.logits(ids)
    view.stack.compile_layers(backend="eager")
    assert relative(view.logits(ids), plain) < 1e-5


def test_generation_goes_on_from_its_cache() -> None:
    view = view_of("rwkv4").using(precision="int8")
    made = view.generate([1, 2, 3], max_new_tokens=6)
    again = view.generate([1, 2, 3], max_new_tokens=6, use_cache=False)
    assert made.tokens == again.tokens  # type: ignore[union-attr]
