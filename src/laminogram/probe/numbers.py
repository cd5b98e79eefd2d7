"""Numbers of layers, steps or channels as people give them: one or several, of any library."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
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
    found = whole(name, chosen, error)
    if not found:
        raise error(f"{name} is empty: {why}")
    return found


def whole(name: str, chosen: Any, error: type[LaminogramError]) -> tuple[int, ...]:
    """One number or several as Python's own; the error for anything else. A mask is refused, too:
    its truth values would pass for 0 and 1."""
    several = isinstance(chosen, Iterable) and not is_one(chosen)
    found = list(chosen) if several else [chosen]
    odd = [one for one in found if not _is_whole(one)]
    if odd:
        raise error(
            f"{name} holds {odd[0]!r:.60}; it takes whole numbers, one or several (of a mask, the "
            "places where it is true)"
        )
    return tuple(map(index, found))


def _is_whole(one: Any) -> bool:
    if not is_one(one) or isinstance(one, bool) or "bool" in str(getattr(one, "dtype", "")):
        return False
    try:
        index(one)
    except TypeError:  # an array of one fraction has an index to ask for, and gives none
        return False
    return True
