from hypothesis import given
from hypothesis import strategies as st
from tests.plans.drawn import plans

from laminogram.plans import Plan
from laminogram.plans.tree import Node, PlanTree


@given(st.lists(plans(4), max_size=6))
def test_every_way_through_the_tree_is_a_plan(drawn):
    tree = PlanTree(drawn)
    found: dict[int, Plan] = {}

    def visit(node: Node, items: list) -> None:
        here = items if node.item is None else [*items, node.item]
        found.update({number: Plan(here) for number in node.plans})
        for child in node.children:
            visit(child, here)

    visit(tree.root, [])
    assert [found[number] for number in range(len(drawn))] == drawn


@given(st.lists(plans(4), max_size=6))
def test_nothing_is_run_twice_and_nothing_more_than_apart(drawn):
    tree = PlanTree(drawn)
    beginnings = {plan.items[:end] for plan in drawn for end in range(1, len(plan.items) + 1)}
    assert tree.calls == sum(calls(Plan([items[-1]])) for items in beginnings)
    assert tree.calls_apart == sum(calls(plan) for plan in drawn)


def calls(plan: Plan) -> float:
    return sum(1 if step.part == "both" else 0.5 for step in plan.steps)


@given(st.lists(plans(4), min_size=1, max_size=6))
def test_the_peak_is_what_a_depth_first_run_holds(drawn):
    tree = PlanTree(drawn)
    waiting, most, states = [(tree.root, 0)], 0, 0
    while waiting:
        node, _ = waiting.pop()
        held = {state for _, state in waiting}
        states += 1
        most = max(most, len(held) + 1)
        waiting += [(child, states) for child in reversed(node.children)]
    assert tree.peak == most


def test_plans_that_end_where_others_go_on():
    tree = PlanTree([Plan.parse("0-2"), Plan.parse("0-4"), Plan.parse("0-2"), Plan()])
    assert (tree.calls, tree.calls_apart, tree.peak) == (5, 11, 1)
    assert str(tree).startswith("4 plans: 5 layer calls instead of 11, 2.20x fewer; at most 1")


def test_skips_of_one_layer_share_their_beginnings():
    plans = [Plan([i for i in range(12) if i != left]) for left in range(12)]
    tree = PlanTree(plans)
    assert tree.calls_apart == 12 * 11
    assert tree.calls == 10 + sum(range(1, 12)) + 1
    assert tree.peak == 2
