"""The loss of each token given those before it, teacher forced.

Axes: B rows, T tokens, C channels, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from laminogram.errors import FamilyError, TokenError
from laminogram.infer.text import UNKNOWN
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.sites import STACK_STEP

_CHUNK = 2**24
"""Logits that exist at one time: 64 MiB in fp32."""


@dataclass(frozen=True, eq=False)
class Loss:
    """Loss of predicted tokens; column t is that of token t + 1 of the input.

    per_token: (B, T-1) nats in fp32 (fp64 for fp64 weights), 0 where `mask` (B, T-1) is false: at
    pads and at each row's first token. text_bytes: UTF-8 bytes of the predicted text, None without
    a tokenizer or where the tokens are not whole characters.
    """

    per_token: Tensor
    mask: Tensor
    text_bytes: int | None = None

    @property
    def tokens(self) -> int:
        """How many tokens were predicted."""
        return int(self.mask.sum())

    @property
    def nats(self) -> float:
        """The sum over all predicted tokens."""
        return float(self.per_token.double().sum())

    @property
    def mean(self) -> float:
        """Nats a token, over every row."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(mean)."""
        return math.exp(self.mean)

    @property
    def bits_per_byte(self) -> float | None:
        """Bits for each byte of the predicted text; comparable across tokenizers."""
        return self.nats / math.log(2) / self.text_bytes if self.text_bytes else None

    def __str__(self) -> str:
        text = f"{self.mean:.4f} nats a token over {self.tokens} tokens"
        bits = self.bits_per_byte
        return text if bits is None else f"{text}, {bits:.4f} bits a byte"

    __repr__ = __str__


@torch.no_grad()
def loss(view: Subject, x: Text) -> Loss:
    """The loss of every token of `x` but each row's first, under the view's plan and edits.

    Logits are made and reduced in chunks, so that memory does not grow with T times V. FamilyError
    for an encoder or a model without a head, TokenError where no row has two tokens.
    """
    config = view.config
    if not config.causal:
        raise FamilyError(
            f"{view.name} ({config.family}) is an encoder: it sees every token that it would have "
            "to predict; its loss is that of masked tokens, which is another measure"
        )
    if not config.head.present:
        raise FamilyError(f"{view.name} has no language-model head, so it predicts no token")
    batch = view.tokens(x)
    if max(batch.lengths) < 2:
        raise TokenError("no row has two tokens: the loss is that of a token after another")
    aligned = _aligned(view, batch)
    # Column 0 of a row has no loss: with it the losses are laid out as the tokens are.
    whole = F.pad(aligned, (1, 0))
    real = batch.mask.to(whole.device)
    real = torch.cat((torch.zeros_like(real[:, :1]), real[:, 1:]), 1)
    losses, mask = batch.restore(whole), _restored_mask(batch, real)
    return Loss(
        torch.where(mask, losses, 0)[:, 1:].contiguous(),
        mask[:, 1:].contiguous(),
        _text_bytes(view, batch),
    )


def _aligned(view: Subject, batch: Batch) -> Tensor:
    """Loss (B, T-1) of rows that are left-aligned; undefined at pads."""
    stack = view.stack
    targets = batch.tokens[:, 1:].to(stack.head_device)
    program = view.program() if view.edits else None
    if program is not None and program.taps(STACK_STEP).wants("logits"):
        logits = view.run(batch, observer=program)[:, :-1]
        program.check()
        return _cross_entropy(logits.flatten(0, 1), targets.flatten()).view(targets.shape)
    final = view.run(batch, logits="none", observer=program)[:, :-1]
    if program is not None:
        program.check()
    rows = final.flatten(0, 1)
    chunk = max(1, _CHUNK // view.config.vocab_size)
    parts = [
        _cross_entropy(stack.head(part, stack.tied_table), wanted)
        for part, wanted in zip(rows.split(chunk), targets.flatten().split(chunk), strict=True)
    ]
    return torch.cat(parts).view(targets.shape)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, targets, reduction="none")


def _restored_mask(batch: Batch, real: Tensor) -> Tensor:
    """The mask in the user's layout; what `restore` repeats at left pads is false there."""
    mask: Tensor = batch.restore(real)
    columns = torch.arange(mask.shape[1], device=mask.device)
    return mask & (columns >= torch.tensor(batch.offsets, device=mask.device)[:, None])


def _text_bytes(view: Subject, batch: Batch) -> int | None:
    """UTF-8 bytes of every row's text after its first token."""
    if view.tokenizer is None:
        return None
    count = 0
    for row, length in zip(batch.tokens.tolist(), batch.lengths, strict=True):
        whole = view.tokenizer.decode(row[:length], skip_special=True)
        first = view.tokenizer.decode(row[:1], skip_special=True)
        if UNKNOWN in first or UNKNOWN in whole:
            return None
        count += len(whole.encode()) - len(first.encode())
    return count
