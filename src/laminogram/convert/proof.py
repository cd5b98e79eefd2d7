"""The proof of a conversion: both models run on the same tokens in fp32, their logits compared.

One is opened after the other, so that the memory is that of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laminogram.checkpoint.load import Described
from laminogram.checkpoint.loading import load_into
from laminogram.checkpoint.megatron import is_megatron
from laminogram.convert.prepare import Prepared, opened
from laminogram.errors import CheckpointError
from laminogram.stack.stack import Stack

ROWS, TOKENS = 2, 64
# Largest logit difference, as a share of the largest logit: fp32 sums in another order, and numbers
# that were computed anew and stored in 8 (bf16) or 11 (fp16) bits.
_TOLERANCE, _ROUNDED = 1e-4, 0.1


@dataclass(frozen=True)
class Proof:
    """How the result's logits differ from the source's, both run in fp32.

    largest: the largest difference of a logit; scale: the largest logit of the source. kl: mean KL
    divergence of the next-token distributions, in nats. agreement: the share of places with the
    same most likely token.
    """

    rows: int
    tokens: int
    seed: int
    largest: float
    scale: float
    kl: float
    agreement: float

    def __str__(self) -> str:
        return (
            f"{self.rows} x {self.tokens} random tokens in fp32: largest logit difference "
            f"{self.largest:.2g} (largest logit {self.scale:.3g}), KL {self.kl:.2g} nats, "
            f"{100 * self.agreement:.4g} % of the most likely tokens agree"
        )

    def to_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


def prove(prepared: Prepared, result: Path, seed: int = 0) -> Proof:
    """Run source and result; CheckpointError where they differ by more than the grade allows."""
    # A vocabulary that only Megatron pads is read back with its true rows.
    rows = prepared.described.config.vocab_size if is_megatron(result) else None
    found = opened(result, vocab_size=rows)
    limit = prepared.route.limit
    proof = compare(prepared.described, found, prepared.options, limit=limit, seed=seed)
    if not prepared.losses:
        check(proof, _ROUNDED if prepared.rounded else _TOLERANCE)
    return proof


def compare(
    source: Described,
    result: Described,
    options: Mapping[str, Any],
    *,
    limit: int | None = None,
    seed: int = 0,
) -> Proof:
    """Run both on the same random tokens. options: how the source's tensors are laid out; limit:
    the longest text on which they should agree."""
    config = source.config
    longest = [TOKENS, limit or TOKENS, config.max_position_embeddings or TOKENS]
    width = min(longest[:2] if config.recurrent else longest)
    make = torch.Generator().manual_seed(seed)
    tokens = torch.randint(config.vocab_size, (ROWS, width), generator=make)
    want, got = _logits(source, tokens, options), _logits(result, tokens, {})
    if got.shape != want.shape:
        raise CheckpointError(f"the result gives {tuple(got.shape)}, the source {want.shape}")
    return _compare(want, got, seed)


def check(proof: Proof, tolerance: float = _TOLERANCE) -> None:
    """CheckpointError where the largest difference is more than that share of the largest logit."""
    if not proof.largest <= tolerance * max(proof.scale, 1e-6):
        raise CheckpointError(
            f"the result does not compute what the source does: {proof}; allowed is a difference "
            f"of {tolerance:g} of the largest logit. It was not kept"
        )


def _compare(want: Tensor, got: Tensor, seed: int) -> Proof:
    want, got = want.double(), got.double()
    p, q = want.log_softmax(-1), got.log_softmax(-1)
    return Proof(
        rows=want.shape[0],
        tokens=want.shape[1] if want.dim() == 3 else 1,
        seed=seed,
        largest=float((want - got).abs().max()),
        scale=float(want.abs().max()),
        kl=float((p.exp() * (p - q)).sum(-1).mean()),
        agreement=float((want.argmax(-1) == got.argmax(-1)).double().mean()),
    )


@torch.no_grad()
def _logits(described: Described, tokens: Tensor, options: Mapping[str, Any]) -> Tensor:
    config = described.config
    stack = Stack(config, device="meta", dtype=torch.float32)
    load_into(
        stack,
        described.checkpoint,
        described.layout,
        config=config,
        dtype=torch.float32,
        options=options,
    )
    return stack(tokens)
