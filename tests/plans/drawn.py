"""Plans that hypothesis draws: sequences, halves, loops, nested groups."""

from __future__ import annotations

from hypothesis import strategies as st

from laminogram.plans import Group, Plan, Step


def plans(layers: int = 12, *, min_size: int = 0, max_size: int = 6, halves: bool = True):
    """Plans over layers 0..layers-1."""
    parts = ["both", "both", "both", "attn", "ffn"] if halves else ["both"]
    step = st.builds(Step, st.integers(0, layers - 1), st.sampled_from(parts))
    run = st.tuples(st.integers(0, layers - 1), st.integers(0, layers - 1)).map(_run)

    kinds = st.sampled_from(["mean", "sum"])

    def grow(inner: st.SearchStrategy) -> st.SearchStrategy:
        body = st.lists(inner, max_size=3).map(Plan)
        group = st.builds(
            Group,
            kinds,
            st.lists(body, min_size=1, max_size=3).map(tuple),
        )
        loop = st.builds(lambda plan, times: plan * times, body, st.integers(1, 3))
        return group | loop

    rising = st.tuples(st.integers(0, layers - 1), st.integers(2, 4)).map(
        lambda of: list(range(of[0], min(of[0] + of[1], layers)))
    )
    parallel = st.builds(lambda one, kind: getattr(Plan, kind)(one), rising, kinds)
    item = st.recursive(step | run | parallel, grow, max_leaves=8)
    return st.lists(item, min_size=min_size, max_size=max_size).map(Plan)


def _run(ends: tuple[int, int]) -> Plan:
    first, last = ends
    return Plan(range(first, last + 1) if last >= first else range(first, last - 1, -1))


def short_plans(layers: int = 3, *, min_size: int = 0, most: int = 16, halves: bool = True):
    """Plans of at most `most` steps, for stacks that really run them."""
    drawn = plans(layers, min_size=min_size, max_size=4, halves=halves)
    return drawn.filter(lambda plan: len(plan) <= most)
