"""Rows that begin alike as one row: every different beginning of theirs is one column.

The choices of a question become a tree of tokens that is read as a single row, in which a token
sees those on its own way from the root and has its place there. So nothing common is read twice,
nothing is kept between two forwards, and layers do not know the difference.

Axes: B trees, T columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from laminogram.plans.tree import PlanTree
from laminogram.probe.subject import Subject
from laminogram.stack import context, rope
from laminogram.stack.batch import Batch
from laminogram.stack.config import AttentionConfig, LatentAttentionConfig

Inputs = tuple[int, ...]


@dataclass(frozen=True)
class TokenTree:
    """Token rows, merged from their beginnings.

    tokens (T,), parents (T,): of every column its token and the column before it, -1 for a first
    one, always to the left; columns: of each row those of its tokens.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    columns: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, rows: Sequence[Inputs]) -> TokenTree:
        """The tree of some rows."""
        ways: dict[tuple[int, int], int] = {}  # by parent and token
        columns = []
        for row in rows:
            own, last = [], -1
            for token in row:
                last = ways.setdefault((last, token), len(ways))
                own.append(last)
            columns.append(tuple(own))
        parents, tokens = zip(*ways, strict=True)
        return cls(tokens, parents, tuple(columns))

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def seen(self) -> np.ndarray:
        """Whether column s lies on the way to column t, its own end included: bool (t, s)."""
        seen = np.eye(len(self), dtype=bool)
        for column, parent in enumerate(self.parents):
            if parent >= 0:
                seen[column] |= seen[parent]
        return seen


def can_read_trees(view: Subject) -> bool:
    """Whether columns of a row may stand side by side here: attention that tells places by rotary
    or learned positions.

    Not a recurrent state, which has one past, nor slopes, which count columns, nor under edits,
    which name columns, nor where rotary frequencies depend on the length of the text.
    """
    mixers = [layer.attn for layer in view.config.layers]
    plain = all(
        isinstance(attn, LatentAttentionConfig)
        or (isinstance(attn, AttentionConfig) and attn.causal and not attn.alibi)
        for attn in mixers
    )
    regimes = any(rope.depends_on_length(one) for one in view.stack.rotary.ropes)
    return plain and view.config.causal and not view.edits and not regimes


def sweep_trees(
    view: Subject, plans: PlanTree, trees: Sequence[TokenTree], columns: Tensor
) -> Iterator[tuple[int, Tensor]]:
    """Yield (number of the plan, what enters the head (B, W, C) at the columns (B, W)).

    The view must be one that `can_read_trees`. Errors as in `View.sweep`.
    """
    stack, width = view.stack, max(map(len, trees))
    batch = Batch.of([tree.tokens for tree in trees], vocab_size=view.config.vocab_size)
    seen = np.tile(np.eye(width, dtype=bool), (len(trees), 1, 1))  # a pad sees itself alone
    for row, tree in zip(seen, trees, strict=True):
        row[: len(tree), : len(tree)] = tree.seen
    ctx = context.build_tree(
        stack.rotary, stack.mask_keys, torch.from_numpy(seen).to(stack.device), batch.lengths
    )
    stack.embed.check_length(max(len(one) for tree in trees for one in tree.columns))
    return view.sweep(plans, batch, logits="none", ctx=ctx, columns=columns)
