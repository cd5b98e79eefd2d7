"""RWKV's World vocabulary, against the tokenizer of the `rwkv` package."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizers.small import AWKWARD, TEXTS, world_lines

from laminogram.errors import CheckpointError, TokenError
from laminogram.families._text import RWKV, SharedVocabulary
from laminogram.families.base import TextHabits
from laminogram.tokenizers import find_tokenizer, load_tokenizer
from laminogram.tokenizers.world import LongestMatch, WorldTokenizer, read_world


def package() -> Path:
    spec = importlib.util.find_spec("rwkv")
    assert spec is not None and spec.submodule_search_locations
    return Path(next(iter(spec.submodule_search_locations)))


@pytest.fixture(scope="module")
def world() -> WorldTokenizer:
    return read_world(package() / "rwkv_vocab_v20230424.txt")


@pytest.fixture(scope="module")
def theirs() -> Any:
    spec = importlib.util.spec_from_file_location("rwkv_trie", package() / "rwkv_tokenizer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.TRIE_TOKENIZER(str(package() / "rwkv_vocab_v20230424.txt"))


def test_ids_are_those_of_the_package(world: WorldTokenizer, theirs: Any) -> None:
    @settings(deadline=None, max_examples=200, database=None)
    @given(TEXTS)
    def check(text: str) -> None:
        ids = world.encode(text)
        assert ids == theirs.encode(text)
        assert world.decode(ids) == text

    for text in (*AWKWARD, " " * 5000, "\n" * 5000, "-" * 999, Path(__file__).read_text()):
        check.hypothesis.inner_test(text)
    check()


def test_bytes_that_are_no_text_match_alike(world: WorldTokenizer, theirs: Any) -> None:
    chance = random.Random(0)
    match = world._match
    broken = "猫🏳️‍🌈 the é".encode()
    rows = [
        bytes(range(256)) * 3,
        *(broken[i:j] for i in range(len(broken)) for j in range(i + 1, 19)),
    ]
    rows += [chance.randbytes(2000) for _ in range(10)]
    for row in rows:
        ids = match(row)
        assert ids == theirs.encodeBytes(row)
        assert world.decode(ids) == row.decode(errors="replace")


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.binary(min_size=2, max_size=7).map(lambda b: bytes(x % 4 + 31 for x in b)), max_size=30
    ),
    st.binary(max_size=80).map(lambda b: bytes(x % 4 + 31 for x in b)),
)
def test_the_longest_token_is_taken_from_any_table(words: list[bytes], text: bytes) -> None:
    """Against the definition, over four bytes of which one is the space that cuts."""
    tokens = list(dict.fromkeys([*(bytes([v]) for v in range(256)), *words]))
    table = {token: number for number, token in enumerate(tokens, 1)}
    expected, rest = [], text
    while rest:
        best = max((token for token in table if rest.startswith(token)), key=len)
        expected.append(table[best])
        rest = rest[len(best) :]
    match = LongestMatch(table)
    assert match(text) == expected
    assert match(text) == expected  # remembered pieces


def test_the_end_of_text_has_an_id_and_no_bytes(world: WorldTokenizer) -> None:
    assert (world.vocab_size, world.prefix) == (65530, ())
    assert world.name_of(0) == "<|endoftext|>"
    assert world.decode([0]) == "<|endoftext|>"
    assert world.decode([0, 65], skip_special=True) == "@"
    assert 0 not in world.encode("<|endoftext|>")
    assert world.decode([65531, 65535]) == ""
    assert world.token_texts([0, 65, 65535, 129]) == ["<|endoftext|>", "@", "<65535>", "b'\\x80'"]
    with pytest.raises(TokenError, match="character 1 is the lone surrogate"):
        world.encode("a\ud800")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("257 __import__('os').getcwd() 3", "is no `id literal length`"),
        ("257 'ab' 3", "names no text of 3 bytes"),
        ("257 'ab'", "is no `id literal length`|names no text"),
        ("257 '' 0", "names no text"),
        ("257 ['a'] 1", "names no text"),
        ("x 'ab' 2", "is no `id literal length`"),
        ("257 'a 2", "is no `id literal length`"),
        ("257 'a' 1", "is named twice"),
        ("3 'ab' 2", "is named twice"),
        ("0 'ab' 2", "is named twice"),
        ("257 " + "(" * 4000 + " 2", "is no `id literal length`"),
    ],
)
def test_a_damaged_line_is_refused_and_never_run(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "rwkv_vocab_v20230424.txt"
    lines = world_lines([])
    assert lines.count("\n") == 263
    file.write_text("\n".join([*lines.split("\n")[:256], line]), encoding="utf-8")
    with pytest.raises(CheckpointError, match=rf"v20230424\.txt, line 257: .*({message})"):
        load_tokenizer(tmp_path)


def test_a_truncated_or_binary_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rwkv_vocab_v20230424.txt"
    file.write_text("".join(world_lines().splitlines(keepends=True)[:100]), encoding="utf-8")
    with pytest.raises(CheckpointError, match="lacks 156 of the 256 single bytes"):
        load_tokenizer(tmp_path)
    file.write_bytes(b"\xff\xfe1 'a' 1")
    with pytest.raises(CheckpointError, match="is no readable vocabulary"):
        load_tokenizer(tmp_path)


def test_a_file_without_a_tokenizer_gets_the_one_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = tmp_path / "x.pth"
    weights.touch()
    assert find_tokenizer(weights, habits=RWKV, vocab_size=100).missing == ""
    found = find_tokenizer(weights, bos=0, eos=(0,), habits=RWKV, vocab_size=65536).tokenizer
    assert isinstance(found, WorldTokenizer)
    assert (found.eos, found.prefix, found.vocab_size) == ((0,), (), 65530)
    pile = find_tokenizer(weights, habits=RWKV, vocab_size=50277)
    assert pile.tokenizer is None
    assert "50277 is that of 20B_tokenizer.json, which is in ChatRWKV's" in pile.missing
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr("laminogram.tokenizers.finding.find_spec", lambda name: None)
    missing = find_tokenizer(weights, habits=RWKV, vocab_size=65536)
    assert missing.tokenizer is None and "pip install rwkv" in missing.missing
    (tmp_path / "rwkv_vocab_v20230424.txt").write_text(world_lines(), encoding="utf-8")
    beside = find_tokenizer(weights, habits=RWKV, vocab_size=65536).tokenizer
    assert beside is not None and beside.vocab_size == 264


def test_a_list_of_literals_is_no_wordpiece_vocabulary(tmp_path: Path) -> None:
    """As the hub's RWKV-5 folders have it beside the weights: a Python literal a line."""
    (tmp_path / "vocab.txt").write_text("<s>\nb'\\x00'\nb'\\x01'\n")
    (tmp_path / "shared.txt").write_text(world_lines(), encoding="utf-8")
    habits = TextHabits(vocabularies=(SharedVocabulary(9, "shared.txt", "is nowhere"),))
    found = load_tokenizer(tmp_path, habits=habits, vocab_size=9)
    assert isinstance(found, WorldTokenizer)
