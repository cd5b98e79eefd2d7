import pytest
from hypothesis import given
from hypothesis import strategies as st

from laminogram.errors import PlanError
from laminogram.stack.plan import Plan, Step

steps = st.builds(
    Step, st.integers(0, 40), st.sampled_from(["both", "both", "both", "attn", "ffn"])
)


@given(st.lists(steps, min_size=1, max_size=30))
def test_text_and_value_convert_into_each_other(made):
    plan = Plan(made)
    assert Plan.parse(str(plan)) == plan
    assert str(Plan.parse(str(plan))) == str(plan)


@given(st.integers(0, 30), st.integers(0, 30))
def test_a_range_runs_up_or_down(first, last):
    layers = [step.layer for step in Plan.parse(f"{first}-{last}")]
    assert layers[0] == first and layers[-1] == last
    assert sorted(layers) == list(range(min(first, last), max(first, last) + 1))


def test_printing_is_canonical():
    assert str(Plan.parse("0,1,2, 12.attn,12.ffn, 7.attn, 5,4,3")) == "0-2, 12, 7.attn, 5-3"


@pytest.mark.parametrize("text", ["", "a", "1-", "3.mlp", "1 2", "-1"])
def test_what_is_no_plan_is_named(text):
    with pytest.raises(PlanError):
        Plan.parse(text)


def test_a_layer_that_is_not_there_is_named_with_its_step():
    with pytest.raises(PlanError, match=r"step 2 .*layer 9.* 0-3"):
        Plan.parse("0, 1, 9").check(4)
