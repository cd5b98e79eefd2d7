"""Questions out of any text: the last word of a passage, and how a passage goes on.

They follow two public benchmarks in form, LAMBADA (Paperno et al. 2016) and HellaSwag (Zellers et
al. 2019), without people's selection, so their figures belong to their text alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from typing import Any

from laminogram.errors import ConfigError

WORDS = 60
"""Words of a passage whose last one is asked for, about as many as in LAMBADA."""
GIVEN, GOES_ON = 40, 12
"""Words of a passage that are given, and of each continuation."""
LETTERS = 4
"""Letters that a word has at least that is asked for."""
CHOICES = 4


def last_words(texts: Iterable[str], words: int = WORDS) -> list[dict[str, Any]]:
    """Passages, field `text`, that end with a plain word of `LETTERS` letters or more.

    A passage is cut after the first such word from `words` on. ConfigError where none is found.
    """
    found = []
    for text in texts:
        tokens, begin = text.split(), 0
        for end in range(len(tokens)):
            word = tokens[end].rstrip(".,;:!?")
            if end - begin < words - 1 or len(word) < LETTERS or not word.isalpha():
                continue
            # Punctuation after the word would be part of what is asked for.
            found.append({"text": " ".join([*tokens[begin:end], word])})
            begin = end + 1
    return _needed(found, 1, words)


def continuations(texts: Iterable[str], seed: int = 0) -> list[dict[str, Any]]:
    """Questions with `query`, `choices` and `label`: which of `CHOICES` texts goes on.

    The wrong ones are how other passages of the same text go on. ConfigError where there are fewer
    passages than choices.
    """
    passages = list(_pairs(texts))
    draw = random.Random(seed)
    found = []
    for number, (query, right) in enumerate(passages):
        others = sorted({end for _, end in passages} - {right})
        if len(others) < CHOICES - 1:
            break
        choices = draw.sample(others, CHOICES - 1)
        label = draw.randrange(CHOICES)
        choices.insert(label, right)
        found.append({"query": query, "choices": choices, "label": label, "number": number})
    return _needed(found, CHOICES, GIVEN + GOES_ON)


def _pairs(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    for text in texts:
        words = text.split()
        for begin in range(0, len(words) - GIVEN - GOES_ON + 1, GIVEN + GOES_ON):
            middle = begin + GIVEN
            yield " ".join(words[begin:middle]), " ".join(words[middle : middle + GOES_ON])


def _needed(found: list[dict[str, Any]], least: int, words: int) -> list[dict[str, Any]]:
    if not found:
        raise ConfigError(
            f"the text is too short to make questions of: it needs at least {least} "
            f"passage{'s' if least > 1 else ''} of {words} words"
        )
    return found
