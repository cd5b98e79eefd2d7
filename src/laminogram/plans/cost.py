"""What a plan costs, before it runs.

Layer calls, depth and cache slots follow from the plan alone. FLOPs and bytes need to know what a
layer of the stack costs: `Figures`, which `stack.flops.figures` reads from a stack.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from laminogram.plans.plan import Item, Plan, Step


@dataclass(frozen=True)
class Half:
    """What the token mixer or the channel mixer of one layer costs.

    flops: for one token; cache_bytes: what each token adds to the cache; state_bytes: what one row
    remembers whatever its length.
    """

    flops: int = 0
    cache_bytes: int = 0
    state_bytes: int = 0


@dataclass(frozen=True)
class Figures:
    """What the layers of a stack cost, each as (attn, ffn), and its two ends together.

    context: how many tokens attention looks at in these figures.
    """

    layers: tuple[tuple[Half, Half], ...]
    end_flops: int
    context: int


@dataclass(frozen=True)
class Cost:
    """The cost of a plan for one row of text.

    layer_calls: layers that run, half a layer counting 0.5. depth: the same along the longest way
    through the plan, where a group counts its deepest branch: what time cannot go below however
    much runs side by side. cache_slots: one for each step. flops (a token, the two ends included),
    cache_bytes (a token) and state_bytes are None unless the stack is known; context is the number
    of tokens that attention looks at in `flops`.
    """

    layer_calls: float
    depth: float
    cache_slots: int
    flops: int | None = None
    cache_bytes: int | None = None
    state_bytes: int | None = None
    context: int | None = None

    def __str__(self) -> str:
        lines = [
            f"{self.layer_calls:g} layer call{'' if self.layer_calls == 1 else 's'}, "
            f"depth {self.depth:g}, "
            f"{self.cache_slots} cache slot{'' if self.cache_slots == 1 else 's'}"
        ]
        if self.flops is not None:
            said = [f"{scaled(self.flops, 'FLOPs')} a token with {self.context} in view"]
            if self.cache_bytes:
                said.append(f"cache {scaled(self.cache_bytes, 'B')} a token")
            if self.state_bytes:
                said.append(f"state {scaled(self.state_bytes, 'B')}")
            lines.append(", ".join(said))
        return "\n".join(lines)


def cost(plan: Plan, figures: Figures | None = None) -> Cost:
    """The cost of a plan; PlanError where it names a layer that `figures` does not have."""
    calls = sum(_weight(step) for step in plan)
    known = Cost(calls, _depth(plan.items), len(plan))
    if figures is None:
        return known
    plan.check(len(figures.layers))
    halves = [half for step in plan for half in _halves(step, figures.layers)]
    return Cost(
        known.layer_calls,
        known.depth,
        known.cache_slots,
        flops=figures.end_flops + sum(half.flops for half in halves),
        cache_bytes=sum(half.cache_bytes for half in halves),
        state_bytes=sum(half.state_bytes for half in halves),
        context=figures.context,
    )


def _weight(step: Step) -> float:
    return 1.0 if step.part == "both" else 0.5


def _depth(items: Iterable[Item]) -> float:
    return sum(
        _weight(item)
        if isinstance(item, Step)
        else max(_depth(branch.items) for branch in item.branches)
        for item in items
    )


def _halves(step: Step, layers: Sequence[tuple[Half, Half]]) -> tuple[Half, ...]:
    attn, ffn = layers[step.layer]
    return {"both": (attn, ffn), "attn": (attn,), "ffn": (ffn,)}[step.part]


def scaled(count: float, unit: str) -> str:
    """A count with a decimal prefix: `1.23 GFLOPs`, `4.1 kB`."""
    value = float(count)
    for prefix in ("", "k", "M", "G", "T"):
        if value < 999.5:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value:.3g} P{unit}"
