"""Numbers of layers, steps or channels as people give them: one or several, of any library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, SupportsIndex, TypeGuard

from laminogram.errors import ConfigError, LaminogramError

Numbers = SupportsIndex | Iterable[SupportsIndex]


def is_one(chosen: Any) -> TypeGuard[SupportsIndex]:
    """Whether this is a single number. Arrays and tensors of any shape have an index to ask for, so
    it is their axes that tell."""
    return isinstance(chosen, SupportsIndex) and not getattr(chosen, "ndim", 0)


def numbers(
    name: str,
    chosen: Numbers | None,
    error: type[LaminogramError] = ConfigError,
    why: str = "nothing would be recorded",
) -> tuple[int, ...] | None:
    """What was chosen as a tuple, None for None; the error, saying why, for an empty choice."""
    if chosen is None:
        return None
    found = (int(chosen),) if is_one(chosen) else tuple(map(int, chosen))  # type: ignore[arg-type]
    if not found:
        raise error(f"{name} is empty: {why}")
    return found
