"""BERT's vocab.txt: one token a line, its id the number of the line, matched by WordPiece."""

from __future__ import annotations

from pathlib import Path

from laminogram.errors import CheckpointError
from laminogram.tokenizers.base import Manner
from laminogram.tokenizers.fast import FastTokenizer

FILE = "vocab.txt"
_ROLES = {
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "mask_token": "[MASK]",
}


def read_wordpiece(file: Path, manner: Manner) -> FastTokenizer:
    """A vocab.txt, lower-cased unless the settings say `do_lower_case: false`.

    CheckpointError where the file is no text, names a token twice or lacks a special token.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from tokenizers import pre_tokenizers as pre

    vocabulary = _vocabulary(file)
    settings = manner.settings
    names = {role: settings.special.get(role, usual) for role, usual in _ROLES.items()}
    needed = [names[role] for role in ("unk_token", "cls_token", "sep_token")]
    missing = [name for name in needed if name not in vocabulary]
    if missing:
        raise CheckpointError(f"{file} lacks the special tokens {', '.join(missing)}")
    unk, cls, sep = needed
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token=unk, max_input_chars_per_word=100))
    inner.normalizer = normalizers.BertNormalizer(
        lowercase=settings.flag("do_lower_case") is not False,
        strip_accents=settings.flag("strip_accents"),
        handle_chinese_chars=settings.flag("tokenize_chinese_chars") is not False,
    )
    inner.pre_tokenizer = pre.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    inner.post_processor = processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(name, vocabulary[name]) for name in (cls, sep)],
    )
    present = [name for name in names.values() if name in vocabulary]
    inner.add_special_tokens([AddedToken(name, normalized=False) for name in present])
    return FastTokenizer(inner, manner)


def _vocabulary(file: Path) -> dict[str, int]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is no readable vocabulary: {error}") from error
    tokens = [line.rstrip("\r") for line in lines]
    if not tokens[-1]:
        tokens.pop()
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) != len(tokens):
        twice = next(token for number, token in enumerate(tokens) if vocabulary[token] != number)
        raise CheckpointError(f"{file} names the token {twice!r} twice")
    return vocabulary
