"""Conditions as text: what is read is what is written, and what is wrong is named."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import ids_of, view_of

from laminogram.errors import ConfigError, EditError
from laminogram.probe import edits
from laminogram.studies.compare.conditions import Condition, parse_edit

EDITS = (
    "zero:ffn_out:layers=0-1:channels=3,17",
    "scale=0.5:resid_post:dose=0.25",
    "clip=3:ffn_out:positions=-1,0",
    "rotate=4",
    "entry=0:layers.1.ffn.down.weight:3:4",
)
conditions = st.builds(
    Condition,
    model=st.sampled_from(["tiny-llama", "a/b", "runs/step-10"]),
    precision=st.none() | st.sampled_from(["int8", "bf16+int4-g128"]),
    plan=st.none() | st.sampled_from(["0-1", "0, mean(1-2)"]),
    kv=st.none() | st.just("averaged"),
    edits=st.lists(st.sampled_from(EDITS), max_size=2).map(tuple),
    bos=st.none() | st.booleans(),
    text_file=st.none() | st.just("other texts.txt"),
)


@given(conditions)
@settings(deadline=None, max_examples=60)
def test_what_is_written_is_read_back(condition: Condition) -> None:
    assert Condition.parse(str(condition)) == condition


def test_an_edit_is_that_of_the_function() -> None:
    made = edits.zero("ffn_out", layers=[0, 1], channels=[3, 17])
    assert parse_edit(EDITS[0]) == made
    assert parse_edit(EDITS[1]) == edits.scale("resid_post", 0.5, dose=0.25)
    assert parse_edit(EDITS[2]) == edits.winsorise("ffn_out", bound=3, positions=[-1, 0])
    assert parse_edit(EDITS[3]) == edits.weights.rotate(seed=4)
    assert parse_edit(EDITS[4]) == edits.weights.scale_entry(
        "layers.1.ffn.down.weight", 3, 4, factor=0
    )


def test_a_condition_makes_the_view() -> None:
    view = view_of("llama")
    asked = Condition.parse("llama@plan=0,2@precision=int8@edit=zero:ffn_out:layers=2")
    made = asked.of(view)
    expected = view.using(plan="0,2", precision="int8", edits=edits.zero("ffn_out", layers=2))
    assert made.conditions == expected.conditions
    assert Condition.parse("llama").of(view) is view
    assert made.logits(ids_of(1, 5)).equal(expected.logits(ids_of(1, 5)))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@precision=int8", "begins with no model"),
        ("m@size=3", "no key 'size'"),
        ("m@plan=", "plan is empty"),
        ("m@bos=maybe", "on or off"),
        ("m@plan=0@plan=1", "given twice"),
        ("m@edit=erase:ffn_out", "no operation 'erase'"),
        ("m@edit=zero", "names no site"),
        ("m@edit=scale:ffn_out", "scale=NUMBER:SITE"),
        ("m@edit=zero=1:ffn_out", "zero:SITE"),
        ("m@edit=zero:ffn_out:rows=1", "no selection 'rows'"),
        ("m@edit=zero:ffn_out:layers=a", "'a' is no number"),
        ("m@edit=scale=big:ffn_out", "'big' is no number"),
        ("m@edit=entry=0:w", "entry=FACTOR:PARAMETER"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    with pytest.raises((ConfigError, EditError), match=said):
        Condition.parse(text)
