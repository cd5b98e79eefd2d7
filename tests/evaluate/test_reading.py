"""Whatever is shared between rows and between plans, every answer is that of its whole row."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from tests.stacks import CAUSAL, view_of

from laminogram.evaluate.branching import can_branch
from laminogram.evaluate.encode import Row
from laminogram.evaluate.loss import loss
from laminogram.evaluate.packing import Pack, Sharing, pack
from laminogram.evaluate.reading import read, sharing
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.probe import edits
from laminogram.stack.stack import Stack
from laminogram.view import View

PLANS = ("0-2", "0, 0, 2, 1", "0, mean(1-2)", "0, mean(1 | 2, 1), 2", "0, 1.attn, 2.ffn, 3x(2)")


def documents(vocabulary: int = 50) -> list[list[Row]]:
    """Questions with four choices of different length, and rows that stand alone."""
    draw = random.Random(1)
    found = []
    for length in (3, 12, 7, 7, 5):
        given = [draw.randrange(vocabulary) for _ in range(length)]
        ends = ([draw.randrange(vocabulary) for _ in range(n)] for n in (2, 3, 1, 5))
        found.append([Row((*given, *end), len(end)) for end in ends])
    return [*found, [Row(tuple(draw.randrange(vocabulary) for _ in range(9)), 4)]]


def packs_of(share: Sharing) -> list[Pack]:
    """The documents in packs: some with what rows share, where they share, and some without."""
    packs = pack(documents(), 60, share=share)
    assert {bool(one.trunks) for one in packs} == ({True, False} if share == "trunks" else {False})
    assert {bool(one.trees) for one in packs} == ({True, False} if share == "trees" else {False})
    return packs


def check(view: View, plans: Sequence[str], packs: Sequence[Pack]) -> None:
    views = [view.using(plan=plan) for plan in plans]
    tree = PlanTree(map(Plan.of, plans))
    for one in packs:
        numbers = []
        rows = [list(row.tokens) for row in one.rows]
        for number, reading in read(view, tree, one):
            numbers.append(number)
            whole = loss(views[number], rows)
            for place, (row, (found, _)) in enumerate(
                zip(one.rows, reading.answers(), strict=True)
            ):
                wanted = whole.per_token[place, whole.mask[place]][-row.scored :]
                assert found == pytest.approx(-float(wanted.detach().sum()), rel=1e-5, abs=1e-5)
        assert sorted(numbers) == list(range(len(plans)))


@pytest.mark.parametrize("kind", CAUSAL)
def test_branches_read_what_their_whole_rows_read(kind: str) -> None:
    check(view_of(kind), PLANS, packs_of("trunks"))


@pytest.mark.parametrize("kind", CAUSAL)
def test_trees_of_tokens_read_what_their_whole_rows_read(kind: str) -> None:
    view = view_of(kind)
    assert (sharing(view) == "trees") == (kind in ("llama", "gpt_neox", "moe", "latent"))
    if sharing(view) == "trees":
        check(view, PLANS, packs_of("trees"))


def test_a_tree_sees_no_further_than_the_window() -> None:
    view = view_of("llama")
    layers = tuple(
        replace(layer, attn=replace(layer.attn, window=4)) for layer in view.config.layers
    )
    stack = Stack(replace(view.config, layers=layers))
    stack.load_state_dict(view.stack.state_dict())
    narrow = replace(view, stack=stack)
    assert sharing(narrow) == "trees"
    check(narrow, PLANS[:2], packs_of("trees"))


def test_first_step_provision_goes_through_the_trunk_too() -> None:
    view = view_of("rwkv7").using(v_first="first-step")
    check(view, ("0-2", "0, 2, 1", "2, 1, 0"), packs_of("trunks"))


@pytest.mark.parametrize("edit", [edits.scale("ffn_out", 0.5, layers=1), edits.zero("logits")])
def test_edits_act_in_every_plan_on_whole_rows(edit: edits.Edit) -> None:
    view = view_of("llama").using(edits=edit)
    assert not can_branch(view)
    check(view, PLANS[:3], packs_of("nothing"))


def test_greedy_is_told_token_by_token() -> None:
    view = view_of("gpt_neox")
    given = [3, 1, 4, 1, 5]
    made = list(view.generate(given, max_new_tokens=3, stop_at_eos=False).tokens)
    other = [*made[:2], (made[2] + 1) % 50]
    rows = [Row((*given, *made), 3), Row((*given, *other), 3), Row((*given, *other), 1)]
    told = {}
    for one in pack([rows], 100):
        ((_, reading),) = read(view, PlanTree([view.plan]), one)
        told |= dict(zip(one.rows, (greedy for _, greedy in reading.answers()), strict=True))
    assert told == {rows[0]: True, rows[1]: False, rows[2]: False}


def test_dynamic_rotaries_are_never_read_in_two_parts() -> None:
    from tests.infer.speaking import view_with_rope

    assert not can_branch(view_with_rope("dynamic", factor=2.0))
    assert can_branch(view_of("llama"))
    assert not can_branch(view_of("bert"))
