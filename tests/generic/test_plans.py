"""Plans over wrapped layers: against layers put in another order by hand, and with a cache as
without one."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.generic.models import (
    CACHED,
    apart,
    fresh,
    ids_of,
    logits_of,
    model_of,
    view_of,
    wrapped,
)
from tests.plans.drawn import short_plans
from torch import Tensor, nn

from laminogram import edits
from laminogram.errors import CacheError, FamilyError, PlanError
from laminogram.infer.decode_graph import DecodeGraph
from laminogram.plans import Plan
from laminogram.view import View

PLANS = ("0, 2", "2-0", "0, 3x(1), 2", "2x(0-1), 2, 2")
SOME = ("gemma2", "bloom", "falcon", "granite", "opt")


def reordered(name: str, plan: Plan) -> Any:
    """The same layers in another order, each with the kind of attention it had."""
    model, order = fresh(name), [step.layer for step in plan]
    model.model.layers = nn.ModuleList(model.model.layers[layer] for layer in order)
    model.config.num_hidden_layers = len(order)
    kinds = getattr(model.config, "layer_types", None)
    if kinds:
        model.config.layer_types = [kinds[layer] for layer in order]
    return model


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", ["gemma2", "granite", "olmo2"])
def test_a_plan_is_the_list_of_layers_in_that_order(name: str, plan: str) -> None:
    ids = ids_of(2, 9)
    expected = logits_of(reordered(name, Plan.parse(plan)), ids)
    assert torch.equal(wrapped(name).using(plan=plan).logits(ids), expected)


def test_a_group_is_the_mean_of_its_branches() -> None:
    view, ids = wrapped("gemma2"), ids_of(2, 9)
    gram = view.using(plan="0, mean(1-2)").record(ids, sites=["resid_pre", "resid_post"])
    branches = [gram.tensor("resid_post", step) for step in (1, 2)]
    mean = torch.stack(branches).mean(0)
    whole = view.using(plan="0, mean(1-2), 0").record(ids, sites="resid_pre")
    assert torch.equal(whole.tensor("resid_pre", 3), mean)


@pytest.mark.parametrize("name", ["granite", "phi", "opt", "bloom"])
def test_half_a_layer_adds_that_half(name: str) -> None:
    view, ids = wrapped(name), ids_of(1, 6)
    for part, site in (("attn", "attn_out"), ("ffn", "ffn_out")):
        half = view.using(plan=f"0, 1.{part}").record(ids, sites=["resid_pre", "resid_post"])
        other = "ffn_out" if part == "attn" else "attn_out"
        zeroed = view.using(plan="0-1", edits=edits.zero(other, layers=1))
        gram = zeroed.record(ids, sites=[site, "resid_post"])
        assert torch.equal(half.tensor("resid_post", 1), gram.tensor("resid_post", 1))


@cache
def doubled(name: str) -> View:
    """In fp64, where only a wrong memory is seen and no rounding."""
    return view_of(copy.deepcopy(model_of(name)).double())


@torch.no_grad()
def in_pieces(view: View, rows: list[list[int]], first: list[int]) -> list[Tensor]:
    """Logits (T, V) of each row: `first` of its tokens at once, two more, the others one by one."""
    memory, found, seen = view.new_cache(len(rows)), [[] for _ in rows], [0] * len(rows)
    longest = max(len(row) for row in rows)
    for sizes in (first, [2] * len(rows), *([[1] * len(rows)] * longest)):
        parts = [row[a : a + n] for row, a, n in zip(rows, seen, sizes, strict=True)]
        if not all(parts):
            break
        out = view.run(view.tokens(parts), cache=memory)
        for i, part in enumerate(parts):
            found[i].append(out[i, : len(part)])
            seen[i] += len(part)
    return [torch.cat(pieces) for pieces in found]


@settings(max_examples=40, deadline=None)
@given(
    plan=short_plans(most=8),
    name=st.sampled_from(SOME),
    first=st.lists(st.integers(1, 6), min_size=2, max_size=2),
)
def test_ragged_rows_go_on_from_a_cache_under_any_plan(
    plan: Plan, name: str, first: list[int]
) -> None:
    view, ids = doubled(name).using(plan=plan), ids_of(2, 12)
    rows = [row[: n + 4].tolist() for row, n in zip(ids, first, strict=True)]
    # fp32 inside norms and softmaxes: a wrong mask or memory shows at 1e-2.
    for row, found in zip(rows, in_pieces(view, rows, first), strict=True):
        assert apart(found, view.logits([row])[0][: len(found)]) < 1e-5


@pytest.mark.parametrize("name", CACHED)
def test_generating_with_a_cache_is_generating_without(name: str) -> None:
    view = wrapped(name).using(plan="0, 2x(1), mean(0-2), 2")
    rows = [ids_of(1, 4)[0].tolist(), ids_of(1, 7, seed=2)[0].tolist()]
    texts = [
        [one.tokens for one in view.generate(rows, max_new_tokens=6, use_cache=use)]
        for use in (True, False)
    ]
    assert texts[0] == texts[1]


def test_a_cache_goes_on_and_is_forked() -> None:
    view, row = wrapped("gemma2"), ids_of(1, 6)[0].tolist()
    whole = view.generate(row, max_new_tokens=8, stop_at_eos=False)
    half = view.generate(row, max_new_tokens=3, stop_at_eos=False)
    assert half.cache is not None
    fork = half.cache.fork()
    for past in (half.cache, fork):
        more = view.generate(None, cache=past, max_new_tokens=5, stop_at_eos=False)
        assert half.tokens + more.tokens == whole.tokens


def test_many_plans_share_what_they_have_in_common() -> None:
    view, ids, plans = wrapped("bloom"), ids_of(2, 8), ["0-2", "0, 2", "0, mean(1-2)", "0-1, 0"]
    for plan, found in zip(plans, view.losses(plans, ids, progress=False), strict=True):
        alone = view.using(plan=plan).loss(ids)
        assert torch.equal(found.per_token, alone.per_token)


def test_what_cannot_run_so_is_refused_with_its_reason() -> None:
    with pytest.raises(PlanError, match=r"1\.ffn: transformers runs layer 1 of mamba as a whole"):
        wrapped("mamba").using(plan="0, 1.ffn")
    with pytest.raises(PlanError, match="kv='averaged': transformers runs layer 0"):
        wrapped("granite").using(plan="mean(0-1)", kv="averaged")
    with pytest.raises(CacheError, match=r"takes no cache.*use_cache=False"):
        wrapped("mamba").generate([5, 6, 7], max_new_tokens=2)
    assert len(wrapped("mamba").generate([5, 6, 7], max_new_tokens=2, use_cache=False).tokens) == 2
    with pytest.raises(FamilyError, match="is an encoder"):
        wrapped("distilbert").generate([5, 6, 7])
    with pytest.raises(FamilyError, match="do not compile"):
        wrapped("granite").stack.compile_layers()
    with pytest.raises(FamilyError, match="static buffers"):
        DecodeGraph(wrapped("granite"), 1, 16, capture=False).step(torch.tensor([5]))
