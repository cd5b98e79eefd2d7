"""Tokens find their place in the text, and models walk it together without skipping one."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from laminogram.studies.lockstep import character_spans, index_frames, lockstep_frames

cuts = st.lists(st.integers(1, 6), min_size=1, max_size=20)


def cut(text, sizes):
    ends = [end for end in itertools.accumulate(sizes) if end < len(text)]
    return [text[a:b] for a, b in itertools.pairwise([0, *ends, len(text)])]


@given(st.text(min_size=1, max_size=40), cuts)
def test_exact_pieces_have_exact_spans(text, sizes):
    pieces = cut(text, sizes)
    for piece, (start, end) in zip(pieces, character_spans(pieces, text), strict=True):
        assert text[start:end] == piece


def test_a_mark_before_the_text_is_empty_and_generated_tokens_go_on():
    spans = character_spans(["<s>", "ab", " c", " more"], "ab c")
    assert spans == [(0, 0), (0, 2), (2, 4), (4, 9)]


def test_pieces_of_one_character_share_its_place():
    # The last of the pieces that are not text by themselves takes what lies between.
    assert character_spans(["a", "\ufffd", "\ufffd", "b"], "a🐍b") == [
        (0, 1),
        (1, 1),
        (1, 2),
        (2, 3),
    ]


def test_a_space_that_only_the_tokenizer_sees_is_forgiven():
    assert character_spans([" What", " is"], "What is") == [(0, 4), (4, 7)]


@given(st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=12), min_size=1, max_size=3))
def test_no_token_is_skipped_and_time_never_runs_back(ends):
    ends = [sorted(one) for one in ends]
    frames = lockstep_frames(ends)
    for model, one in enumerate(ends):
        seen = [frame[model] for frame in frames]
        assert seen == sorted(seen)
        assert set(seen) == set(range(len(one)))


@given(cuts, cuts)
def test_both_panels_show_the_same_character(first, second):
    text = "x" * 30
    pieces = [cut(text, first), cut(text, second)]
    spans = [character_spans(one, text) for one in pieces]
    for frame in lockstep_frames([[end for _, end in one] for one in spans]):
        shown = [one[token] for one, token in zip(spans, frame, strict=True)]
        place = min(end for _, end in shown)
        assert all(start < place <= end for start, end in shown)


def test_by_index_the_shorter_holds_its_last():
    assert index_frames([2, 3]) == [(0, 0), (1, 1), (1, 2)]
    assert index_frames([]) == lockstep_frames([]) == []
