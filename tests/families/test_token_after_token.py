"""Whatever happens to weights and caches between two tokens: compiled, a token says what it says
operation by operation."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.families.small import widened
from tests.families.test_every_family import CAUSAL, view_of
from tests.stacks import relative
from torch import nn

from laminogram.stack.cache import Cache
from laminogram.stack.kernels import matvec
from laminogram.stack.mixers import fused
from laminogram.stack.stack import Stack
from laminogram.view import View

pytest.importorskip("numba")

PLANS = ("0-1", "1, 0", "0, 1, 1", "0.attn, 1", "mean(0, 1), 1")
CHANGES = ("nothing", "written", "moved", "replaced", "forked", "copied")


def change(stack: Stack, how: str, place: float) -> None:
    names = [name for name, _ in stack.named_parameters()]
    path = names[int(place * len(names))]
    parameter, (owner, _, name) = stack.get_parameter(path), path.rpartition(".")
    new = nn.Parameter(parameter * 0.9, requires_grad=False)
    if how == "written":
        parameter.copy_(new)
    elif how == "moved":
        parameter.data = new.data
    elif how == "replaced":
        setattr(stack.get_submodule(owner), name, new)


def usual(view: View, token: int, cache: Cache) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "is_one_row", lambda x, ctx: False)
        return view.run(view.tokens([[token]]), cache=cache)


@settings(max_examples=60)
@given(
    family=st.sampled_from(CAUSAL),
    plan=st.sampled_from(PLANS),
    narrow=st.booleans(),
    steps=st.lists(
        st.tuples(st.sampled_from(CHANGES), st.floats(0, 0.999), st.integers(0, 18)),
        min_size=2,
        max_size=9,
    ),
)
@torch.no_grad()
def test_nothing_between_two_tokens_is_missed(family, plan, narrow, steps):
    whole = view_of(family, widened(family))
    stack = (whole.stack.bfloat16() if narrow else whole.stack).requires_grad_(False)
    view = View(stack, None, family, stack.full_plan()).using(plan=plan)
    cache, other = (view.new_cache(1, capacity=10, planned=10) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matvec, "LEAST_ENTRIES", 1)
        for how, place, token in steps:
            change(stack, how, place)
            cache = cache.fork() if how == "forked" else cache
            cache = copy.deepcopy(cache) if how == "copied" else cache
            found = view.run(view.tokens([[token]]), cache=cache)
            close = 6e-2 if narrow else 2e-4
            assert relative(found.float(), usual(view, token, other).float()) < close
