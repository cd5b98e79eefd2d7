"""A program: which sites a run reads and writes, resolved before it starts.

It turns edits and wanted readings into taps for each step of the plan, renews the selected rows
before each forward, passes what is read to a sink, and knows afterwards what the edits did.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from laminogram.errors import ConfigError, EditError, SiteError
from laminogram.plans import Plan, Step
from laminogram.probe.edits import Edit
from laminogram.probe.slots import fill, rows_of, slot_of, source_at, values_at
from laminogram.stack import sites
from laminogram.stack.config import LatentAttentionConfig, MoEConfig, StackConfig
from laminogram.stack.sites import EAGLE, STACK_STEP, Site
from laminogram.stack.stack import Stack
from laminogram.stack.taps import NO_TAPS, EditSlot, Run, Taps

Sink = Callable[[str, int, Tensor], None]
Reads = Mapping[int, Iterable[str]]
"""For each step (`STACK_STEP` for the stack's own sites) the sites to read."""


Effects = list[dict[str, object]]
"""What edits did in some runs: `edit`, `selected`, `changed`."""


class EditWarning(UserWarning):
    """An edit selected values and changed none of them."""


@dataclass
class _Placed:
    """An edit at one step: its slot, and what is needed to renew the slot for a run."""

    edit: Edit
    step: int
    slot: EditSlot
    source: Tensor | None


class Program:
    """The observer of runs under one plan: see the module. One program serves many forwards.

    prompt_lengths: real tokens of each row's prompt; what `phase` and negative positions refer to.
    Unless set, it is taken from the first forward. `forwards` counts them.
    """

    def __init__(
        self,
        stack: Stack,
        plan: Plan,
        edits: Sequence[Edit] = (),
        reads: Reads | None = None,
        sink: Sink | None = None,
    ) -> None:
        self.prompt_lengths: tuple[int, ...] | None = None
        self.run: Run | None = None
        self.forwards = 0
        self.edits = tuple(edits)
        self.sink = sink
        wanted = {step: frozenset(names) for step, names in (reads or {}).items()}
        for step, names in wanted.items():
            for name in names:
                site_at(name, stack.config, plan, step)
        self._placed = [placed for edit in edits for placed in _place(edit, stack, plan)]
        self._taps = _all_taps(self._placed, wanted)
        self._reads = frozenset((step, name) for step, names in wanted.items() for name in names)

    def taps(self, step: int) -> Taps:
        """The taps of a step."""
        return self._taps.get(step, NO_TAPS)

    def begin(self, run: Run) -> None:
        """Renew the selected rows of every edit for the positions that come next."""
        self.run = run
        self.forwards += 1
        if self.prompt_lengths is None:
            self.prompt_lengths = tuple(a + b for a, b in zip(run.starts, run.lengths))
        if not self._placed:
            return
        prompts = torch.tensor(self.prompt_lengths, device=run.positions.device)[:, None]
        chosen: dict[tuple[int, torch.device], Tensor] = {}
        for placed in self._placed:
            device = placed.slot.rows.device
            key = id(placed.edit), device
            if key not in chosen:  # the same in every layer of the edit
                chosen[key] = rows_of(placed.edit, run, prompts).to(device)
            if placed.source is not None:
                shift = values_at(placed.source, run, placed.edit).to(device)
                fill(placed.slot, "shift", shift)
            fill(placed.slot, "rows", chosen[key])

    @property
    def capturable(self) -> bool:
        """Whether a graph can hold this program: its sink says so. Not with edits, whose rows move
        when the shape of a batch changes."""
        return not self._placed and bool(getattr(self.sink, "capturable", self.sink is None))

    @property
    def only_reads(self) -> frozenset[tuple[int, str]] | None:
        """The steps and sites that it reads, where its runs differ from others by nothing else: a
        graph that was made for one program then serves every other. None with edits, and for a
        sink that is to become part of a graph itself."""
        alone = not self._placed and not hasattr(self.sink, "capturable")
        return self._reads if alone else None

    def frames(self, row: int) -> int:
        """How many tokens of a row have been read so far."""
        return 0 if self.run is None else self.run.starts[row] + self.run.lengths[row]

    def take(self, site: str, step: int, x: Tensor) -> None:
        """Pass what was read to the sink."""
        if self.sink is not None:
            self.sink(site, step, x)

    def effects(self) -> Effects:
        """What each edit did so far: `edit`, `selected`, `changed`, for the manifest."""
        found: dict[str, dict[str, object]] = {}
        for placed in self._placed:
            row = found.setdefault(
                str(placed.edit), {"edit": str(placed.edit), "selected": 0, "changed": 0}
            )
            row["selected"] = int(row["selected"]) + int(placed.slot.selected)  # type: ignore[call-overload]
            row["changed"] = int(row["changed"]) + int(placed.slot.changed)  # type: ignore[call-overload]
        return list(found.values())

    def check(self) -> None:
        """After the last run: EditError for an edit that selected nothing, EditWarning for one
        that changed nothing."""
        check_effects(self.effects())


def total_effects(rows: Iterable[Mapping[str, object]]) -> Effects:
    """One row for each edit, its counts summed over runs."""
    total: dict[str, list[int]] = {}
    for row in rows:
        sums = total.setdefault(str(row["edit"]), [0, 0])
        sums[0] += int(row["selected"])  # type: ignore[call-overload]
        sums[1] += int(row["changed"])  # type: ignore[call-overload]
    return [{"edit": edit, "selected": a, "changed": b} for edit, (a, b) in total.items()]


def check_effects(rows: Iterable[Mapping[str, object]]) -> None:
    """Judge what edits did, from `Program.effects` of one or more runs: EditError for one that
    selected nothing in any, EditWarning for one that changed nothing in any."""
    for row in total_effects(rows):
        edit, selected, changed = row["edit"], row["selected"], row["changed"]
        if not selected:
            raise EditError(f"{edit} selected nothing: none of its positions or phases occurred")
        if not changed:
            message = f"{edit} selected {selected} values and changed none"
            warnings.warn(message, EditWarning, stacklevel=4)


def check_together(edits: Iterable[Edit], texts: int, batch_size: int | None) -> None:
    """EditError for an edit that tells the rows of a run apart, where so many texts run in batches
    of this size (None: in whatever order packs them well): its rows would be those of every batch.
    ConfigError for a batch without rows."""
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"{batch_size} texts at a time: there must be 1 at least")
    for edit in edits:
        if edit.rows is not None and not edit.rows == texts <= (batch_size or 0):
            how = f"in batches of {batch_size}" if batch_size else "in an order of their own"
            raise EditError(
                f"{edit} is of {edit.rows} rows of one run; here {texts} texts run {how}: give "
                "the rows alone, and a batch that holds them all where its size can be named"
            )


def site_at(name: str, config: StackConfig, plan: Plan, step: int) -> Site:
    """The site called `name` at a step of the plan; SiteError where it is not there."""
    if step == STACK_STEP:
        return sites.find(name, config)
    if not 0 <= step < len(plan):
        there = f"steps 0-{len(plan) - 1}" if len(plan) else "no step"
        raise SiteError(f"step {step} does not exist: the plan has {there}")
    at = plan.steps[step]
    site = sites.find(name, config, at.layer)
    if not site.in_part(at.part):
        raise SiteError(f"step {step} runs only {at}, which has no site {name!r}")
    return site


def steps_of(
    name: str,
    config: StackConfig,
    plan: Plan,
    layers: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> list[int]:
    """The steps at which a site is meant: of these layers, among these steps, wherever it is.

    SiteError where a layer or step does not exist, is not in the plan, or lacks the site.
    """
    if sites.is_of_stack(name):
        sites.find(name, config)
        return [STACK_STEP]
    for step in steps or ():
        site_at(name, config, plan, step)
    _check_layers(name, config, plan, layers)
    found = [
        number
        for number, at in enumerate(plan)
        if (layers is None or at.layer in layers)
        and (steps is None or number in steps)
        and _has(name, config, at)
    ]
    if not found:
        if layers or len(plan):  # says why, where the layer lacks it
            sites.find(name, config, layers[0] if layers else plan.steps[0].layer)
        raise SiteError(f"no step of the plan {plan} has the site {name!r} for this selection")
    return found


def _check_layers(name: str, config: StackConfig, plan: Plan, layers: Sequence[int] | None) -> None:
    for layer in layers or ():
        if not 0 <= layer < config.num_layers:
            raise SiteError(f"layer {layer} does not exist: there are 0-{config.num_layers - 1}")
        sites.find(name, config, layer)
        if all(at.layer != layer for at in plan):
            raise SiteError(f"layer {layer} is not in the plan {plan}")


def _has(name: str, config: StackConfig, at: Step) -> bool:
    here = sites.layer_sites(config.layers[at.layer])
    return any(site.name == name and site.in_part(at.part) for site in here)


def _all_taps(placed: Sequence[_Placed], reads: Mapping[int, frozenset[str]]) -> dict[int, Taps]:
    edits: dict[int, dict[str, list[EditSlot]]] = {}
    for one in placed:
        edits.setdefault(one.step, {}).setdefault(one.edit.site, []).append(one.slot)
    return {
        step: Taps(
            reads.get(step, ()),
            {site: tuple(slots) for site, slots in edits.get(step, {}).items()},
        )
        for step in set(edits) | set(reads)
    }


def _place(edit: Edit, stack: Stack, plan: Plan) -> list[_Placed]:
    if sites.is_of_stack(edit.site) and (edit.layers is not None or edit.steps is not None):
        raise SiteError(f"site {edit.site!r} belongs to the whole stack: name no layer or step")
    placed = []
    for step in steps_of(edit.site, stack.config, plan, edit.layers, edit.steps):
        site = site_at(edit.site, stack.config, plan, step)
        if site.access == "read":
            raise EditError(
                f"{edit.site!r} of layer {plan.steps[step].layer} can only be read: nothing in the "
                "model follows from it"
            )
        layer = None if step == STACK_STEP else stack.layer(plan.steps[step].layer)
        device = stack.device if layer is None else layer.device
        if edit.site in ("final", "logits"):
            device = stack.head_device
        sizes = axis_sizes(site, stack.config, None if layer is None else plan.steps[step].layer)
        placed.append(
            _Placed(
                edit, step, slot_of(edit, site, sizes, device), source_at(edit, site, step, sizes)
            )
        )
    return placed


def axis_sizes(site: Site, config: StackConfig, layer: int | None) -> dict[str, int]:
    """The sizes of a site's axes that do not depend on the run."""
    sizes = {"C": config.hidden_size, "V": config.vocab_size, "3": 3}
    attn = next((one.attn for one in config.layers if one.attn.kind in site.mixers), None)
    if layer is not None:
        attn = config.layers[layer].attn
        ffn = config.layers[layer].ffn
        sizes["F"] = ffn.intermediate_size
        if isinstance(ffn, MoEConfig):
            sizes |= {"E": ffn.num_experts, "X": ffn.num_experts_per_tok}
    heads = getattr(attn, "num_attention_heads", None)
    if heads is not None:
        sizes["H"] = heads
        sizes["K"] = getattr(attn, "num_key_value_heads", heads)
        if isinstance(attn, LatentAttentionConfig):
            sizes |= {"L": attn.latent_size, "Dk": attn.qk_head_dim, "Dv": attn.v_head_dim}
        else:
            sizes["D"] = sizes["Dv"] = sizes["Dk"] = attn.head_dim  # type: ignore[union-attr]
    elif site.name == "pattern":
        sizes["H"] = 1
    if attn is not None and attn.kind == "rwkv4_time":
        sizes["A"] = attn.attention_size
    elif attn is not None and attn.kind in EAGLE:
        sizes["A"] = sizes["H"] * sizes["D"]
    return sizes
