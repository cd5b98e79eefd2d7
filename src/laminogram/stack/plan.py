"""Plans: the order in which layers run, as text and as a value.

    0-31                 the whole stack
    0-7, 25-31           skip the middle
    0-7, 24-8, 25-31     the middle reversed
    0-3, 2, 2, 4-31      a layer again, twice
    0-11, 12.attn, 13-31 only the attention half of layer 12

A step is one execution of one layer or half layer; steps are numbered in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from laminogram.errors import PlanError

Part = Literal["both", "attn", "ffn"]
_ITEM = re.compile(r"(?P<first>\d+)(?:-(?P<last>\d+)|\.(?P<part>attn|ffn))?")


@dataclass(frozen=True)
class Step:
    """One execution of one layer; `part` is a half of it or both."""

    layer: int
    part: Part = "both"

    def __str__(self) -> str:
        return str(self.layer) if self.part == "both" else f"{self.layer}.{self.part}"


@dataclass(frozen=True)
class Plan:
    """An order of layers. `Plan.parse(str(plan)) == plan`, always.

    Neighbouring halves `12.attn, 12.ffn` are the whole layer and are merged on construction.
    """

    steps: tuple[Step, ...]

    def __init__(self, steps: Iterable[Step | int]) -> None:
        made = (step if isinstance(step, Step) else Step(step) for step in steps)
        object.__setattr__(self, "steps", tuple(_merge_halves(made)))

    @classmethod
    def full(cls, num_layers: int) -> Plan:
        """Every layer once, in order."""
        return cls(range(num_layers))

    @classmethod
    def parse(cls, text: str) -> Plan:
        """Read a plan; PlanError says which item is not one."""
        steps: list[Step | int] = []
        for item in (part.strip() for part in text.split(",")):
            match = _ITEM.fullmatch(item)
            if match is None:
                raise PlanError(
                    f"{item!r} in the plan {text!r} is neither a layer (7), a range (0-7, or 7-0 "
                    "reversed) nor half a layer (7.attn, 7.ffn)"
                )
            first = int(match["first"])
            if match["part"]:
                steps.append(Step(first, "attn" if match["part"] == "attn" else "ffn"))
                continue
            last = first if match["last"] is None else int(match["last"])
            steps.extend(range(first, last + 1) if last >= first else range(first, last - 1, -1))
        return cls(steps)

    def check(self, num_layers: int) -> Plan:
        """Itself, if a stack of `num_layers` layers can run it; else PlanError names the place."""
        for number, step in enumerate(self.steps):
            if step.layer >= num_layers:
                raise PlanError(
                    f"step {number} of the plan runs layer {step.layer}, but this stack has layers "
                    f"0-{num_layers - 1}"
                )
        return self

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    def __str__(self) -> str:
        parts: list[str] = []
        i = 0
        while i < len(self.steps):
            end = self._run_end(i)
            first, last = self.steps[i], self.steps[end]
            parts.append(str(first) if end == i else f"{first}-{last}")
            i = end + 1
        return ", ".join(parts)

    def __repr__(self) -> str:
        return f"Plan({str(self)!r})"

    def _run_end(self, i: int) -> int:
        """The last index of the longest run of whole layers going up, or down, from `i`."""
        steps = self.steps
        if steps[i].part != "both" or i + 1 == len(steps) or steps[i + 1].part != "both":
            return i
        stride = steps[i + 1].layer - steps[i].layer
        if stride not in (1, -1):
            return i
        end = i + 1
        while (
            end + 1 < len(steps)
            and steps[end + 1].part == "both"
            and steps[end + 1].layer - steps[end].layer == stride
        ):
            end += 1
        return end


def _merge_halves(steps: Iterable[Step]) -> list[Step]:
    merged: list[Step] = []
    for step in steps:
        if step.layer < 0:
            raise PlanError(f"layer {step.layer} in a plan: layers count from 0")
        if merged and step.part == "ffn" and merged[-1] == Step(step.layer, "attn"):
            merged[-1] = Step(step.layer)
        else:
            merged.append(step)
    return merged
