"""Which tensor of a checkpoint goes where when a plan becomes a checkpoint of its own.

A format holds layers in the order in which they run, each with weights of its own. So it can say a
plan that is a sequence of layers, and nothing else: what cannot be said is refused here, with the
reason, from names and shapes alone. Tensors are moved by name, never through a stack, so that each
keeps its bytes and its dtype.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from laminogram import families
from laminogram.checkpoint.load import Described
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import ConfigError, PlanError
from laminogram.families import Layout
from laminogram.families.base import Rule, match
from laminogram.plans import Plan, Step
from laminogram.stack.config import LayerConfig, StackConfig

_COUNT = "num_hidden_layers"
# Fields of config.json that hold one entry for each layer, where they hold a list at all.
_PER_LAYER = (
    "layer_types",
    "mlp_layer_types",
    "layers_block_type",
    "block_configs",
    "attention_layers",
    "no_rope_layers",
    "value_dim",
    "activation_sparsity_pattern",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
)
# The half that a step leaves out, by our name of the product with which it adds to the residual.
_OUTPUT = {"attn": "layers.{i}.ffn.down.", "ffn": "layers.{i}.attn.o."}


class Origin(NamedTuple):
    """Where a tensor comes from: its key in the source and, for a layer's, from which layer to
    which place; `idle` writes zeros instead, `turn` counts the places of that layer from 0."""

    key: str
    info: TensorInfo
    rule: Rule | None = None
    layer: int = -1
    place: int = -1
    idle: bool = False
    turn: int = 0

    @property
    def nbytes(self) -> int:
        return torch.Size(self.info.shape).numel() * self.info.dtype.itemsize


@dataclass(frozen=True)
class Rearrangement:
    """A plan as tensors: `tensors` by their new name, in the order in which they are written."""

    plan: Plan
    tensors: Mapping[str, Origin]
    source: Mapping[str, Any] = field(default_factory=dict)
    """The configuration of the result, as config.json holds it."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape by its new name."""
        return {name: origin.info.shape for name, origin in self.tensors.items()}

    @cached_property
    def parameters(self) -> int:
        """How many numbers the result holds, buffers not counted."""
        return _parameters(self.tensors)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(origin.nbytes for origin in self.tensors.values())

    @cached_property
    def copies(self) -> dict[str, Origin]:
        """The tensors that are written once more, for their layer stands at an earlier place."""
        return {name: origin for name, origin in self.tensors.items() if origin.turn}

    @property
    def repeated(self) -> dict[int, int]:
        """How often each layer is written that is written more than once."""
        return {layer: times for layer, times in _times(self.plan).items() if times > 1}

    @property
    def halves(self) -> tuple[tuple[int, Step], ...]:
        """The places at which only half a layer runs: the other half's output weights are 0."""
        places = enumerate(self.plan.steps)
        return tuple((place, step) for place, step in places if step.part != "both")

    def cost_of_copies(self) -> str:
        """What writing layers more than once costs, as text."""
        nbytes = sum(origin.nbytes for origin in self.copies.values())
        return f"{_parameters(self.copies):,} parameters, {nbytes / 1e6:,.1f} MB"


def rearrange(described: Described, plan: Plan, *, copy: bool, standalone: bool) -> Rearrangement:
    """The checkpoint that runs `plan` when it is run from its first layer to its last.

    `copy` allows a layer at several places; `standalone` is for files that come without a
    configuration. PlanError gives the reason where the format cannot say the plan.
    """
    config = described.config
    plan.check(config.num_layers)
    _refuse_groups(plan)
    _refuse_halves(plan, config)
    _refuse_streams(plan, config)
    made = Rearrangement(plan, _tensors(described, plan))
    if made.repeated and not copy:
        often = ", ".join(f"layer {layer} {times}x" for layer, times in made.repeated.items())
        raise PlanError(
            f"the plan {plan} runs {often} with one set of weights, and a checkpoint has weights "
            f"of its own for every place: copy=True (--copy) writes copies, which cost "
            f"{made.cost_of_copies()}"
        )
    recognise = described.family.recognise if standalone else None
    source = source_of(config, plan) if recognise is None else recognise(made.shapes)
    made = replace(made, source=source or {})
    _check(described, made)
    return made


def _refuse_groups(plan: Plan) -> None:
    if not plan.steps:
        raise PlanError("a plan without layers cannot be written: a checkpoint has at least one")
    if plan.groups:
        raise PlanError(
            f"the plan {plan} has a group, {plan.groups[0]}: no family can express layers that run "
            f"side by side. Nearest is to run them in turn: {Plan(plan.steps)}"
        )


def _refuse_halves(plan: Plan, config: StackConfig) -> None:
    for place, step in enumerate(plan.steps):
        if step.part != "both" and config.layers[step.layer].block == "post":
            raise PlanError(
                f"step {place} of the plan {plan} is {step}, half a layer: in this model a half "
                "that adds nothing would still normalise the stream (post-norm), so only whole "
                "layers can be written"
            )


def _refuse_streams(plan: Plan, config: StackConfig) -> None:
    """A side stream comes from place 0 of a file: its provider stands there, and only there."""
    provides = [getattr(layer.attn, "provides_v_first", False) for layer in config.layers]
    if not any(provides):
        return
    provider = provides.index(True)
    if plan.steps[0].layer != provider:
        raise PlanError(
            f"the plan {plan} begins with layer {plan.steps[0].layer}: readers of this format take "
            f"v_first from the layer at place 0, and only layer {provider} provides it"
        )
    for place, step in enumerate(plan.steps):
        if place and provides[step.layer]:
            raise PlanError(
                f"step {place} of the plan {plan} runs layer {step.layer} again: at every place "
                "but 0 readers of this format mix v_first into the values, and layer "
                f"{step.layer}, which provides it, has no weights for that"
            )


def _tensors(described: Described, plan: Plan) -> dict[str, Origin]:
    layout, infos = described.layout, described.checkpoint.tensors
    owned: dict[int, list[str]] = {layer: [] for layer in plan.layers}
    found: dict[str, Origin] = {}
    for key in infos:
        owner = owner_of(layout, key)
        if owner is None:
            name = layout.canonical(key)
            found[name] = Origin(key, infos[key], _rule(layout, name))
        elif owner in owned:
            owned[owner].append(key)
    turns: Counter[int] = Counter()
    for place, step in enumerate(plan.steps):
        idle = _idle(layout, step)
        for key in owned[step.layer]:
            name = layout.canonical(key)
            origin = Origin(
                key,
                infos[key],
                _rule(layout, name),
                step.layer,
                place,
                name in idle,
                turns[step.layer],
            )
            found[_moved(layout, name, place)] = origin
        turns[step.layer] += 1
    return found


def owner_of(layout: Layout, key: str) -> int | None:
    """The layer that a key of a checkpoint belongs to; None for the ends of the model.

    A name without a layer's number in its rule is no layer's, though it stand among layer 0's: the
    embedding's norm. What no rule speaks of (a buffer) belongs to the layer in whose folder it is.
    """
    name = layout.canonical(key)
    if any(name in rule.theirs for rule in layout.rules):
        return None
    folder = _folder(layout, name)
    return int(folder[1]) if folder else None


def _folder(layout: Layout, name: str) -> re.Match[str] | None:
    for template in (template for rule in layout.rules for template in rule.theirs):
        head, number, _ = template.partition("{i}.")
        found = re.match(re.escape(head) + r"(\d+)\.", name) if number else None
        if found:
            return found
    return None


def _moved(layout: Layout, name: str, place: int) -> str:
    folder = _folder(layout, name)
    assert folder is not None
    return f"{name[: folder.start(1)]}{place}{name[folder.end(1) :]}"


def _rule(layout: Layout, name: str) -> Rule | None:
    for rule in layout.rules:
        if any(match(template, name) is not None for template in rule.theirs):
            return rule
    return None


def _idle(layout: Layout, step: Step) -> set[str]:
    """The layer's tensors that are 0 where only half of it runs."""
    if step.part == "both":
        return set()
    prefix = _OUTPUT[step.part]
    rules = [rule for rule in layout.rules if any(name.startswith(prefix) for name in rule.ours)]
    if not rules or any(not name.startswith(prefix) for rule in rules for name in rule.ours):
        raise PlanError(f"{step} cannot be written: layout {layout.name} has no product to zero")
    return {name.format(i=step.layer) for rule in rules for name in rule.theirs}


def source_of(config: StackConfig, plan: Plan) -> dict[str, Any]:
    """config.json's contents: the number of layers, and lists by layer in the plan's order."""
    count = families.get(config.family).names.get(_COUNT, _COUNT)
    source = dict(config.source) | {count: len(plan)}
    for name in _PER_LAYER:
        value = source.get(name)
        if not isinstance(value, list) or not value:
            continue
        if len(value) != config.num_layers:
            raise ConfigError(
                f"configuration: {name} has {len(value)} entries; expected one for each of the "
                f"{config.num_layers} layers"
            )
        source[name] = [value[step.layer] for step in plan.steps]
    return source


def _check(described: Described, made: Rearrangement) -> None:
    """PlanError unless the result reads as the plan's layers with all that belongs to them."""
    config = described.config
    found = described.family.config(made.source, made.shapes)
    layers = tuple(config.layers[step.layer] for step in made.plan.steps)
    for place, (wanted, read) in enumerate(zip(layers, found.layers)):
        if wanted != read:
            raise PlanError(
                f"this format cannot say the plan {made.plan}: at place {place} layer "
                f"{made.plan.steps[place].layer} would be read with {_difference(wanted, read)}"
            )
    if replace(found, source={}) != replace(config, layers=layers, source={}):
        raise PlanError(f"this format cannot say the plan {made.plan}: its ends would change")


def _difference(wanted: Any, read: Any, path: str = "") -> str:
    """The first field in which two configurations differ, as text."""
    if is_dataclass(wanted) and type(wanted) is type(read):
        for one in fields(wanted):
            mine, theirs = getattr(wanted, one.name), getattr(read, one.name)
            if mine != theirs:
                return _difference(mine, theirs, f"{path}.{one.name}" if path else one.name)
    return f"{path or LayerConfig.__name__} {read!r} instead of {wanted!r}"


def _times(plan: Plan) -> Counter[int]:
    return Counter(step.layer for step in plan.steps)


def _parameters(tensors: Mapping[str, Origin]) -> int:
    sizes = (torch.Size(o.info.shape).numel() for o in tensors.values() if o.rule is not None)
    return sum(sizes)
