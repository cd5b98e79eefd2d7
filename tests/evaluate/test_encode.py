from __future__ import annotations

import pytest
from tests.infer.speaking import byte_tokenizer, speaking_view
from tests.stacks import view_of

from laminogram.errors import ConfigError, TokenError
from laminogram.evaluate.encode import Encoder, Row


def test_the_space_between_belongs_to_the_continuation() -> None:
    encoder, whole = Encoder(speaking_view("llama")), byte_tokenizer().encode("so the")
    for context, continuation in (("so", " the"), ("so ", "the")):
        row = encoder.pair(context, continuation)
        assert row == Row(tuple(whole), 1)


def test_what_is_too_long_loses_its_beginning() -> None:
    encoder = Encoder(speaking_view("llama"), max_length=5)
    row = encoder.pair("abcdefgh", "xy")
    assert row.scored == 2
    assert row.tokens == tuple(byte_tokenizer().encode("efghxy"))
    assert encoder.prompt("abcdefgh", 2) == tuple(byte_tokenizer().encode("fgh"))


@pytest.mark.parametrize("continuation", ["", "abcdef"])
def test_a_continuation_has_tokens_and_no_more_than_the_model_reads(continuation: str) -> None:
    encoder = Encoder(speaking_view("llama"), max_length=5)
    with pytest.raises(TokenError):
        encoder.pair("a", continuation)


def test_no_room_for_new_tokens_is_an_error() -> None:
    with pytest.raises(TokenError, match="8 new tokens"):
        Encoder(speaking_view("llama"), max_length=8).prompt("a", 8)


def test_an_empty_context_needs_a_token_of_its_own() -> None:
    with pytest.raises(TokenError, match="begin-of-text"):
        Encoder(speaking_view("llama")).pair("", "abc")


def test_text_needs_a_tokenizer_and_a_length_that_holds_two_tokens() -> None:
    with pytest.raises(TokenError, match="no tokenizer"):
        Encoder(view_of("llama"))
    with pytest.raises(ConfigError, match="max_length is 1"):
        Encoder(speaking_view("llama"), max_length=1)
