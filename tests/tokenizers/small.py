"""Small tokenizers of every format, made on the spot, and texts that are awkward to read."""

from __future__ import annotations

import base64
import io
import json
import random
from collections.abc import Iterable
from pathlib import Path

from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

LINES = ["the cat and the hat", "a river ran to the sea", "naïve café", "猫が好き 人工智能"] * 4
AWKWARD = (
    "",
    " ",
    "the cat  sat\n\n\ton the\r\nmat   ",
    "12345 67,890.5 it's IT'S don't ſ's",
    "猫と犬 人工智能是计算机科学的一个分支",
    "👩‍👩‍👧‍👦🏳️‍🌈 é é ﬁ İ",
    "a" * 3000 + " " * 3000 + "ab" * 1500,
    "\x00\x01\u0085\u00a0\u3000\ufeff\ufffd\U0010ffff",
    "".join(map(chr, range(32, 700))),
    "<|im_start|>user\nhi<|im_end|><s></s>",
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(st.sampled_from("ab the\n\t 'sS1猫é🏳️‍"), max_size=60),
)


def json_folder(folder: Path) -> Path:
    """A byte-level tokenizer.json that begins texts with <s>, and would pad and truncate."""
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(LINES, trainer)
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    inner.enable_padding(length=64)
    inner.enable_truncation(max_length=2)
    inner.save(str(folder / "tokenizer.json"))
    return folder


def ranks(seed: int = 0, count: int = 300) -> dict[bytes, int]:
    """A rank table: all bytes in some order, then joins of tokens before; most lie in LINES."""
    chance = random.Random(seed)
    order = [bytes([value]) for value in range(256)]
    chance.shuffle(order)
    table = {token: rank for rank, token in enumerate(order)}
    texts = [line.encode() for line in (*LINES[:4], "aaaabababaa    ", "\n\n\n")]
    while len(table) < count:
        text = chance.choice(texts)
        start = chance.randrange(len(text) - 1)
        token = text[start : start + chance.randint(2, 6)]
        cuts = (token[:i] in table and token[i:] in table for i in range(1, len(token)))
        # Some tokens that no merge reaches: only a whole piece is ever one of them.
        if token not in table and (any(cuts) or chance.random() < 0.1):
            table[token] = len(table)
    return table


def write_ranks(file: Path, table: dict[bytes, int]) -> Path:
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in table.items())
    file.write_bytes(b"".join(lines))
    return file


def sentencepiece_model(kind: str = "bpe") -> bytes:
    """A small sentencepiece model with byte fallback, as Llama's."""
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES),
        model_writer=out,
        model_type=kind,
        vocab_size=330,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols=["<reserved_106>"],
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return out.getvalue()


def world_lines(words: Iterable[str | bytes] = ()) -> str:
    """A World vocabulary: all bytes, and some words."""
    singles = [chr(v) if v < 128 else bytes([v]) for v in range(256)]
    tokens = [*singles, *(words or ("the", " the", " t", "猫", b"\xe7\x8c", "\n\n", "   "))]
    size = [len(t.encode() if isinstance(t, str) else t) for t in tokens]
    return "".join(f"{i} {t!r} {n}\n" for i, (t, n) in enumerate(zip(tokens, size, strict=True), 1))


def bert_folder(folder: Path) -> Path:
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "the",
        "cat",
        "##s",
        "a",
        "猫",
        "cafe",
        "!",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def gpt2_folder(folder: Path) -> Path:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(LINES, trainer)
    inner.model.save(str(folder))
    config = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
