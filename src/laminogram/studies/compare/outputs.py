"""How far the predictions of two views lie apart, in what their vocabularies let one compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from laminogram.evaluate.divergence import Divergence, Estimate, divergence, mean_of_documents
from laminogram.evaluate.loss import loss
from laminogram.probe.subject import Subject
from laminogram.studies.compare.reading import Rows

SAME = (
    ("kl", "KL(reference || other), nats a token"),
    ("kl_reverse", "KL(other || reference), nats a token"),
    ("jsd", "Jensen-Shannon divergence, nats a token, at most 0.693"),
    ("total_variation", "total variation, 0 to 1"),
    ("agreement", "share of tokens with the same likeliest token"),
    ("log_ratio", "nats a token more of the other than of the reference"),
)
BITS = (
    ("bits_per_byte_reference", "bits a byte of the reference"),
    ("bits_per_byte", "bits a byte of the other"),
    ("bits_per_byte_difference", "bits a byte more of the other, paired by document"),
)


@dataclass(frozen=True)
class Measured:
    """One measure with its interval over documents, and what it is in words."""

    measure: str
    meaning: str
    estimate: Estimate


def predicts(view: Subject) -> bool:
    """Whether a view predicts next tokens."""
    return view.config.causal and view.config.head.present


def by_tokens(
    reference: Subject, other: Subject, rows: Rows, batch_size: int
) -> tuple[Divergence, list[Measured]]:
    """All measures of one vocabulary, token by token."""
    found = divergence(reference, other, [list(row) for row in rows], batch_size=batch_size)
    return found, [Measured(name, says, found.estimate(name)) for name, says in SAME]


def summed_nats(view: Subject, rows: Rows, batch_size: int) -> Tensor:
    """The loss of every document, summed over its predicted tokens, (D,) fp64."""
    sums = []
    for start in range(0, len(rows), batch_size):
        part = [list(row) for row in rows[start : start + batch_size]]
        with torch.no_grad():
            sums.append(loss(view, view.tokens(part)).per_token.double().sum(1).cpu())
    return torch.cat(sums)


def bytes_predicted(view: Subject, texts: Sequence[str], rows: Rows) -> Tensor:
    """UTF-8 bytes of every text but those of its first token where that is not predicted, (D,)."""
    tokenizer, found = view.needed_tokenizer(), []
    for text, row in zip(texts, rows, strict=True):
        given = tokenizer.decode([row[0]]) if row[0] != tokenizer.bos else ""
        found.append(len(text.encode()) - len(given.encode()))
    return torch.tensor(found, dtype=torch.float64)


def by_bytes(
    nats: tuple[Tensor, Tensor], sizes: tuple[Tensor, Tensor], paired: bool
) -> Iterator[Measured]:
    """Bits a byte of both sides, and their difference where both read the same documents."""
    bits = [one / np.log(2) for one in nats]
    for (name, says), sums, counts in zip(BITS, bits, sizes, strict=False):
        yield Measured(name, says, mean_of_documents(sums, counts))
    if paired:
        # Each side by its own bytes, which differ where first tokens do.
        apart = (bits[1] / sizes[1] - bits[0] / sizes[0]) * sizes[0]
        yield Measured(*BITS[2], mean_of_documents(apart, sizes[0]))
