"""Plans that hypothesis draws: sequences, halves, loops, nested groups."""

from __future__ import annotations

from hypothesis import strategies as st

from laminogram.plans import Group, Plan, Step


def plans(layers: int = 12, *, min_size: int = 0, max_size: int = 6, halves: bool = True):
    """Plans over layers 0..layers-1."""
    parts = ["both", "both", "both", "attn", "ffn"] if halves else ["both"]
    step = st.builds(Step, st.integers(0, layers - 1), st.sampled_from(parts))
    run = st.tuples(st.integers(0, layers - 1), st.integers(0, layers - 1)).map(_run)

    def grow(inner: st.SearchStrategy) -> st.SearchStrategy:
        body = st.lists(inner, max_size=3).map(Plan)
        group = st.builds(
            Group,
            st.sampled_from(["mean", "sum"]),
            st.lists(body, min_size=1, max_size=3).map(tuple),
        )
        loop = st.builds(lambda plan, times: plan * times, body, st.integers(1, 3))
        return group | loop

    item = st.recursive(step | run, grow, max_leaves=8)
    return st.lists(item, min_size=min_size, max_size=max_size).map(Plan)


def _run(ends: tuple[int, int]) -> Plan:
    first, last = ends
    return Plan(range(first, last + 1) if last >= first else range(first, last - 1, -1))
