"""What a format of stored weights is.

Axes: O outputs, I inputs of a product.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

Codes = Mapping[str, Tensor]
"""What is stored of one weight, by name. Every tensor has an axis at least."""


class Format(ABC):
    """How the entries of a weight (O, I) are stored; a value that prints as its name.

    A subclass is a frozen dataclass. Its `pattern` matches the names that it understands, its
    `grammar` says the same to people.
    """

    pattern: ClassVar[re.Pattern[str]]
    grammar: ClassVar[str]

    @classmethod
    @abstractmethod
    def named(cls, match: re.Match[str]) -> Self:
        """The format of a name that `pattern` matched; ConfigError for numbers out of range."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def encode(self, weight: Tensor) -> dict[str, Tensor]:
        """What is stored of a weight (O, I) in fp32."""

    @abstractmethod
    def decode(self, codes: Codes, rows: slice, columns: int) -> Tensor:
        """Some rows of the weight that is stored, (rows, `columns`) in fp32."""


def scale_for(absmax: Tensor, largest: float) -> Tensor:
    """The step that brings `absmax` to the code `largest`; never zero, so that nothing is divided
    by it."""
    return (absmax / largest).clamp(min=torch.finfo(torch.float32).tiny)


def spread(numbers: Tensor, size: int, columns: int) -> Tensor:
    """Numbers (rows, groups) of groups of `size` columns for each column: (rows, `columns`)."""
    return numbers[..., None].expand(*numbers.shape, size).flatten(-2)[:, :columns]


def grouped(weight: Tensor, size: int) -> Tensor:
    """A weight (O, I) as (O, groups, size); the last group is filled up with zeros."""
    missing = -weight.shape[1] % size
    return torch.nn.functional.pad(weight, (0, missing)).unflatten(1, (-1, size))
