"""Many plans at once equal the same plans one by one."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plans.drawn import plans
from tests.stacks import CAUSAL, KINDS, LAYERS, ids_of, relative, view_of

from laminogram.errors import EditError, PlanError
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.probe import edits
from laminogram.stack.forward import Walk

TOLERANCE = 1e-5


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=10)
@given(drawn=st.lists(plans(LAYERS, max_size=4), min_size=1, max_size=5), seed=st.integers(0, 9))
def test_a_tree_equals_one_by_one(kind, drawn, seed):
    view = view_of(kind, seed)
    batch = view.tokens([ids_of(1, 7, seed)[0].tolist(), [3, 1, 4]])
    with torch.no_grad():
        found = dict(view.sweep(drawn, batch))
        assert sorted(found) == list(range(len(drawn)))
        for number, plan in enumerate(drawn):
            alone = view.using(plan=plan).run(batch)
            assert relative(found[number][0], alone[0]) < TOLERANCE
            assert relative(found[number][1, :3], alone[1, :3]) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS)
def test_asked_columns_are_those_of_the_whole(kind):
    view = view_of(kind)
    chosen = ["0-2", "0-1", "0, 2, 1", "0, mean(1-2)", "0, 1.attn", "1, 2.ffn"]
    batch = view.tokens([ids_of(1, 9)[0].tolist(), [3, 1, 4, 1]])
    with torch.no_grad():
        whole = dict(view.sweep(chosen, batch, logits="none"))
        for columns in (torch.tensor([[8, 2], [0, 3]]), torch.tensor([[1] * 9, [3] * 9])):
            for number, found in view.sweep(chosen, batch, logits="none", columns=columns):
                wanted = torch.stack([x[own] for x, own in zip(whole[number], columns)])
                assert relative(found, wanted) < TOLERANCE


def test_side_streams_of_the_first_step_are_not_shared_between_plans():
    view = view_of("rwkv7").using(v_first="first-step")
    chosen = ["0-2", "1-2", "mean(1-2)", "1.ffn, 2", "1.ffn, 0"]
    batch = view.tokens(ids_of(2, 6))
    with torch.no_grad():
        for number, logits in view.sweep(chosen, batch):
            alone = view.using(plan=chosen[number]).run(batch)
            assert relative(logits, alone) < TOLERANCE


def test_edits_act_in_every_plan_and_an_empty_selection_is_an_error():
    view = view_of("llama").using(edits=edits.scale("ffn_out", 0.5, layers=1))
    chosen = ["0-2", "0, 2, 1", "1"]
    batch = view.tokens(ids_of(2, 6))
    with torch.no_grad():
        for number, logits in view.sweep(chosen, batch):
            alone = view.using(plan=chosen[number]).run(batch)
            assert relative(logits, alone) < TOLERANCE
    late = view_of("llama").using(edits=edits.zero("ffn_out", positions=[99]))
    with pytest.raises(EditError, match="selected nothing"):
        list(late.sweep(chosen, batch))


@pytest.mark.parametrize("kind", CAUSAL)
def test_losses_of_many_plans_equal_the_loss_of_each(kind):
    view = view_of(kind)
    chosen = [Plan.parse("0-2"), Plan.parse("0, mean(1-2)"), Plan.parse("2-0")]
    x = [ids_of(1, 9)[0].tolist(), [5, 6, 7]]
    for plan, found in zip(chosen, view.losses(chosen, x), strict=True):
        alone = view.using(plan=plan).loss(x)
        assert torch.equal(found.mask, alone.mask)
        assert torch.allclose(found.per_token, alone.per_token, atol=1e-4)
    edited = view.using(edits=edits.scale("logits", 2.0))
    assert edited.losses(chosen, x)[1].nats == pytest.approx(
        edited.using(plan=chosen[1]).loss(x).nats, rel=1e-4
    )


def test_a_plan_that_does_not_fit_is_refused_before_anything_runs():
    view = view_of("llama")
    with pytest.raises(PlanError, match="layer 9"):
        next(view.sweep(["0-2", "9"], view.tokens([1, 2])))


def test_no_more_hidden_states_live_than_the_tree_says(monkeypatch):
    view = view_of("llama", layers=6)
    chosen = [Plan([i for i in range(6) if i != left]) for left in range(6)]
    tree = PlanTree([*chosen, Plan.parse("0-2, 5-3"), Plan.parse("0-2, mean(3-4), 5")])
    states: list[weakref.ref] = []
    most = 0
    over = Walk.over

    def counted(self, items, flow):
        nonlocal most
        after = over(self, items, flow)
        states.append(weakref.ref(after.x))
        del flow
        most = max(most, sum(state() is not None for state in states))
        return after

    monkeypatch.setattr(Walk, "over", counted)
    with torch.no_grad():
        for _ in view.sweep(tree, view.tokens(ids_of(1, 4)), logits="none"):
            pass
    # While an item runs, what it read and what it makes both exist.
    assert 1 < most <= tree.peak + 1
