from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.infer.speaking import byte_tokenizer

from laminogram.errors import ConfigError
from laminogram.infer.text import UNKNOWN, CharacterStream, StopFilter, TextStream

Decode = Callable[[Sequence[int]], str]


def bytes_decoder(pieces: Sequence[bytes]) -> Decode:
    """Token i stands for the bytes pieces[i], as in a byte-level BPE."""
    return lambda ids: b"".join(pieces[i] for i in ids).decode("utf-8", "replace")


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """Data in pieces, at some of its places."""
    ends = sorted({p % (len(data) + 1) for p in places} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False) if a < b]


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=40), st.lists(st.integers(0, 200), max_size=60))
def test_only_whole_characters_are_shown(text: str, places: list[int]) -> None:
    pieces = cut(text.encode(), places)
    stream = CharacterStream(bytes_decoder(pieces))
    shown = ""
    for i in range(len(pieces)):
        fresh = stream.push(i)
        assert UNKNOWN not in fresh or UNKNOWN in text
        shown += fresh
        assert text.startswith(shown)
    assert shown + stream.close() == text


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=150), st.lists(st.integers(0, 200), max_size=200))
def test_broken_bytes_come_as_the_decoder_writes_them(data: bytes, places: list[int]) -> None:
    pieces = cut(data, places)
    decode = bytes_decoder(pieces)
    stream = CharacterStream(decode)
    shown = "".join(stream.push(i) for i in range(len(pieces))) + stream.close()
    assert shown == decode(range(len(pieces)))


@pytest.mark.parametrize("piece", [b"\xff", b"\x80", b"a", "é".encode(), b" \xf0\x9f", b""])
def test_the_work_for_one_token_is_bounded(piece: bytes) -> None:
    decoded = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal decoded
        decoded += len(ids)
        return (piece * len(ids)).decode("utf-8", "replace")

    stream = CharacterStream(decode)
    for _ in range(2000):
        stream.push(0)
    assert decoded < 2000 * 100


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1, max_size=30), st.text(max_size=10))
def test_a_byte_level_tokenizer_streams_its_own_decoding(text: str, prompt: str) -> None:
    tokenizer = byte_tokenizer()
    context, ids = tokenizer.encode(prompt), tokenizer.encode(text)
    stream = CharacterStream(tokenizer.decode, context)
    shown = "".join(stream.push(i) for i in ids) + stream.close()
    if not prompt.endswith(UNKNOWN):
        assert shown == tokenizer.decode(ids) == text


def test_a_decoder_that_drops_the_first_space_keeps_the_others() -> None:
    words = [" a", " b", "", " c", "d", " e"]

    def decode(ids: Sequence[int]) -> str:
        return "".join(words[i] for i in ids).removeprefix(" ")

    stream = CharacterStream(decode, context=[0])
    assert "".join(stream.push(i) for i in (1, 2, 3, 4, 5)) == " b cd e"
    fresh = CharacterStream(decode)
    assert "".join(fresh.push(i) for i in (1, 2, 3, 4, 5)) == "b cd e"


def test_a_character_begun_in_the_prompt_is_finished_in_the_text() -> None:
    stream = CharacterStream(bytes_decoder([b"x\xe2\x82", b"\xac", b"!"]), context=[0])
    assert [stream.push(1), stream.push(2)] == ["€", "!"]


@settings(max_examples=300, deadline=None)
@given(
    st.text("ab", max_size=25),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 30), max_size=12),
)
def test_nothing_of_a_stop_string_is_shown(text: str, stops: list[str], places: list[int]) -> None:
    whole, parts = StopFilter(stops), StopFilter(stops)
    expected = whole.push(text) + whole.close()
    shown = ""
    for piece in cut(text.encode(), places) if text else []:
        shown += parts.push(piece.decode())
        assert expected.startswith(shown)
    shown += parts.close()
    assert (shown, parts.stopped) == (expected, whole.stopped)
    if whole.stopped is None:
        assert shown == text
        assert not any(stop in text for stop in stops)
    else:
        # Before the end of the stop string that was found, no other one is complete.
        before = text[: len(expected) + len(whole.stopped)]
        assert before.endswith(whole.stopped)
        assert not any(stop in before[:-1] for stop in stops)


def test_text_stream_shows_pieces_and_stops_before_the_stop_string() -> None:
    pieces: list[str] = []
    table = [b"The \xe2", b"\x82", b"\xac en", b"d. Mo", b"re"]
    stream = TextStream(bytes_decoder(table), ["end."], show=pieces.append)
    assert [stream.push(i) for i in range(4)] == [False, False, False, True]
    assert stream.close()
    assert stream.text == "The € " == "".join(pieces)
    assert stream.stopped == "end."


def test_the_beginning_of_a_stop_string_is_shown_at_the_end() -> None:
    stream = TextStream(bytes_decoder([b"the en", b"d"]), "end.")
    stream.push(0)
    assert stream.text == "the "
    stream.push(1)
    assert not stream.close()
    assert stream.text == "the end"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one character"):
        StopFilter(["x", ""])
