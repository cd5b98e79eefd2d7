"""Sentencepiece models: between names the ids are the package's own."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from tests.tokenizers.small import AWKWARD, TEXTS, sentencepiece_model

from laminogram.errors import CheckpointError, TokenError
from laminogram.families._text import BAICHUAN, BOS, CHATGLM
from laminogram.families.base import TextHabits
from laminogram.tokenizers import Tokenizer, find_tokenizer, finding, load_tokenizer


def opened(folder: Path, kind: str = "bpe", config: dict | None = None, **how) -> Tokenizer:
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(kind))
    (folder / "tokenizer_config.json").write_text(json.dumps(config or {}))
    tokenizer = load_tokenizer(folder, **how)
    assert tokenizer is not None
    return tokenizer


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_ids_and_texts_are_those_of_the_package(tmp_path: Path, kind: str) -> None:
    ours = opened(tmp_path, kind)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))

    @settings(deadline=None, max_examples=100, database=None)
    @given(TEXTS)
    def check(text: str) -> None:
        ids = ours.encode(text, bos=False)
        assert ids == theirs.encode(text)
        assert ours.decode(ids) == theirs.decode(ids)

    for text in AWKWARD[:-1]:  # the last one has names of control pieces
        check.hypothesis.inner_test(text)
    check()
    assert ours.vocab_size == theirs.get_piece_size()
    with pytest.raises(TokenError, match="lone surrogate"):
        ours.encode("\udc00")


def test_names_are_tokens_and_what_follows_keeps_its_space(tmp_path: Path) -> None:
    ours = opened(tmp_path)
    plain = ours.encode("the cat", bos=False)
    assert ours.encode("<s>the cat</s>", bos=False) == [1, *plain, 2]
    assert ours.decode([1, *plain, 2]) == "<s>the cat</s>"
    assert ours.decode([1, *plain, 2], skip_special=True) == "the cat"
    assert ours.id_of("<unk>") == 0 and ours.id_of("no such piece") is None
    # Without `legacy` nothing is put in front of a text that follows a name.
    exact = opened(tmp_path, config={"legacy": False})
    later = exact.encode("<s>the cat", bos=False)[1:]
    assert later != plain
    assert exact.encode("<s> the cat", bos=False)[1:] == plain
    assert exact.decode([1, *later]) == "<s>the cat"


def test_who_says_whether_texts_begin_with_bos(tmp_path: Path) -> None:
    for said, habits, on in [
        (None, BOS, True),
        (None, TextHabits(), False),
        (False, BOS, False),
        (True, TextHabits(), True),
    ]:
        config = {} if said is None else {"add_bos_token": said}
        ours = opened(tmp_path, config=config, bos=1, eos=(2,), habits=habits)
        assert ours.prefix == ((1,) if on else ())
        assert ours.encode("a") == ours.encode("a", bos=on)
        assert ours.encode("a", bos=True)[0] == 1
    named = opened(tmp_path, config={"bos_token": {"content": "<s>"}, "eos_token": "</s>"})
    assert (named.bos, named.eos, named.prefix) == (1, (2,), ())


def test_names_that_only_the_hub_s_code_lists(tmp_path: Path) -> None:
    ours = opened(tmp_path, habits=CHATGLM)
    size = ours.vocab_size - 9
    assert [ours.id_of(name) for name in ("[gMASK]", "sop", "<|user|>")] == [
        size + place for place in (1, 3, 6)
    ]
    assert ours.encode("the")[:2] == [size + 1, size + 3]
    chat = ours.chat_ids([{"role": "user", "content": "the cat"}])
    assert size + 4 not in ours.encode("people")  # "eop" is a token, and no part of a word
    # Prefix, role, a line break, the words.
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    words = [*theirs.encode("\n"), *theirs.encode("the cat")]
    assert chat == [size + 1, size + 3, size + 6, *words, size + 7]
    template = "[gMASK]sop{% for one in messages %}<|user|>{{ one.content }}{% endfor %}"
    written = opened(tmp_path, config={"chat_template": template}, habits=CHATGLM)
    spelled = written.chat_ids([{"role": "user", "content": "sop people"}])
    assert spelled == [size + 1, size + 3, size + 6, *theirs.encode("sop people")]
    with pytest.raises(CheckpointError, match=r"begin with '\[gMASK\]', which is no token"):
        opened(tmp_path, habits=TextHabits(prefixes=(("[gMASK]",),))).encode("a")


def test_pieces_that_users_defined_are_read_in_chats(tmp_path: Path) -> None:
    ours = opened(tmp_path, habits=BAICHUAN)
    ids = ours.encode(ours.chat([{"role": "user", "content": "the"}]), bos=False)
    assert ours.id_of("<reserved_106>") in ids


def test_an_earlier_vocabulary_has_a_chat_of_its_own(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "the"}]
    for size, text in [(64_000, "<reserved_102>the<reserved_103>"), (125_696, None), (None, None)]:
        ours = opened(tmp_path, habits=BAICHUAN, vocab_size=size)
        assert ours.chat(said) == (text or "<reserved_106>the<reserved_107>")


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.model"
    whole = sentencepiece_model()
    for size in [0, 1, 5, *range(7, len(whole) - 1, len(whole) // 25)]:
        file.write_bytes(whole[:size])
        with suppress(CheckpointError):  # some cuts leave a smaller model
            load_tokenizer(tmp_path)
    file.write_bytes(whole[:5])
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is"):
        load_tokenizer(tmp_path)


def test_without_the_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentencepiece_model())
    monkeypatch.setattr(finding.sentencepiece, "find_spec", lambda name: None)
    found = find_tokenizer(tmp_path)
    assert found.tokenizer is None
    assert "pip install 'laminogram[sentencepiece]'" in found.missing
