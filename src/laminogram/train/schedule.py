"""How high the learning rate stands, as a factor of its peak, at a fraction of the run.

A schedule is a function of the fraction done, not of a step count, so that a run bounded by wall
time can follow it too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from laminogram.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up, then `constant`, `cosine`, or `wsd` (hold, then fall linearly).

    `warmup`: fraction of the run that rises; `decay`: fraction at the end that falls (`wsd` alone);
    `floor`: the factor at the end.
    """

    kind: Literal["constant", "cosine", "wsd"] = "cosine"
    warmup: float = 0.02
    decay: float = 0.3
    floor: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "cosine", "wsd"):
            raise ConfigError(f"schedule {self.kind!r} is unknown; there are constant, cosine, wsd")
        for name in ("warmup", "decay", "floor"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"schedule {name}={getattr(self, name)} is not between 0 and 1")

    def factor(self, fraction: float) -> float:
        """The factor on the peak learning rate at `fraction` (0 at the start, 1 at the end)."""
        fraction = min(max(fraction, 0.0), 1.0)
        if fraction < self.warmup:
            return fraction / self.warmup
        if self.kind == "constant":
            return 1.0
        if self.kind == "wsd":
            if fraction <= 1.0 - self.decay or self.decay == 0.0:
                return 1.0
            return self.floor + (1.0 - self.floor) * (1.0 - fraction) / self.decay
        done = 1.0 if self.warmup == 1.0 else (fraction - self.warmup) / (1.0 - self.warmup)
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * done))
