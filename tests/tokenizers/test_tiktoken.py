"""Rank files, against the tiktoken package."""

from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizers.small import AWKWARD, TEXTS, ranks, write_ranks

from laminogram.errors import CheckpointError
from laminogram.families._text import CHATGLM, LLAMA, QWEN
from laminogram.tokenizers import FastTokenizer, load_tokenizer

HABITS = {"qwen": QWEN, "llama": LLAMA}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


def both(folder: Path, seed: int, family: str) -> tuple[FastTokenizer, tiktoken.Encoding]:
    table, habits = ranks(seed, 330), HABITS[family]
    write_ranks(folder / "small.tiktoken", table)
    ours = load_tokenizer(folder, habits=habits)
    assert isinstance(ours, FastTokenizer)
    special = {name: 330 + place for place, name in enumerate(habits.tiktoken.special)}
    theirs = tiktoken.Encoding(
        "small", pat_str=habits.tiktoken.pattern, mergeable_ranks=table, special_tokens=special
    )
    return ours, theirs


@pytest.mark.parametrize("family", list(HABITS))
@pytest.mark.parametrize("seed", range(3))
def test_ids_are_those_of_tiktoken(folder: Path, family: str, seed: int) -> None:
    ours, theirs = both(folder, seed, family)

    @settings(deadline=None, max_examples=40, database=None)
    @given(TEXTS)
    def check(text: str) -> None:
        if HABITS[family].tiktoken.nfc:  # as the hub's own code does before tiktoken
            text = unicodedata.normalize("NFC", text)
        ids = ours.encode(text, bos=False)
        assert ids == theirs.encode(text, allowed_special="all")
        assert ours.decode(ids) == text

    for text in AWKWARD:
        check.hypothesis.inner_test(text)
    check()


@settings(deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False), st.text(st.sampled_from("ab "), max_size=40))
def test_any_order_of_ranks_merges_as_tiktoken(chance, text):
    """Tables that no training would give, over two letters, where ways to merge compete."""
    from laminogram.families.base import TiktokenHabits
    from laminogram.tokenizers import tiktoken as reading

    words = [chance.choices(b"ab", k=chance.randint(2, 5)) for _ in range(12)]
    tokens = list(dict.fromkeys([*(bytes([v]) for v in range(256)), *map(bytes, words)]))
    table = {token: rank for rank, token in enumerate(tokens)}
    theirs = tiktoken.Encoding("x", pat_str=r"[ab]+| +", mergeable_ranks=table, special_tokens={})
    inner = reading._build(table, {}, TiktokenHabits(pattern=r"[ab]+| +"))
    assert inner.encode(text).ids == theirs.encode(text)


def test_special_tokens_follow_the_ranks(folder: Path) -> None:
    ours, _ = both(folder, 0, "qwen")
    assert ours.encode("<|im_start|>a<|extra_204|>")[::2] == [331, 330 + 207]
    assert ours.vocab_size == 330 + 208
    assert ours.decode([331], skip_special=True) == ""
    assert ours.prefix == ()
    llama, _ = both(folder, 0, "llama")
    assert llama.id_of("<|begin_of_text|>") == 330
    assert llama.vocab_size == 330 + 256
    assert llama.id_of("<|eot_id|>") == 339


def test_a_model_file_in_this_format_and_its_listed_tokens(tmp_path: Path) -> None:
    write_ranks(tmp_path / "tokenizer.model", ranks())
    added = {
        str(300 + i): {"content": name} for i, name in enumerate(("[gMASK]", "<sop>", "<|user|>"))
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    tokenizer = load_tokenizer(tmp_path, habits=CHATGLM)
    assert tokenizer is not None
    assert tokenizer.prefix == (300, 301)
    assert tokenizer.encode("<|user|>") == [300, 301, 302]
    assert tokenizer.encode("<|user|>", bos=False) == [302]
    added["299"] = {"content": "<again>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": added}))
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: id 299 is both .* and '<again>'"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (base64.b64encode(b"zz") + b" 7", "line 257: rank 7 or its token stands twice"),
        (base64.b64encode(b"a") + b" 999", "line 257: .* stands twice"),
        (b"%%%% 999", "line 257: .* is no base64 and rank"),
        (b"YWE= minus", "line 257: .* is no base64 and rank"),
        (b"\xff\xfe\x00", "line 257: .* is no base64 and rank"),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, line: bytes, message: str) -> None:
    file = write_ranks(tmp_path / "small.tiktoken", ranks(0, 256))
    file.write_bytes(file.read_bytes() + line + b"\n")
    with pytest.raises(CheckpointError, match=rf"small\.tiktoken, {message}"):
        load_tokenizer(tmp_path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = write_ranks(tmp_path / "small.tiktoken", ranks())
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:200]))
    with pytest.raises(CheckpointError, match="lacks 56 of the 256 single bytes"):
        load_tokenizer(tmp_path)
