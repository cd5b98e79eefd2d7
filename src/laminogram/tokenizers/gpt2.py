"""GPT-2's pair of files: vocab.json (token to id) and merges.txt, for byte-level BPE."""

from __future__ import annotations

from pathlib import Path

from laminogram.errors import CheckpointError
from laminogram.tokenizers.base import Manner
from laminogram.tokenizers.fast import FastTokenizer
from laminogram.tokenizers.settings import read_object

VOCABULARY, MERGES = "vocab.json", "merges.txt"


def read_gpt2(folder: Path, manner: Manner) -> FastTokenizer:
    """The two files of a folder; CheckpointError names the one that is damaged."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from tokenizers import pre_tokenizers as pre

    settings = manner.settings
    space = settings.flag("add_prefix_space") is True
    vocabulary, merges = read_object(folder / VOCABULARY), _merges(folder / MERGES)
    for name, number in vocabulary.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise CheckpointError(f"{folder / VOCABULARY}: {name!r} has the id {number!r}")
    try:
        inner = Tokenizer(models.BPE(vocabulary, merges))
    # The binding raises bare Exception where a merge names a token that does not exist.
    except Exception as error:
        raise CheckpointError(f"{folder / MERGES} does not fit {VOCABULARY}: {error}") from error
    inner.pre_tokenizer = pre.ByteLevel(add_prefix_space=space)
    inner.decoder = decoders.ByteLevel()
    special = [name for name in settings.special.values() if name in vocabulary]
    inner.add_special_tokens(
        [AddedToken(name, normalized=False) for name in dict.fromkeys(special)]
    )
    for number, name in settings.added.items():
        inner.add_special_tokens([AddedToken(name, normalized=False)])
        if inner.token_to_id(name) != number:
            raise CheckpointError(
                f"{folder}: added token {name!r} has the id {number}; the vocabulary goes on with "
                f"{inner.token_to_id(name)}"
            )
    return FastTokenizer(inner, manner, complete=False)


def _merges(file: Path) -> list[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} is no readable list of merges: {error}") from error
    merges = []
    for place, line in enumerate(lines, 1):
        pair = line.rstrip("\r").split(" ")
        if pair == [""] or (place == 1 and line.startswith("#version")):
            continue
        if len(pair) != 2:
            raise CheckpointError(f"{file}, line {place}: {line[:60]!r} is no pair of tokens")
        merges.append((pair[0], pair[1]))
    return merges
