"""Every format: found by its files, read as its reference does, extended, saved, read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from tests.tokenizers.small import (
    AWKWARD,
    TEXTS,
    bert_folder,
    gpt2_folder,
    json_folder,
    ranks,
    sentencepiece_model,
    world_lines,
    write_ranks,
)

from laminogram.errors import CheckpointError, TokenError
from laminogram.families._text import BOS, CHATGLM, QWEN
from laminogram.families.base import TextHabits
from laminogram.tokenizers import FastTokenizer, Tokenizer, load_tokenizer

MAKERS: dict[str, Callable[[Path], object]] = {
    "json": json_folder,
    "tiktoken": lambda folder: write_ranks(folder / "small.tiktoken", ranks()),
    "tiktoken model": lambda folder: write_ranks(folder / "tokenizer.model", ranks()),
    "sentencepiece": lambda folder: (folder / "tokenizer.model").write_bytes(sentencepiece_model()),
    "world": lambda folder: (folder / "rwkv_vocab_v1.txt").write_text(world_lines(), "utf-8"),
    "gpt2": gpt2_folder,
    "bert": bert_folder,
}


def made(folder: Path, kind: str, **how) -> Tokenizer:
    MAKERS[kind](folder)
    tokenizer = load_tokenizer(folder, **how)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("kind", list(MAKERS))
def test_added_tokens_are_kept_in_step_and_saved(tmp_path: Path, kind: str) -> None:
    before = made(tmp_path, kind)
    names = ["<|think|>", "the cat", "<|th"]
    after = before.with_added(names)
    size = before.vocab_size
    assert [after.id_of(name) for name in names] == [size, size + 1, size + 2]
    assert (before.vocab_size, after.vocab_size) == (size, size + 3)
    assert after.encode("<|think|>", bos=False) == [size]
    assert after.token_texts([size]) == ["<|think|>"]
    assert after.decode([size, size + 2]).replace(" ", "") == "<|think|><|th"
    assert before.id_of("<|think|>") is None
    assert before.encode("the mat!", bos=False) == after.encode("the mat!", bos=False)
    saved = tmp_path / "saved"
    after.save(saved)
    again = load_tokenizer(saved)
    assert again is not None and again.vocab_size == after.vocab_size
    for text in (*AWKWARD, "x<|think|> the cat y<|th"):
        for bos in (None, False):
            assert again.encode(text, bos) == after.encode(text, bos)
        ids = after.encode(text)
        assert again.decode(ids) == after.decode(ids)
    assert again.with_added(["<more>"]).id_of("<more>") == size + 3
    for wrong, why in [("<|think|>", "is token"), ("", "empty"), ("<a>", "named twice")]:
        with pytest.raises(TokenError, match=why):
            after.with_added(["<a>", wrong])
    assert after.with_added([]) is after


@pytest.mark.parametrize("kind", ["tiktoken", "sentencepiece"])
def test_what_texts_begin_with_survives_saving(tmp_path: Path, kind: str) -> None:
    habits = CHATGLM if kind == "sentencepiece" else TextHabits(prefixes=(("<|x|>",),))
    MAKERS[kind](tmp_path)
    if kind == "tiktoken":
        listed = {"added_tokens_decoder": {"300": {"content": "<|x|>"}}, "chat_template": "{{ 1 }}"}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(listed))
    before = load_tokenizer(tmp_path, habits=habits)
    assert before is not None and before.prefix
    before.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved", habits=habits)
    assert again is not None
    assert (
        again.encode("the cat") == before.encode("the cat") != before.encode("the cat", bos=False)
    )
    if kind == "tiktoken":
        assert (again.prefix, again.chat([])) == ((300,), "1")


@pytest.mark.parametrize(
    ("kind", "theirs", "lower"),
    [
        ("bert", "BertTokenizer", True),
        ("bert", "BertTokenizer", False),
        ("gpt2", "GPT2Tokenizer", None),
    ],
)
def test_ids_are_those_of_transformers(
    tmp_path: Path, kind: str, theirs: str, lower: bool | None
) -> None:
    import transformers

    MAKERS[kind](tmp_path)
    if lower is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    ours = load_tokenizer(tmp_path)
    assert ours is not None
    reference = getattr(transformers, theirs).from_pretrained(str(tmp_path))

    @settings(deadline=None, max_examples=60, database=None)
    @given(TEXTS)
    def check(text: str) -> None:
        assert ours.encode(text) == reference(text)["input_ids"]

    for text in (*AWKWARD, "The CATS a Café! 猫猫 [MASK] [CLS]"):
        check.hypothesis.inner_test(text)
    check()


def test_a_tokenizer_json_says_itself_what_texts_begin_with(tmp_path: Path) -> None:
    tokenizer = made(tmp_path, "json", bos=0, eos=(0,))
    text = "the hat — 猫"
    plain = tokenizer.encode(text, bos=False)
    assert tokenizer.encode(text) == tokenizer.encode(text, bos=True) == [0, *plain]
    assert tokenizer.decode(plain) == text
    assert tokenizer.decode([0, *plain], skip_special=True) == text
    assert len(plain) > 2  # its truncation is off
    assert (tokenizer.bos, tokenizer.eos, tokenizer.prefix) == (0, (0,), (0,))
    texts = tokenizer.token_texts(plain)
    assert len(texts) == len(plain) and all(texts) and texts[0] == "the"
    assert tokenizer.token_texts([9999]) == ["<9999>"]
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    silent = load_tokenizer(tmp_path, bos=0, habits=BOS)
    assert silent is not None
    assert (silent.prefix, silent.encode(text)) == ((), plain)
    # A file without post-processing begins texts with nothing, whatever the family does.
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "post_processor": None}))
    (tmp_path / "tokenizer_config.json").unlink()
    bare = load_tokenizer(tmp_path, bos=0, habits=BOS)
    assert bare is not None and bare.prefix == () and bare.encode(text) == plain


def test_the_first_format_wins(tmp_path: Path) -> None:
    for kind in ("bert", "gpt2", "world"):
        MAKERS[kind](tmp_path)
    first = load_tokenizer(tmp_path)
    assert first is not None and not isinstance(first, FastTokenizer)
    MAKERS["tiktoken"](tmp_path)
    second = load_tokenizer(tmp_path, habits=QWEN)
    assert second is not None and second.id_of("<|im_end|>") == 302
    assert load_tokenizer(made_empty(tmp_path)) is None
    assert load_tokenizer(made_empty(tmp_path) / "x.pth") is None


def made_empty(folder: Path) -> Path:
    (folder / "empty").mkdir(exist_ok=True)
    return folder / "empty"


@pytest.mark.parametrize(
    ("kind", "file", "content", "message"),
    [
        ("json", "tokenizer.json", "{}", "no readable tokenizer"),
        ("json", "tokenizer.json", '{"version": "1.0", "trunc', "no readable tokenizer"),
        ("json", "tokenizer.json", b"\xff\xfe", "no readable tokenizer"),
        ("json", "tokenizer_config.json", "{", "no readable JSON"),
        ("json", "tokenizer_config.json", b"\xff", "no readable JSON"),
        ("json", "tokenizer_config.json", "[" * 100_000, "no readable JSON"),
        ("json", "special_tokens_map.json", "[1]", "holds a list; expected an object"),
        ("json", "chat_template.jinja", b"\xff", "is no readable text"),
        ("world", "added_tokens.json", '{"<a>": "x"}', "added token '<a>' with id 'x'"),
        (
            "world",
            "added_tokens.json",
            '{"<a>": 900, "<b>": 900}',
            "both '<a>' and '<b>'",
        ),
        ("bert", "vocab.txt", "[UNK]\n[CLS]\n[SEP]\na\na\n", "names the token 'a' twice"),
        ("bert", "vocab.txt", "[UNK]\na\n", r"lacks the special tokens \[CLS\], \[SEP\]"),
        ("bert", "vocab.txt", b"\xff\n", "no readable vocabulary"),
        ("gpt2", "merges.txt", "a b c\n", "line 1: 'a b c' is no pair"),
        ("gpt2", "merges.txt", "a nosuch\n", "does not fit vocab.json"),
        ("gpt2", "merges.txt", b"\xff\n", "no readable list of merges"),
        ("gpt2", "vocab.json", '{"a": "1"}', "'a' has the id '1'"),
        ("gpt2", "added_tokens.json", '{"<a>": 9999}', "'<a>' has the id 9999; .* goes on with"),
    ],
)
def test_damaged_files_are_refused_by_name(
    tmp_path: Path, kind: str, file: str, content: str | bytes, message: str
) -> None:
    MAKERS[kind](tmp_path)
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CheckpointError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert file in str(caught.value) or str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_any_text_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    tokenizer = made(tmp_path, kind)
    with pytest.raises(TokenError, match="character 2 is the lone surrogate"):
        tokenizer.encode("ab\ud83d")
    with pytest.raises(CheckpointError, match="names no bos token"):
        load_tokenizer(json_folder(made_empty(tmp_path))).encode("x", bos=True)  # type: ignore[union-attr]
    for text in AWKWARD:
        ids = tokenizer.encode(text)
        assert all(0 <= one < tokenizer.vocab_size for one in ids)
        assert len(tokenizer.token_texts(ids)) == len(ids)
    assert tokenizer.name_of(tokenizer.vocab_size + 5) is None
    assert tokenizer.name_of(-1) is None
    assert tokenizer.decode([tokenizer.vocab_size + 5]) == ""
    with pytest.raises(TokenError, match="no chat template"):
        tokenizer.chat([])
