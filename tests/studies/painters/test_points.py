"""What is run: plans by the paper's own rules, restated here, and what merging them saves."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laminogram.errors import ConfigError
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.studies.painters.points import BY_LAYER, BY_MIDDLE, VARIANTS, distinct, points


def written(variant: str, layers: int, affected: int, seed: int = 0) -> str:
    """A variant as the paper has it: layers 0..N, M middle ones, N last ones, M = T - 2N - 1."""
    start = (layers - affected - 1) // 2
    middle = list(range(start + 1, layers - start))
    if variant == "reverse":
        middle.reverse()
    if variant == "random":
        random.Random(seed).shuffle(middle)
    if variant == "middle_repeat":
        middle = [layers // 2] * affected
    said = ", ".join(map(str, middle))
    inner = {"skip": "", "parallel": f"mean({said})", "looped": f"3x(mean({said}))"}
    ends = ", ".join(map(str, range(layers - start, layers)))
    parts = [f"0-{start}", inner.get(variant, said), ends]
    return ", ".join(part for part in parts if part)


@settings(deadline=None, max_examples=25)
@given(layers=st.integers(2, 13), seeds=st.integers(1, 3))
def test_every_variant_is_run_at_every_middle(layers: int, seeds: int) -> None:
    middles = list(range(layers - 1, 0, -2))[::-1]
    found = points(layers, BY_MIDDLE, seeds=seeds)[1:]
    assert [(p.variant, p.affected) for p in found] == [(v, m) for v in BY_MIDDLE for m in middles]
    for point in found:
        several = range(seeds) if point.variant == "random" else range(1)
        assert point.affected is not None
        for plan, seed in zip(point.plans, several, strict=True):
            text = written(point.variant, layers, point.affected, seed)
            assert plan == Plan.parse(text), point


@settings(deadline=None, max_examples=25)
@given(layers=st.integers(2, 13), repeats=st.integers(1, 4))
def test_layer_calls_are_those_of_the_paper(layers: int, repeats: int) -> None:
    for point in points(layers, seeds=1, repeats=repeats):
        (plan,) = point.plans
        calls, affected = plan.cost().layer_calls, point.affected or 0
        expected = {
            "full": layers,
            "skip_one": layers - 1,
            "skip": layers - affected,
            "looped": layers - affected + 3 * affected,
            "iterations": layers - affected + (point.repeats or 0) * affected,
        }
        assert calls == expected.get(point.variant, layers), point


def test_shared_beginnings_are_counted_once() -> None:
    chosen = points(6, ["skip_one", "iterations"], repeats=2)
    plans = distinct(chosen)
    assert plans[0] == Plan.full(6) and len(set(plans)) == len(plans)
    tree = PlanTree(plans)
    assert tree.calls_apart == sum(plan.cost().layer_calls for plan in plans)
    beginnings = {plan.items[: n + 1] for plan in plans for n in range(len(plan.items))}
    last = (Plan([way[-1]]).cost().layer_calls for way in beginnings)
    assert tree.calls == sum(last) < tree.calls_apart


def test_variants_by_name_and_what_is_refused() -> None:
    assert {point.variant for point in points(6, ["skip-one", "swap"])} == {"full", *BY_LAYER}
    assert {point.variant for point in points(6)} == {"full", *VARIANTS}
    with pytest.raises(ConfigError, match=r"'upside_down'.*middle_repeat"):
        points(6, ["upside-down"])
    with pytest.raises(ConfigError, match="at least 1"):
        points(6, seeds=0)
