import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.plans.drawn import plans

from laminogram.errors import PlanError
from laminogram.plans import Group, Plan, Step


@given(plans())
def test_text_and_value_convert_into_each_other(plan):
    assert Plan.parse(str(plan)) == plan
    assert str(Plan.parse(str(plan))) == str(plan)
    assert len(plan) == len(plan.steps)


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_range_runs_up_or_down(first, last):
    layers = [step.layer for step in Plan.parse(f"{first}-{last}")]
    assert layers[0] == first and layers[-1] == last
    assert sorted(layers) == list(range(min(first, last), max(first, last) + 1))


@pytest.mark.parametrize(
    ("text", "printed", "steps"),
    [
        ("0-31", "0-31", 32),
        ("0-7, 24-8, 25-31", "0-7, 24-8, 25-31", 32),
        ("0-7, mean(8-24), 25-31", "0-7, mean(8-24), 25-31", 32),
        ("0-7, 3x(mean(8-24)), 25-31", "0-7, 3x(mean(8-24)), 25-31", 66),
        ("0-7, 17x(16), 25-31", "0-7, 17x(16), 25-31", 32),
        ("0-3, mean(4-6 | 7, 8), 9-31", "0-3, mean(4-6 | 7-8), 9-31", 32),
        ("0,1,2, 12.attn,12.ffn, 7.attn, 5,4,3", "0-2, 12, 7.attn, 5-3", 8),
        ("0-15, 8-31", "0-7, 2x(8-15), 16-31", 40),
        ("3x(5, 5, 6)", "3x(2x(5), 6)", 9),
        ("5.attn, 2x(5.ffn, 5.attn), 5.ffn", "3x(5)", 3),
        ("mean(4.attn, 4.ffn)", "mean(4.attn, 4.ffn)", 2),
        ("MEAN( 4 |7 ),2X(1)", "mean(4, 7), 2x(1)", 4),
        ("none", "none", 0),
        ("mean(none | 7)", "mean(none | 7)", 1),
        ("sum(7)", "7", 1),
    ],
)
def test_printing_is_canonical(text, printed, steps):
    assert str(Plan.parse(text)) == printed
    assert len(Plan.parse(text)) == steps


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "ends where a layer"),
        ("a", "'a' at character 1"),
        ("0, 1-", "ends where the number"),
        ("3.mlp", "'mlp' at character 3.*attn or ffn"),
        ("1 2", "'2' at character 3.*a comma"),
        ("-1", "'-' at character 1"),
        ("mean(1, 2", r"ends where a comma, \| or \)"),
        ("mean(none)", "no branch"),
        ("0x(3)", "at least 1"),
        ("2x3", r"'3' at character 3.*\("),
        ("0-4)", r"'\)' at character 4"),
        ("9999999x(0)", "more than"),
        ("0-999999999", "more than"),
        ("(" * 9, r"'\(' at character 1"),
        ("mean(" * 90 + "0" + ")" * 90, "nested deeper"),
    ],
)
def test_what_is_no_plan_is_named_with_its_place(text, place):
    with pytest.raises(PlanError, match=place):
        Plan.parse(text)


def test_a_layer_that_is_not_there_is_named_with_its_step():
    with pytest.raises(PlanError, match=r"step 2 .*layer 9.* 0-3"):
        Plan.parse("0, mean(1, 9)").check(4)


def test_plans_add_and_repeat():
    assert Plan([0, 1]) + Plan.mean([2, 3]) * 2 == Plan.parse("0-1, 2x(mean(2-3))")
    assert Plan([Step(3, "attn")]) + Plan([Step(3, "ffn")]) == Plan([3])
    with pytest.raises(PlanError):
        Plan([0]) * 0


def test_groups_and_layers_are_found_inside_branches():
    plan = Plan.parse("5, mean(sum(1, 2), 3 | 4)")
    assert [group.kind for group in plan.groups] == ["mean", "sum"]
    assert plan.layers == (1, 2, 3, 4, 5)
    assert not plan.groups[0].single and plan.groups[1].single


def test_a_group_is_a_mean_or_a_sum_of_something():
    with pytest.raises(PlanError):
        Plan([Group("median", (Plan([1]), Plan([2])))])
    with pytest.raises(PlanError):
        Plan.mean([])


@pytest.mark.parametrize("layers", [[1.5], [True], ["0"], 5, None])
def test_what_is_no_layer_is_refused(layers):
    with pytest.raises(PlanError):
        Plan(layers)


def test_a_plan_of_what_is_given():
    plan = Plan.parse("0-3")
    assert Plan.of(plan) is plan and Plan.of("0-3") == plan and Plan.of(range(4)) == plan
    assert Plan("0-3") == plan


def test_what_a_plan_prints_makes_it_again():
    plan = Plan.parse("0, 2x(mean(1-2 | 3.attn)), 5-4")
    assert eval(repr(plan), {"Plan": Plan}) == plan


@pytest.mark.parametrize("text", ["mean(none, 3)", "none, 0", "sum(3, none)"])
def test_nothing_stands_alone(text):
    with pytest.raises(PlanError):
        Plan.parse(text)


def test_a_plan_too_deep_for_its_text_is_refused():
    plan = Plan([0])
    for _ in range(50):
        plan = Plan.mean([plan, Plan([1])])
    assert Plan.parse(str(plan)) == plan
    with pytest.raises(PlanError, match="deeper"):
        Plan.mean([plan, Plan([1])])


def test_long_plans_print_and_refuse_quickly():
    long = Plan(i * i % 97 for i in range(9000))
    assert Plan.parse(str(long)) == long
    with pytest.raises(PlanError, match="…"):
        long.check(4)


def test_layers_may_be_numbers_of_numpy() -> None:
    plan = Plan(np.array([2, 0, 1]))
    assert plan == Plan.parse("2, 0-1") and str(plan) == "2, 0-1"
    with pytest.raises(PlanError, match="no layer"):
        Plan([np.float32(1)])
