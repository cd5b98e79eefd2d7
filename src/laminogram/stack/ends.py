"""The ends of a stack: from tokens into the residual stream, and from it to logits or scores."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laminogram.errors import TokenError
from laminogram.stack.config import ScoreConfig, StackConfig
from laminogram.stack.kernels.shortened import Reader
from laminogram.stack.linear import Linear, linear
from laminogram.stack.norms import Norm, activation


class Table(nn.Module):
    """A table of vectors: `weight (rows, C)`."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, size))

    def forward(self, index: Tensor) -> Tensor:
        return nn.functional.embedding(index, self.weight)


class Embedding(nn.Module):
    """Tokens (B, T) to `embed` (B, T, C): table, learned positions, token types, norm."""

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        self.config = config.embedding
        self.tokens = Table(config.vocab_size, config.hidden_size)
        if self.config.positions is not None:
            rows = self.config.positions + self.config.position_offset
            self.positions = Table(rows, config.hidden_size)
        if self.config.types is not None:
            self.types = Table(self.config.types, config.hidden_size)
        if self.config.norm is not None:
            self.norm = Norm(self.config.norm, config.hidden_size)

    def forward(self, tokens: Tensor, positions: Tensor, types: Tensor | None) -> Tensor:
        x = self.tokens(tokens)
        if self.config.scale != 1:
            x = x * torch.tensor(self.config.scale, dtype=x.dtype)
        if self.config.types is not None:
            x = x + self.types(torch.zeros_like(tokens) if types is None else types)
        if self.config.positions is not None:
            # A pad may stand beyond the last learned position; what it looks up plays no part.
            places = positions.clamp(max=self.config.positions - 1) + self.config.position_offset
            x = x + self.positions(places)
        return x if self.config.norm is None else self.norm(x)

    def check_length(self, length: int) -> None:
        """TokenError for more tokens than there are learned positions."""
        limit = self.config.positions
        if limit is not None and length > limit:
            raise TokenError(f"{length} tokens in a row, but the model learned {limit} positions")


class Head(nn.Module):
    """`final (B, T, C) -> logits (B, T, V)`, with BERT's transform where the family has one."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, config: StackConfig) -> None:
        super().__init__()
        head, size, vocab = config.head, config.hidden_size, config.vocab_size
        if head.transform is not None:
            self.transform = Linear(size, size, bias=True)
            self.activation = activation(head.transform)
        if head.norm is not None:
            self.norm = Norm(head.norm, size)
        own = None if head.tied or not head.present else nn.Parameter(torch.empty(vocab, size))
        self.register_parameter("weight", own)
        bias = nn.Parameter(torch.empty(vocab)) if head.bias else None
        self.register_parameter("bias", bias)
        self.config = head

    def forward(self, x: Tensor, tied: Tensor, reader: Reader | None = None) -> Tensor:
        """`tied` (V, C) is the token table, used where the head has no weight of its own; `reader`
        that of a run's cache."""
        if self.config.transform is not None:
            x = self.activation(self.transform(x))
        if self.config.norm is not None:
            x = self.norm(x)
        weight = tied if self.weight is None else self.weight
        out = linear(x, weight, None if self.config.normalised else self.bias, reader)
        return self._by_length(out, weight) if self.config.normalised else out

    def _by_length(self, out: Tensor, weight: Tensor) -> Tensor:
        """What rows of length one would have given, in fp32 and rounded once."""
        wide = torch.promote_types(out.dtype, torch.float32)
        lengths = weight.to(wide).norm(dim=-1).clamp(min=1e-12)
        out = out.to(wide) / lengths
        return (out if self.bias is None else out + self.bias).to(weight.dtype)


class ScoreHead(nn.Module):
    """`final` of one token of each text (B, C) to its scores (B, labels)."""

    def __init__(self, config: ScoreConfig, size: int) -> None:
        super().__init__()
        if config.through == "dense":
            self.dense = Linear(size, size, bias=True)
        self.out = Linear(size, config.labels, bias=config.bias)
        self.config = config

    def forward(self, x: Tensor) -> Tensor:
        if self.config.through == "dense":
            x = torch.tanh(self.dense(x))
        return self.out(x)
