"""What a plan costs: counted by hand, and against torch's own counter of FLOPs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from tests.plans.drawn import plans
from tests.stacks import KINDS, WIDTH, ids_of, stack_of, view_of
from torch.utils.flop_counter import FlopCounterMode

from laminogram.errors import PlanError
from laminogram.plans import Plan
from laminogram.plans.cost import Figures, Half, scaled
from laminogram.stack.flops import attention_flops, figures


@pytest.mark.parametrize(
    ("text", "calls", "depth", "slots"),
    [
        ("0-31", 32, 32, 32),
        ("none", 0, 0, 0),
        ("0-7, mean(8-24), 25-31", 32, 16, 32),
        ("0-7, 3x(mean(8-24)), 25-31", 66, 18, 66),
        ("0-11, 12.attn, 13-31", 31.5, 31.5, 32),
        ("0-3, mean(4-6 | 7, 8), 9-31", 32, 30, 32),
        ("mean(none | 1, sum(2, 3.ffn, 4) | 5.attn)", 4, 2, 5),
    ],
)
def test_calls_depth_and_slots(text, calls, depth, slots):
    cost = Plan.parse(text).cost()
    assert (cost.layer_calls, cost.depth, cost.cache_slots) == (calls, depth, slots)
    assert cost.flops is None and "\n" not in str(cost)


@given(plans(), plans())
def test_costs_of_plans_in_sequence_add_up(one, other):
    both, alone = (one + other).cost(), (one.cost(), other.cost())
    # A half at the seam may join the other half into one step: calls and depth stay.
    assert both.layer_calls == sum(cost.layer_calls for cost in alone)
    assert both.depth == sum(cost.depth for cost in alone)
    assert both.depth <= both.layer_calls


def test_figures_are_summed_over_the_halves_that_run():
    layers = tuple((Half(10**i, 3, 0), Half(2 * 10**i, 0, 5)) for i in range(3))
    known = Figures(layers, end_flops=7, context=16)
    cost = Plan.parse("0, 2x(1.attn), mean(2, 2.ffn)").cost(known)
    assert cost.flops == 7 + 3 + 2 * 10 + 300 + 200
    assert (cost.cache_bytes, cost.state_bytes, cost.context) == (3 * 4, 5 * 3, 16)
    assert str(cost).splitlines() == [
        "3.5 layer calls, depth 3, 5 cache slots",
        "530 FLOPs a token with 16 in view, cache 12 B a token, state 15 B",
    ]
    with pytest.raises(PlanError, match="layer 3"):
        Plan.parse("3").cost(known)


@pytest.mark.parametrize("kind", KINDS)
def test_flops_are_those_that_torch_counts(kind):
    view, tokens = view_of(kind), 8  # inside every window
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        view.record(ids_of(1, tokens), sites=["pattern", "logits"])  # attention as plain products
    counted = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    products = counted.get("aten.mm", 0) + counted.get("aten.addmm", 0)
    attention = 0 if kind.startswith("rwkv") else counted.get("aten.bmm", 0)
    # The recurrences, which torch does not count as they are written, by their formulas.
    eagle = WIDTH * (5 * 16 + 5)
    formulas = {"rwkv4": 23 * WIDTH, "rwkv5": eagle, "rwkv6": eagle, "rwkv7": 9 * 2 * 16 * 16}
    recurrence = formulas.get(kind, 0)
    layers = len(view.stack.layers)
    expected = (products + attention) // tokens + layers * recurrence
    assert view.plan.cost(figures(view.stack, tokens)).flops == expected


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_are_those_of_the_caches(kind):
    view = view_of(kind).using(plan="0, 2x(1), 2.attn, 0.ffn")
    card, cost = view.card(), view.plan.cost(figures(view.stack))
    assert cost.cache_bytes == card.cache_bytes_per_token
    assert cost.state_bytes == card.state_bytes
    if view.config.causal:
        grown = [view.new_cache(1, capacity=n).nbytes for n in (0, 10)]
        assert grown[1] - grown[0] == 10 * cost.cache_bytes


def test_attention_grows_with_the_context_and_a_window_bounds_it():
    stack = stack_of("llama")
    short, long = (figures(stack, n).layers[0][0].flops for n in (100, 300))
    assert long - short == 4 * 4 * 8 * 200
    windowed = replace(stack.config.layers[0].attn, window=100)
    assert attention_flops(windowed, WIDTH, 300) == attention_flops(windowed, WIDTH, 100)


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2.5e15, "2.5 PB")]
)
def test_counts_are_said_with_a_prefix(count, said):
    assert scaled(count, "B") == said
