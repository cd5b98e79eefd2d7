"""What runs is what the plan says: values, calls, side streams, gradients, precisions, graphs."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plans.drawn import short_plans
from tests.plans.meaning import Meaning, meaning
from tests.stacks import CAUSAL, KINDS, ids_of, relative, view_of
from torch import Tensor

from laminogram.errors import PlanError
from laminogram.plans import Group, Item, Plan, Step
from laminogram.stack.layer import run_layer
from laminogram.stack.stack import Stack
from laminogram.view import View

EXACT, CLOSE = 1e-9, 1e-5
GROUPS = (
    "0, mean(1-2), 0",
    "2x(mean(0 | 2, 1)), 1.ffn, 1",
    "0.attn, sum(1, mean(0-2), 2.ffn), 2",
)
sampled_kinds = st.sampled_from(KINDS)


@cache
def doubled(kind: str) -> View:
    """A stack in fp64, where only a wrong order is seen and no rounding. Not to be changed."""
    view = view_of(kind)
    view.stack.double()
    return view


# What a plan means


@settings(max_examples=80, deadline=None)
@given(plan=short_plans(), kind=sampled_kinds)
def test_a_plan_runs_as_it_is_written(plan: Plan, kind: str) -> None:
    view, ids = doubled(kind), ids_of(2, 5)
    assert relative(view.using(plan=plan).logits(ids), meaning(view, plan, ids)) < EXACT


@pytest.mark.parametrize("plan", GROUPS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_runs_so_in_fp32_on_ragged_rows(kind: str, plan: str) -> None:
    view, batch = view_of(kind), view_of(kind).tokens([[3, 1, 4, 1, 5], [9], [2, 6, 5]])
    with torch.no_grad():
        found = view.using(plan=plan).run(batch)
        expected = Meaning(view, batch).logits(Plan.parse(plan))
    assert relative(found[batch.mask], expected[batch.mask]) < CLOSE


@settings(max_examples=25, deadline=None)
@given(plan=short_plans(most=10), kind=sampled_kinds, side=st.booleans())
def test_a_batch_equals_its_rows_under_any_plan(plan: Plan, kind: str, side: bool) -> None:
    view, lengths = doubled(kind).using(plan=plan), (2, 6, 1)
    tokens, mask = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.bool)
    for i, n in enumerate(lengths):
        place = slice(6 - n, 6) if side else slice(0, n)
        tokens[i, place], mask[i, place] = ids_of(1, n, seed=n)[0], True
    together = view.logits(tokens, mask=mask)
    for i, n in enumerate(lengths):
        assert relative(together[i][mask[i]], view.logits(ids_of(1, n, seed=n))[0]) < EXACT


@settings(max_examples=30, deadline=None)
@given(plan=short_plans(), kind=sampled_kinds)
def test_every_step_is_one_call_of_its_layer(plan: Plan, kind: str) -> None:
    view, called = view_of(kind), []
    numbers = {id(layer): i for i, layer in enumerate(view.stack.layers)}

    def counting(layer, x, ctx, slot, taps, part):
        called.append(Step(numbers[id(layer)], part))
        return run_layer(layer, x, ctx, slot, taps, part)

    view.stack.run_layer = counting
    # With gradients, for without them layers of a group may run together.
    view.using(plan=plan).run(view.tokens(ids_of(1, 2)))
    assert tuple(called) == plan.steps
    assert len(called) == len(plan)


# Groups


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["mean", "sum"])
def test_a_group_adds_what_its_branches_add(kind: str, word: str) -> None:
    view, ids, sites = doubled(kind), ids_of(2, 5), ["resid_pre", "resid_post"]
    gram = view.using(plan=f"0, {word}(1 | 2, 0 | 2.ffn), 1").record(ids, sites=sites)
    pre, post = gram["resid_pre"], gram["resid_post"]
    h = post[0]
    for first in (1, 2, 4):
        assert (pre[first] == h).all()
    assert (pre[3] == post[2]).all()
    added = [post[last] - h for last in (1, 3, 4)]
    expected = h + sum(added) / (3 if word == "mean" else 1)
    assert relative(torch.tensor(pre[5]), torch.tensor(expected)) < EXACT
    # A branch is what it would be alone.
    for plan, last in (("0, 1", 1), ("0, 2, 0", 3), ("0, 2.ffn", 4)):
        alone = view.using(plan=plan).record(ids, sites=["resid_post"])
        assert relative(torch.tensor(alone["resid_post"][-1]), torch.tensor(post[last])) < EXACT


@settings(max_examples=25, deadline=None)
@given(branch=short_plans(min_size=1, most=5), times=st.integers(1, 5), kind=sampled_kinds)
def test_the_mean_of_equal_branches_is_one_of_them(branch: Plan, times: int, kind: str) -> None:
    view, ids = doubled(kind), ids_of(1, 4)
    group = Plan.mean([branch] * times)
    assert relative(view.using(plan=group).logits(ids), view.using(plan=branch).logits(ids)) < EXACT
    if times == 1:
        assert group == branch


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_without_a_step_is_its_input(kind: str) -> None:
    view, ids = doubled(kind), ids_of(1, 4)
    gram = view.using(plan="0, mean(1 | none), 2, sum(1 | none | none), 0").record(
        ids, sites=["resid_pre", "resid_post"]
    )
    pre, post = gram["resid_pre"], gram["resid_post"]
    assert relative(torch.tensor(pre[2]), torch.tensor((pre[1] + post[1]) / 2)) < EXACT
    assert relative(torch.tensor(pre[4]), torch.tensor(post[3])) < EXACT


@pytest.mark.parametrize("word", ["mean", "sum"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_group_of_many_is_rounded_once(kind: str, precision: str, word: str) -> None:
    half = view_of(kind).using(precision=precision, plan=f"{word}({', '.join('012' * 5)}, 1), 0")
    gram = half.record(ids_of(1, 4), sites=["embed", "resid_pre", "resid_post", "logits"])
    assert bool(gram.tensor("logits", -1).isfinite().all())
    posts = torch.stack([gram.tensor("resid_post", i) for i in range(16)]).double()
    h = gram.tensor("resid_pre", 0)
    added = posts - h.double()
    exact = h.double() + (added.mean(0) if word == "mean" else added.sum(0))
    found = gram.tensor("resid_pre", 16)
    assert found.dtype == half.stack.residual_dtype
    # One rounding in the stream's own type, and those of an fp32 sum of 16.
    spacing = torch.finfo(found.dtype).eps * exact.abs()
    allowed = spacing / 2 + 32 * torch.finfo(torch.float32).eps * posts.abs().amax(0)
    assert bool(((found.double() - exact).abs() <= allowed).all())


def test_a_sum_of_many_loses_nothing_of_a_large_stream() -> None:
    """Where the stream has a huge channel, 32 times it would cost digits of what is added."""
    view, ids = view_of("rwkv4", layers=32), ids_of(2, 30)
    with torch.no_grad():
        view.stack.embed.norm.weight[3] = 3000.0
    gram = view.using(plan="sum(0-31), 0").record(ids, sites=["resid_pre", "resid_post"])
    h = gram.tensor("resid_pre", 0).double()
    added = sum(gram.tensor("resid_post", i).double() - h for i in range(32))
    error = (gram.tensor("resid_pre", 32).double() - h - added).abs()
    assert bool((error <= 2 * torch.finfo(torch.float32).eps * (h + added).abs().amax()).all())


# Side streams


@settings(max_examples=40, deadline=None)
@given(plan=short_plans())
def test_v_first_from_the_first_step_follows_its_path(plan: Plan) -> None:
    view, ids = doubled("rwkv7"), ids_of(2, 4)
    if _needs_what_only_branches_have(plan.items):
        with pytest.raises(PlanError, match="v_first"):
            view.using(plan=plan, v_first="first-step")
        return
    first = view.using(plan=plan, v_first="first-step")
    assert relative(first.logits(ids), meaning(first, plan, ids)) < EXACT


def _needs_what_only_branches_have(items: Sequence[Item]) -> bool:
    """Whether somewhere a step with a time mix comes after a group with one, without any before."""
    inside = False
    for item in items:
        mixing = [step for step in Plan([item]) if step.part != "ffn"]
        if mixing and inside:
            return True
        if isinstance(item, Group):
            inside = inside or bool(mixing)
            if any(_needs_what_only_branches_have(branch.items) for branch in item.branches):
                return True
        elif mixing:
            return False
    return False


def test_branches_that_begin_afresh_provide_for_themselves() -> None:
    view, ids = doubled("rwkv7").using(v_first="first-step"), ids_of(1, 5)
    gram = view.using(plan="mean(1-2 | 2-1)").record(ids, sites=["v", "resid_post"])
    for plan, last in (("1-2", 1), ("2-1", 3)):
        alone = view.using(plan=plan).record(ids, sites=["v", "resid_post"])
        assert relative(torch.tensor(gram["v"][last]), torch.tensor(alone["v"][1])) < EXACT
    with pytest.raises(PlanError, match=r"1 needs v_first.*branches of mean\(1-2 \| 2-1\)"):
        view.using(plan="mean(1-2 | 2-1), 1")
    with pytest.raises(PlanError, match="v_first='first-step': mean"):
        view.using(plan="0.ffn, mean(1, 2), mean(0, 1)")
    with pytest.raises(PlanError, match=r"2 needs v_first"):
        view.using(plan="mean(mean(0, 1), 2 | 0)")
    assert view.using(plan="0.ffn, mean(0.ffn, 1.ffn), 2, mean(0, 1), 1").logits(ids).shape[1] == 5


def test_readings_that_do_not_exist_are_refused() -> None:
    with pytest.raises(PlanError, match="v_first is 'first_step'; there are embedding, first-step"):
        view_of("rwkv7").using(v_first="first_step")
    with pytest.raises(PlanError, match="kv is 'average'; there are exact, averaged"):
        view_of("llama").using(kv="average")


# Gradients


def _loss(view: View, plan: Plan | str, ids: Tensor) -> Tensor:
    return view.using(plan=plan).run(view.tokens(ids)).square().mean()


@pytest.mark.parametrize("plan", ["0, 1, 1, 2", "0, mean(1, 1 | 2 | 1.ffn), sum(1.attn, 2), 1"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_shared_layers_agree_with_finite_differences(kind: str, plan: str) -> None:
    view, ids = copy.deepcopy(doubled(kind)), ids_of(2, 4)
    parameters = list(view.stack.layers[1].parameters())
    _loss(view, plan, ids).backward()
    grads = [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in parameters]
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
        values = []
        for push in (1e-6, -1e-6):
            with torch.no_grad():
                for p, way in zip(parameters, ways):
                    p.add_(way, alpha=push)
                values.append(_loss(view, plan, ids).item())
                for p, way in zip(parameters, ways):
                    p.sub_(way, alpha=push)
        slope = sum((g * way).sum().item() for g, way in zip(grads, ways))
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(plan=short_plans(min_size=1, most=8), kind=sampled_kinds)
def test_gradients_are_the_sum_over_all_uses_of_a_layer(plan: Plan, kind: str) -> None:
    view, ids = copy.deepcopy(doubled(kind)), ids_of(1, 4)
    view.stack.zero_grad()
    _loss(view, plan, ids).backward()
    twin, uses = _apart(view, plan)
    _loss(twin, twin.plan, ids).backward()
    for index, layer in enumerate(view.stack.layers):
        copies = [twin.stack.layers[n] for n in (index, *uses.get(index, ()))]
        own = [dict(one.named_parameters()) for one in copies]
        for name, parameter in layer.named_parameters():
            apart = [one[name].grad for one in own if one[name].grad is not None]
            if parameter.grad is None:
                assert not apart
                continue
            torch.testing.assert_close(parameter.grad, sum(apart), rtol=1e-8, atol=1e-12)


def _apart(view: View, plan: Plan) -> tuple[View, dict[int, list[int]]]:
    """The same computation with a layer of its own for each step: after the layers there are."""
    count, numbers = view.config.num_layers, itertools.count(view.config.num_layers)
    uses: dict[int, list[int]] = {}

    def renumbered(items: Sequence[Item]) -> list[Item]:
        made: list[Item] = []
        for item in items:
            if isinstance(item, Group):
                branches = tuple(Plan(renumbered(branch.items)) for branch in item.branches)
                made.append(Group(item.kind, branches))
                continue
            number = next(numbers)
            uses.setdefault(item.layer, []).append(number)
            made.append(Step(number, item.part))
        return made

    other = Plan(renumbered(plan.items))
    layers = [*view.config.layers, *(view.config.layers[step.layer] for step in plan)]
    stack = Stack(replace(view.config, layers=tuple(layers)), dtype=torch.float64)
    state = view.stack.state_dict()
    for index, step in enumerate(plan):
        prefix = f"layers.{step.layer}."
        own = {k: v for k, v in view.stack.state_dict().items() if k.startswith(prefix)}
        state |= {k.replace(prefix, f"layers.{count + index}.", 1): v for k, v in own.items()}
    stack.load_state_dict(state)
    return View(stack, None, "twin", other), uses


# Graphs

# Compiling takes a second a kind: those whose layers differ most are in every run.
OFTEN = ("llama", "latent", "rwkv4", "rwkv7")
MARKS = {kind: pytest.mark.slow for kind in KINDS if kind not in OFTEN}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=MARKS.get(kind, ())) for kind in KINDS])
def test_compiled_layers_know_nothing_of_the_plan(kind: str) -> None:
    view, ids = view_of(kind), ids_of(2, 5)
    plans = ("0-2", "0, mean(1-2), 0", "sum(2 | 1, 0 | 1), 2x(mean(0, 2, 1, 1))")
    expected = [view.using(plan=plan).logits(ids) for plan in plans]
    torch._dynamo.reset()
    counted: list[int] = []

    def backend(graph, inputs) -> Callable:
        counted.append(1)
        return graph.forward

    view.stack.compile_layers(backend)
    for plan, wanted in zip(plans, expected):
        assert relative(view.using(plan=plan).logits(ids), wanted) < 1e-5
    # RWKV-7 has two kinds of layers: the one that provides v_first differs.
    assert len(counted) <= (2 if kind == "rwkv7" else 1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_layers_know_nothing_of_an_averaged_memory() -> None:
    view = view_of("llama", layers=12).using(plan="0, mean(1-10), 11", kv="averaged")

    def read() -> list[Tensor]:
        memory = view.new_cache(1, capacity=8)
        with torch.no_grad():
            return [view.run(view.tokens(piece), cache=memory) for piece in ([1, 2, 3], [4], [5])]

    expected = read()
    torch._dynamo.reset()
    counted: list[int] = []

    def backend(graph, inputs) -> Callable:
        counted.append(1)
        return graph.forward

    view.stack.compile_layers(backend)
    for found, wanted in zip(read(), expected):
        assert relative(found, wanted) < 1e-5
    # A kind of memory, by a length, by how far: not one for each of the ten branches.
    assert len(counted) <= 6


# The plan without a step


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_plan_is_the_two_ends(kind: str) -> None:
    view, ids = view_of(kind), ids_of(2, 4)
    none, stack = view.using(plan="none"), view.stack
    with torch.no_grad():
        x = none.record(ids, sites=["embed"]).tensor("embed", -1)
        x = stack.final_norm(x) if stack.config.final_norm else x
        assert none.logits(ids).equal(stack.head(x, stack.tied_table))
    assert kind not in CAUSAL or none.card().cache_bytes_per_token + none.card().state_bytes == 0
    assert "plan none" in repr(none)
