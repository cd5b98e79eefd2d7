from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from laminogram.evaluate.encode import Row, rolling
from laminogram.evaluate.packing import Pack, Sharing, pack


@st.composite
def rows(draw: st.DrawFn) -> Row:
    tokens = draw(st.lists(st.integers(0, 2), min_size=2, max_size=9))
    return Row(tuple(tokens), draw(st.integers(1, len(tokens) - 1)))


@st.composite
def questions(draw: st.DrawFn) -> list[Row]:
    """A document whose rows begin alike, as the choices of a question do."""
    given = draw(st.lists(st.integers(0, 2), min_size=1, max_size=9))
    ends = draw(
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=4)
    )
    return [Row(tuple(given + end), len(end)) for end in ends]


documents = st.lists(st.one_of(st.lists(rows(), max_size=4), questions()), max_size=8)


@settings(deadline=None, max_examples=60)
@given(documents, st.integers(1, 60), st.sampled_from(get_args(Sharing)))
def test_every_row_is_answered_once_and_every_input_is_read_once(
    asked: list[list[Row]], budget: int, share: Sharing
) -> None:
    packs = pack(asked, budget, share=share)
    answered = [row for one in packs for row in one.rows]
    assert len(answered) == len(set(answered))
    assert set(answered) == {row for own in asked for row in own}
    read = [inputs for one in packs for inputs in one.inputs]
    assert len(read) == len(set(read)) == len({row.inputs for row in answered})
    for one in packs:
        for inputs, own in zip(one.inputs, one.asked, strict=True):
            assert all(row.inputs == inputs for row in own)
    assert packs == pack(asked, budget, share=share)
    assert len({one.hash for one in packs}) == len(packs)


@settings(deadline=None, max_examples=60)
@given(documents, st.integers(1, 60))
def test_a_tree_has_every_beginning_of_its_inputs_once(asked: list[list[Row]], budget: int) -> None:
    for one in pack(asked, budget, share="trees"):
        assert sum(one.trees) == (len(one.inputs) if one.trees else 0)
        trees = iter(one.grown)
        waiting = list(one.inputs)
        for size in one.trees:
            tree, own, waiting = next(trees), waiting[:size], waiting[size:]
            beginnings = {tokens[: n + 1] for tokens in own for n in range(len(tokens))}
            assert len(tree) == len(beginnings)
            for tokens, columns in zip(own, tree.columns, strict=True):
                assert tuple(tree.tokens[column] for column in columns) == tokens
                assert (tree.seen[columns[-1]].nonzero()[0] == columns).all()
        assert len(one.grown) < 2 or max(map(len, one.grown)) * len(one.grown) <= budget


@settings(deadline=None, max_examples=60)
@given(documents, st.integers(1, 60))
def test_trunks_are_common_and_end_before_anything_is_scored(
    asked: list[list[Row]], budget: int
) -> None:
    for one in pack(asked, budget):
        assert bool(one.trunks) == (one.copies > 1)
        assert len(one.inputs) % one.copies == 0
        for number, trunk in enumerate(one.trunks):
            place = slice(number * one.copies, (number + 1) * one.copies)
            inputs = one.inputs[place]
            assert trunk >= 1
            assert len({tokens[:trunk] for tokens in inputs}) == 1
            assert all(len(tokens) > trunk for tokens in inputs)
            assert all(trunk <= row.given for own in one.asked[place] for row in own)


@settings(deadline=None, max_examples=50)
@given(documents, st.integers(1, 60))
def test_a_pack_is_no_larger_than_the_budget_unless_it_is_one_document(
    asked: list[list[Row]], budget: int
) -> None:
    for one in pack(asked, budget):
        trunk = max(one.trunks, default=0)
        tails = [
            len(tokens) - (one.trunks[i // one.copies] if one.trunks else 0)
            for i, tokens in enumerate(one.inputs)
        ]
        families = len(one.inputs) // one.copies
        assert families == 1 or families * (trunk + one.copies * max(tails)) <= budget


def test_what_is_shared_is_counted_once() -> None:
    choices = [Row((1, 2, 3, 4, 5, 6, end, end), 2) for end in (7, 8, 9)]
    (one,) = pack([choices], 100)
    assert one == Pack(
        tuple(row.inputs for row in choices), tuple((row,) for row in choices), (5,), 3
    )
    assert one.tokens == 5 + 3 * 2
    assert sum(p.tokens for p in pack([choices], 100, share="nothing")) == 3 * 7


def test_one_token_answers_to_one_context_are_one_input() -> None:
    rows = [Row((1, 2, 3, end), 1) for end in (7, 8, 9)]
    (one,) = pack([rows], 100)
    assert one.inputs == ((1, 2, 3),)
    assert one.rows == rows


@pytest.mark.parametrize("again", [4, 2])
def test_a_row_that_is_scored_from_earlier_on_keeps_the_trunk_short(again: int) -> None:
    choices = [Row((1, 2, 3, 4, 5, 6, end), 1) for end in (7, 8)] + [Row((1, 2, 3, 4, 5, 9, 9), 1)]
    longer = Row(choices[0].tokens, again)
    packs = pack([choices, [longer]], 100)
    (one,) = (p for p in packs if longer in p.rows)
    assert all(trunk <= longer.given for trunk in one.trunks)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 40), st.integers(1, 9), st.data())
def test_windows_score_every_token_but_the_first_once(
    tokens: int, length: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, length))
    text = list(range(tokens))
    found = list(rolling(text, length, stride))
    assert [token for row in found for token in row.targets] == text[1:]
    assert all(len(row.inputs) <= length for row in found)
    for row in found[1:]:
        assert len(row.inputs) == length
        assert row.scored <= stride
