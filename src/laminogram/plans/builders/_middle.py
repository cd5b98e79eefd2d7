"""Where the middle of a stack begins and ends, as the code of "Transformer Layers as Painters" has
it: T layers, start layer N, and M = T - 2N - 1 affected layers between N + 1 first and N last ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from laminogram.errors import PlanError

PAINTERS = "Sun, Pickett, Nain, Jones: Transformer Layers as Painters (arXiv 2407.09298), its code"
MIDDLE_SETTINGS = {
    "start": "the start layer N: layers 0..N and the last N run as they are",
    "affected": "how many layers are affected, M = T - 2N - 1; instead of start",
}


@dataclass(frozen=True)
class Middle:
    """The layers before the middle, in it, and after it; each counts upwards."""

    start: int
    pre: range
    mid: range
    post: range


def middle(num_layers: int, start: int | None = None, affected: int | None = None) -> Middle:
    """The middle of a stack by its start layer N or by the number M of affected layers.

    PlanError unless exactly one of them is given and leaves at least one layer in the middle.
    """
    if (start is None) == (affected is None):
        raise PlanError("give the start layer or the number of affected layers, one of the two")
    if num_layers < 2:
        raise PlanError(f"a stack of {num_layers} layer has no middle")
    if start is None:
        assert affected is not None
        start = _start(num_layers, affected)
    last = last_start(num_layers)
    if not 0 <= start <= last:
        raise PlanError(
            f"the start layer is {start}; in a stack of {num_layers} layers it is 0 to {last}"
        )
    end = num_layers - start
    return Middle(start, range(start + 1), range(start + 1, end), range(end, num_layers))


def _start(num_layers: int, affected: int) -> int:
    most = num_layers - 1
    least = 1 if num_layers % 2 == 0 else 2
    if least <= affected <= most and (most - affected) % 2 == 0:
        return (most - affected) // 2
    near = sorted({min(max(affected + off, least), most) for off in (-1, 0, 1)})
    possible = [m for m in near if (most - m) % 2 == 0]
    raise PlanError(
        f"{affected} affected layers: a stack of {num_layers} layers has an "
        f"{'odd' if least == 1 else 'even'} number of them, {least} to {most}; "
        f"nearest is {' or '.join(map(str, possible))}"
    )


def last_start(num_layers: int) -> int:
    """The largest start layer that leaves a middle; -1 where there is none."""
    return num_layers // 2 - 1


def sweep_starts(num_layers: int, seeds: Iterable[int]) -> list[dict[str, int]]:
    """Settings of a sweep over every start layer, from the smallest middle to the largest."""
    return [{"start": start} for start in range(last_start(num_layers), -1, -1)]


def check_layer(layer: int, last: int, num_layers: int) -> None:
    """PlanError unless `layer` is 0..`last`."""
    if not 0 <= layer <= last:
        raise PlanError(
            f"layer {layer} in a stack of {num_layers} layers: "
            + (f"here it is 0 to {last}" if last >= 0 else "there is none to choose")
        )
