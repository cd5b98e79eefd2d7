"""Whether a stack can run a plan: its layers, its side streams, its caches.

Checked before anything runs, so that a plan is refused with its reason and not half-way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from laminogram.errors import PlanError
from laminogram.plans import Group, Item, Plan, Step
from laminogram.stack.cache import AttentionSlot, AveragedSlot, StepSlot
from laminogram.stack.config import (
    AttentionConfig,
    LatentAttentionConfig,
    StackConfig,
    TimeMix7Config,
    WrappedLayerConfig,
)

Provision = Literal["embedding", "first-step"]
KeysAndValues = Literal["exact", "averaged"]


def check_plan(
    plan: Plan,
    config: StackConfig,
    v_first: Provision = "embedding",
    kv: KeysAndValues = "exact",
) -> None:
    """PlanError, naming the place, unless a stack of this configuration can run the plan so."""
    for name, found, known in (("v_first", v_first, Provision), ("kv", kv, KeysAndValues)):
        if found not in get_args(known):
            raise PlanError(f"{name} is {found!r}; there are {', '.join(get_args(known))}")
    plan.check(config.num_layers)
    for step in plan:
        _check_half(step, config)
    if v_first == "first-step":
        _check_provider(plan.items, config)
    if kv == "averaged":
        for group in plan.groups:
            _check_average(group, config)


def _check_half(step: Step, config: StackConfig) -> None:
    layer = config.layers[step.layer]
    if step.part != "both" and isinstance(layer, WrappedLayerConfig) and not layer.halves:
        raise PlanError(
            f"{step}: transformers runs layer {step.layer} of {config.family} as a whole, and its "
            "halves cannot be run apart; name the layer without a half"
        )


def _check_provider(items: Sequence[Item], config: StackConfig) -> None:
    """What a branch provides stays in it: nothing after a group may need what only branches have.

    The first step with a time mix provides `v_first` to those after it on the same path.
    """
    provided, inside = False, None
    for item in items:
        if provided or not _needs_v_first(item, config):
            continue
        if inside is not None:
            raise PlanError(
                f"v_first='first-step': {item} needs v_first, and the steps before it that provide "
                f"it lie in branches of {inside}, each with its own; use v_first='embedding', or "
                "let the plan begin with a layer"
            )
        if isinstance(item, Step):
            provided = True
            continue
        inside = item
        for branch in item.branches:
            _check_provider(branch.items, config)


def _needs_v_first(item: Item, config: StackConfig) -> bool:
    return any(
        step.part != "ffn" and isinstance(config.layers[step.layer].attn, TimeMix7Config)
        for step in Plan([item])
    )


def _check_average(group: Group, config: StackConfig) -> None:
    if group.kind != "mean" or not group.single:
        raise PlanError(
            f"kv='averaged' is defined for mean(...) of single layers, and the plan has {group}; "
            "use kv='exact'"
        )
    shapes = set()
    for branch in group.branches:
        layer = branch.steps[0].layer
        attn = config.layers[layer].attn
        if isinstance(config.layers[layer], WrappedLayerConfig):
            raise PlanError(
                f"kv='averaged': transformers runs layer {layer} of {config.family}, and what it "
                "remembers is not averaged; use kv='exact'"
            )
        if not isinstance(attn, AttentionConfig):
            latent = isinstance(attn, LatentAttentionConfig)
            raise PlanError(
                f"kv='averaged' averages keys and values, and layer {layer} of {group} has none: "
                f"{config.family} keeps a {'latent' if latent else 'state'}; use kv='exact'"
            )
        shapes.add((attn.num_key_value_heads, attn.head_dim))
    if len(shapes) > 1:
        raise PlanError(
            f"kv='averaged' needs keys of one shape in a group; {group} has (heads, size) "
            f"{', '.join(map(str, sorted(shapes)))}"
        )


def share_averages(slots: list[StepSlot], plan: Plan) -> None:
    """Give the steps of each group one memory, in place. The plan has passed `check_plan`."""
    step = 0
    for item in plan.items:
        if isinstance(item, Group):
            end = step + len(item.branches)
            own: list[AttentionSlot] = [slot.attn for slot in slots[step:end]]
            if len({slot.k.device for slot in own}) > 1:
                raise PlanError(f"kv='averaged' needs the layers of {item} on one device")
            slots[step:end] = [StepSlot(AveragedSlot(own[0].k, own[0].v))] * len(own)
            step = end
        else:
            step += 1
