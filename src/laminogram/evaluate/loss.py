"""The loss of each token given those before it, teacher forced.

Axes: B rows, T tokens, C channels, V vocabulary.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from laminogram.errors import FamilyError, TokenError
from laminogram.infer.text import UNKNOWN
from laminogram.plans import Plan
from laminogram.plans.tree import PlanTree
from laminogram.probe.subject import Subject, Text
from laminogram.stack.batch import Batch
from laminogram.stack.forward import Logits

CHUNK = 2**24
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
    check_predicts(view)
    batch = _batch(view, x)
    program = view.program() if view.edits else None
    out = view.run(batch, observer=program, logits=_wanted(view))
    if program is not None:
        program.check()
    return _loss(view, batch, out)


@torch.no_grad()
def losses(
    view: Subject, plans: Iterable[Plan | str], x: Text, *, progress: bool = True
) -> list[Loss]:
    """The loss of `x` under each of many plans, what they share at their beginning run once.

    How many layer calls that saves is printed to the terminal before the run. Errors as in `loss`,
    and PlanError for a plan that the stack cannot run.
    """
    check_predicts(view)
    batch = _batch(view, x)
    tree = PlanTree(map(Plan.of, [plans] if isinstance(plans, str | Plan) else plans))
    found: list[Loss | None] = [None] * len(tree.plans)
    with tqdm(total=len(found), unit="plan", disable=None if progress else True) as bar:
        if not bar.disable:
            bar.write(str(tree), file=sys.stderr)
        for number, out in view.sweep(tree, batch, logits=_wanted(view)):
            found[number] = _loss(view, batch, out)
            bar.update()
    return [one for one in found if one is not None]


def check_predicts(view: Subject) -> None:
    """FamilyError unless the model predicts each token from those before it."""
    config = view.config
    if not config.causal:
        raise FamilyError(
            f"{view.name} ({config.family}) is an encoder: it sees every token that it would have "
            "to predict; its loss is that of masked tokens, which is another measure"
        )
    if not config.head.present:
        raise FamilyError(f"{view.name} has no language-model head, so it predicts no token")


def _batch(view: Subject, x: Text) -> Batch:
    batch = view.tokens(x)
    if max(batch.lengths) < 2:
        raise TokenError("no row has two tokens: the loss is that of a token after another")
    return batch


def needs_all_logits(view: Subject) -> bool:
    """Whether an edit acts on the logits, so that they are made at once; else in chunks."""
    return any(edit.site == "logits" for edit in view.edits)


def _wanted(view: Subject) -> Logits:
    return "all" if needs_all_logits(view) else "none"


def _loss(view: Subject, batch: Batch, out: Tensor) -> Loss:
    """From what a run gave, logits (B, T, V) or what enters the head (B, T, C), to the losses."""
    targets = batch.tokens[:, 1:].to(out.device)
    if needs_all_logits(view):
        aligned = _cross_entropy(out[:, :-1].flatten(0, 1), targets.flatten()).view(targets.shape)
    else:
        aligned = _in_chunks(view, out[:, :-1], targets)
    # Column 0 of a row has no loss: with it the losses are laid out as the tokens are.
    whole = F.pad(aligned, (1, 0))
    real = batch.mask.to(whole.device)
    real = torch.cat((torch.zeros_like(real[:, :1]), real[:, 1:]), 1)
    # What `restore` repeats at pads is none of the row's.
    restored, mask = batch.restore(whole), batch.restore(real) & batch.restored_mask.to(real.device)
    return Loss(
        torch.where(mask, restored, 0)[:, 1:].contiguous(),
        mask[:, 1:].contiguous(),
        _text_bytes(view, batch),
    )


def _in_chunks(view: Subject, final: Tensor, targets: Tensor) -> Tensor:
    """Loss (B, T-1) from what enters the head, so many logits at a time as `CHUNK` says."""
    stack = view.stack
    chunk = max(1, CHUNK // view.config.vocab_size)
    pairs = zip(final.flatten(0, 1).split(chunk), targets.flatten().split(chunk), strict=True)
    parts = [_cross_entropy(stack.head(part, stack.tied_table), wanted) for part, wanted in pairs]
    return torch.cat(parts).view(targets.shape)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(wide, targets, reduction="none")


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
