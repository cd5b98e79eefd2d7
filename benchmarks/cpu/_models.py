"""What the rows of the CPU share: sides with one checkpoint open, token ids, bytes of weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks import limits
from benchmarks.lab import Lab
from benchmarks.shapes import SHAPES, write
from benchmarks.sides import SIDES


def sides(
    lab: Lab, model: str, dtype: torch.dtype, *names: str, stored: torch.dtype | None = None
) -> dict[str, Any]:
    """Packages by name with the same checkpoint open, `stored` in that dtype or in another; the
    tiny shape where that is asked for."""
    name, stored = tiny(lab, model), stored or dtype
    folder = lab.scratch / f"{name}-{str(stored).removeprefix('torch.')}"
    if not folder.exists():
        write(name, stored, lab.scratch)
    return {side: SIDES[side](folder, dtype, "cpu") for side in names}


def tiny(lab: Lab, model: str) -> str:
    """The name of the shape that is measured in place of `model`."""
    return f"{model.partition('-')[0]}-tiny" if lab.tiny else model


def ids(lab: Lab, model: str, rows: int, tokens: int) -> Tensor:
    """Token ids (rows, tokens), the same in every run; fewer where tiny shapes are asked for."""
    generator = torch.Generator().manual_seed(3)
    tokens = min(tokens, 32) if lab.tiny else tokens
    return torch.randint(3, SHAPES[tiny(lab, model)].vocab, (rows, tokens), generator=generator)


def weights(stack: Any) -> Iterator[Any]:
    """The weights of every product of a token, dense or packed; a look-up in a table is none."""
    from laminogram.stack.quantise.stack import weights_of

    for path, weight in weights_of(stack):
        if len(weight.shape) == 2 and path != "embed.tokens.weight":
            yield weight


def decode_limit(stack: Any) -> float:
    """Seconds to read the weights of all products once, as one block of memory."""
    return limits.reading(sum(weight.nbytes for weight in weights(stack)), "cpu")


def products_limit(stack: Any, tokens: int, dtype: torch.dtype) -> float:
    """Seconds of the layers' products for so many tokens, and nothing else (the head is left out:
    a prefill asks for one row of it)."""
    shapes: dict[tuple[int, int], int] = {}
    for weight in weights(stack.layers):
        outputs, inputs = weight.shape
        shapes[inputs, outputs] = shapes.get((inputs, outputs), 0) + 1
    return limits.products(
        [(count, tokens, *shape) for shape, count in shapes.items()], "cpu", dtype
    )
