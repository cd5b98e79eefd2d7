"""What is recorded, edited and measured at the steps of a plan, inside groups too."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plans.drawn import short_plans
from tests.plans.meaning import Meaning
from tests.stacks import KINDS, ids_of, relative, view_of
from torch import Tensor

from laminogram import edits
from laminogram.errors import SiteError
from laminogram.plans import Plan, Step
from laminogram.probe.program import EditWarning
from laminogram.view import View

EXACT = 1e-9
PLAN = "0, 2x(mean(1 | 2, 1)), sum(1.ffn, 0), 1"
ENDS = ["resid_pre", "resid_post"]
sampled_kinds = st.sampled_from(KINDS)


@cache
def doubled(kind: str) -> View:
    """A stack in fp64. Not to be changed."""
    view = view_of(kind)
    view.stack.double()
    return view


@torch.no_grad()
def meant(view: View, plan: Plan, ids: Tensor, after=None) -> tuple[Tensor, Meaning]:
    reading = Meaning(view, view.tokens(ids), *([after] if after else []))
    return reading.logits(plan), reading


@settings(max_examples=50, deadline=None)
@given(plan=short_plans(min_size=1), kind=sampled_kinds)
def test_every_step_is_recorded_as_it_ran(plan: Plan, kind: str) -> None:
    view, ids = doubled(kind), ids_of(2, 4)
    if not len(plan):
        return
    gram = view.using(plan=plan).record(ids, sites=ENDS)
    _, reading = meant(view, plan, ids)
    assert gram.steps == tuple(range(len(plan)))
    for number, (step, before, after) in enumerate(reading.trace):
        assert gram.step_layers[number] == (step.layer, step.part)
        assert relative(gram.tensor("resid_pre", number), before) < EXACT
        assert relative(gram.tensor("resid_post", number), after) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_steps_choose_among_the_uses_of_a_layer(kind: str) -> None:
    view, ids = view_of(kind).using(plan=PLAN), ids_of(2, 4)
    ones = [1, 3, 4, 6, 7, 9]
    assert [i for i, step in enumerate(view.plan) if step.layer == 1] == ones
    whole = view.record(ids, sites=["ffn_out", "resid_post", "attn_out"])
    gram = view.record(ids, sites=["ffn_out"], layers=1)
    assert list(gram.steps) == ones == gram.layer(1)
    assert all((gram["ffn_out", i] == whole["ffn_out", i]).all() for i in ones)
    some = view.record(ids, sites=["resid_post"], steps=[3, 8])
    assert some.steps == (3, 8)
    both = view.record(ids, sites=["resid_post"], layers=1, steps=[3, 6, 8])
    assert both.steps == (3, 6)
    # Half a layer has half its sites.
    assert ("attn_out", 7) not in whole
    assert ("ffn_out", 7) in whole
    with pytest.raises(SiteError, match=r"step 7 runs only 1.ffn, which has no site 'attn_out'"):
        view.record(ids, sites=["attn_out"], steps=7)
    with pytest.raises(SiteError, match="steps 0-9"):
        view.record(ids, sites=["attn_out"], steps=10)


@settings(max_examples=40, deadline=None)
@given(plan=short_plans(min_size=1), kind=sampled_kinds, data=st.data())
def test_an_edit_acts_at_each_of_its_steps_and_nowhere_else(plan: Plan, kind: str, data) -> None:
    view, ids = doubled(kind), ids_of(2, 4)
    if not len(plan):
        return
    by_layer = data.draw(st.booleans())
    chosen = data.draw(
        st.sampled_from(plan.layers) if by_layer else st.integers(0, len(plan) - 1), label="chosen"
    )

    def after(number: int, step: Step, x: Tensor) -> Tensor:
        if chosen != (step.layer if by_layer else number):
            return x
        x = x.clone()
        x[:, 1:3, 5] = 2 * x[:, 1:3, 5]
        return x

    where = {"layers": chosen} if by_layer else {"steps": chosen}
    edit = edits.scale("resid_post", 2.0, channels=[5], positions=[1, 2], **where)
    edited = view.using(plan=plan, edits=edit)
    expected, reading = meant(view, plan, ids, after)
    assert relative(edited.logits(ids), expected) < EXACT
    gram = edited.record(ids, sites=ENDS)
    for number, (_, before, behind) in enumerate(reading.trace):
        assert relative(gram.tensor("resid_pre", number), before) < EXACT
        assert relative(gram.tensor("resid_post", number), behind) < EXACT


@settings(max_examples=25, deadline=None)
@given(plan=short_plans(min_size=1), kind=sampled_kinds)
def test_an_edit_that_changes_nothing_changes_no_bit(plan: Plan, kind: str) -> None:
    if not len(plan):
        return
    view, ids = view_of(kind).using(plan=plan), ids_of(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EditWarning)
        same = [edits.scale("resid_post", 1.0), edits.clip("resid_pre", low=-1e30)]
        sites = ["resid_pre", "resid_post"]  # so that both runs are of one specialisation
        found = view.using(edits=same).record(ids, sites=[*sites, "logits"])
        plain = view.record(ids, sites=[*sites, "logits"])
        assert all((found[key] == plain[key]).all() for key in plain)


@pytest.mark.parametrize("kind", KINDS)
def test_a_patch_from_the_same_plan_restores_it(kind: str) -> None:
    """What a branch was can be put back into it, step by step."""
    view, ids = view_of(kind).using(plan=PLAN), ids_of(2, 4)
    gram = view.record(ids, sites=["resid_post"])
    spoilt = view.using(edits=edits.zero("resid_pre", layers=2))
    assert relative(spoilt.logits(ids), view.logits(ids)) > 1e-3
    mended = spoilt.using(edits=edits.patch("resid_post", gram, layers=2))
    assert relative(mended.logits(ids), view.logits(ids)) < 1e-6


@pytest.mark.parametrize("site", ["resid_pre", "ffn_out"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_recorded_inside_groups(kind: str, site: str) -> None:
    view, ids = doubled(kind).using(plan=PLAN), ids_of(1, 4)

    def scalar(logits: Tensor) -> Tensor:
        return logits[0, -1, :7].square().sum()

    gram = view.record(ids, sites=[site], grad=scalar)
    for step in (0, 1, 3, 7, 8):
        values = []
        for push in (1e-6, -1e-6):
            pushed = edits.add(site, push, steps=step, channels=[5], positions=[2])
            values.append(scalar(view.using(edits=pushed).logits(ids)).item())
        slope = float(gram.grad[site, step][0, 2, 5])
        assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_measured_is_what_is_recorded(kind: str) -> None:
    view = view_of(kind).using(plan=PLAN)
    rows = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5]]
    found = view.measure(rows, ["moments"], ["resid_post"], progress=False, batch_size=2)
    gram = view.record(rows, sites=["resid_post"])
    assert found.steps == gram.steps == tuple(range(10))
    assert found.step_layers == gram.step_layers
    for step in found.steps:
        values = gram["resid_post", step][gram.mask].astype(np.float64)
        moments = found["moments", "resid_post", step].result()
        np.testing.assert_allclose(moments["mean"], values.mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_empty_plan_has_its_ends_to_look_at(kind: str) -> None:
    view, ids = view_of(kind).using(plan="none"), ids_of(2, 4)
    gram = view.record(ids, sites=["embed", "final", "logits"])
    assert gram.steps == (-1,)
    assert gram["logits", -1].shape == (2, 4, 50)
    assert len(view.measure(ids, ["moments"], ["embed"], progress=False)) == 1
    for how, why in (
        ({}, "no step of the plan none"),
        ({"layers": 1}, "layer 1 is not in the plan none"),
        ({"steps": 0}, "the plan has no step"),
    ):
        with pytest.raises(SiteError, match=why):
            view.record(ids, sites=["ffn_out"], **how)
    with pytest.raises(SiteError):
        view.using(edits=edits.zero("ffn_out"))
    halved = view.using(edits=edits.scale("embed", 0.5))
    assert relative(halved.logits(ids), view.logits(ids)) > (-1 if kind != "bert" else 1e-3)
