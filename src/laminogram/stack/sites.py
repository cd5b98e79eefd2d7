"""The table of sites: every tensor inside a stack that has a name.

A probe reads at a site, an edit writes there; nothing else in the package names tensors.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from laminogram.errors import SiteError
from laminogram.plans import Part
from laminogram.stack.config import LayerConfig, StackConfig, WrappedLayerConfig

Access = Literal["read, edit", "derived", "read"]

ANY = ("attention", "latent", "rwkv4_time", "rwkv5_time", "rwkv6_time", "rwkv7_time")
ATTENTION, RWKV4, RWKV7 = ("attention",), ("rwkv4_time",), ("rwkv7_time",)
LATENT = ("latent",)
EAGLE, RWKV6 = ("rwkv5_time", "rwkv6_time"), ("rwkv6_time",)
MATRIX = EAGLE + RWKV7
"""Recurrences with a matrix state for each head: their pattern is signed and not normalised."""

AXES = {
    "B": "batch",
    "T": "tokens",
    "C": "channels",
    "H": "heads",
    "K": "key heads",
    "D": "head size",
    "Dk": "size of a head's keys",
    "Dv": "size of a head's values",
    "S": "key positions",
    "F": "width of the feed-forward, or of one expert",
    "E": "experts",
    "X": "experts that a token meets",
    "A": "width of the time mix",
    "L": "latent of a token",
    "V": "vocabulary",
}
"""What the letters of axes stand for."""

STACK_STEP = -1
"""The step under which sites of the stack itself (`embed`, `final`, ...) are filed."""


@dataclass(frozen=True)
class Site:
    """One named tensor.

    `access` is `read, edit`; or `derived`: not on the fast path, so that naming it runs this
    layer's explicit path, for reading and for editing; or `read`: derived, and nothing follows
    from it, so it cannot be edited. `experts` True is a site of layers with a mixture of experts
    alone, False one of those without.
    """

    name: str
    axes: tuple[str, ...]
    meaning: str
    access: Access = "read, edit"
    mixers: tuple[str, ...] = ANY
    blocks: tuple[str, ...] = ("pre", "post", "sandwich", "parallel")
    split: str | None = None
    of_stack: bool = False
    experts: bool | None = None

    def in_layer(self, layer: LayerConfig) -> bool:
        """Whether a layer of this configuration has the site."""
        if isinstance(layer, WrappedLayerConfig):
            return self.name in layer.sites
        return self in _sites_of(*_traits(layer))

    def goes_with(self, mixer: str, block: str, experts: bool, gate: bool) -> bool:
        """Whether layers of these traits have the site."""
        return (
            not self.of_stack
            and mixer in self.mixers
            and block in self.blocks
            and self.experts in (None, experts)
            and not (self.name == "head_out" and mixer == "rwkv4_time")
            and not (self.name == "g" and not gate)
        )

    def in_part(self, part: Part) -> bool:
        """Whether half a layer (`attn` or `ffn`) has the site."""
        if part == "both" or self.name in ("resid_pre", "resid_post"):
            return True
        return (part == "ffn") == (self.name.startswith("ffn") or self.experts is not None)


def _axes(letters: str) -> tuple[str, ...]:
    return tuple(letters.split())


_TABLE = (
    Site("embed", _axes("B T C"), "what enters the first step, embedding norm included",
         of_stack=True),
    Site("v_first", _axes("B T H D"), "RWKV-7's side stream: the values of layer 0, read by every "
         "later layer", mixers=RWKV7, of_stack=True, split="H"),
    Site("resid_pre", _axes("B T C"), "the residual stream that enters the layer"),
    Site("attn_in", _axes("B T C"), "what enters the token mixer: after its norm, before a token "
         "shift"),
    Site("q", _axes("B T H D"), "queries as they enter the product, after rotary",
         mixers=ATTENTION, split="H"),
    Site("q", _axes("B T H Dk"), "queries as they enter the product, turned channels last",
         mixers=LATENT, split="H"),
    Site("latent", _axes("B T L"), "what the cache keeps for all heads: the normed latent, then "
         "the turned channels that their keys share", mixers=LATENT),
    Site("r", _axes("B T A"), "receptance, after the sigmoid", mixers=RWKV4, split="A"),
    Site("r", _axes("B T H D"), "receptance: what reads the state", mixers=MATRIX, split="H"),
    Site("w", _axes("B T H D"), "decay of each key channel, between 0 and 1", mixers=RWKV6,
         split="H"),
    Site("w", _axes("B T H D"), "decay of each key channel, between 0.545 and 1", mixers=RWKV7,
         split="H"),
    Site("k", _axes("B T K D"), "keys as they enter the product, after rotary", mixers=ATTENTION,
         split="K"),
    Site("k", _axes("B T H Dk"), "keys as they enter the product, each head's own channels and the "
         "shared turned ones", "derived", mixers=LATENT, split="H"),
    Site("k", _axes("B T A"), "keys: the log-weight of a token", mixers=RWKV4, split="A"),
    Site("k", _axes("B T H D"), "keys as written to the state, scaled by the learning rate",
         mixers=RWKV7, split="H"),
    Site("k", _axes("B T H D"), "keys as written to the state", mixers=EAGLE, split="H"),
    Site("v", _axes("B T K D"), "values", mixers=ATTENTION, split="K"),
    Site("v", _axes("B T H Dv"), "values", "derived", mixers=LATENT, split="H"),
    Site("v", _axes("B T A"), "values", mixers=RWKV4, split="A"),
    Site("v", _axes("B T H D"), "values", mixers=EAGLE, split="H"),
    Site("v", _axes("B T H D"), "values, after mixing with v_first", mixers=RWKV7, split="H"),
    Site("a", _axes("B T H D"), "in-context learning rate, between 0 and 1", mixers=RWKV7,
         split="H"),
    Site("g", _axes("B T A"), "output gate, after its activation", mixers=EAGLE, split="A"),
    Site("g", _axes("B T C"), "output gate", mixers=RWKV7, split="C"),
    Site("pattern", _axes("B H T S"), "attention weights, rows sum to 1", "derived",
         mixers=ATTENTION + LATENT, split="H"),
    Site("pattern", _axes("B H T S"), "effective attention: the normalised weight of each earlier "
         "token, averaged over channels; rows sum to 1", "read", mixers=RWKV4),
    Site("pattern", _axes("B H T S"), "effective attention: wkv = pattern @ v exactly, where the "
         "state was empty before; signed, not normalised", "read", mixers=MATRIX, split="H"),
    Site("state", _axes("B T 3 A"), "state after each token: numerator, denominator, log of "
         "their common scale", "derived", mixers=RWKV4, split="A"),
    Site("state", _axes("B T H Dv Dk"), "state matrix after each token, from keys to "
         "values", "derived", mixers=MATRIX, split="H"),
    Site("wkv", _axes("B T A"), "what the recurrence answers", mixers=RWKV4, split="A"),
    Site("wkv", _axes("B T H D"), "what the recurrence answers, before the group norm",
         mixers=MATRIX, split="H"),
    Site("z", _axes("B T H D"), "what enters the output projection, head by head",
         mixers=ATTENTION + MATRIX, split="H"),
    Site("z", _axes("B T H Dv"), "what enters the output projection, head by head",
         mixers=LATENT, split="H"),
    Site("z", _axes("B T A"), "what enters the output projection", mixers=RWKV4, split="A"),
    Site("head_out", _axes("B T H C"), "what each head adds to the residual", "derived",
         mixers=ATTENTION + LATENT + MATRIX, split="H"),
    Site("attn_out", _axes("B T C"), "what the token mixer adds to the residual"),
    Site("resid_mid", _axes("B T C"), "the residual between the two mixers",
         blocks=("pre", "post", "sandwich")),
    Site("ffn_in", _axes("B T C"), "what enters the channel mixer: after its norm, before a token "
         "shift"),
    Site("router", _axes("B T E"), "the weight with which each expert's answer is added: "
         "normalised and scaled, 0 where it was not chosen; what an edit leaves above or below 0 "
         "is what runs", experts=True),
    Site("experts", _axes("B T X"), "the numbers of the chosen experts, best first, as the router "
         "chose before any edit of its weights", "read", experts=True),
    Site("ffn_act", _axes("B T F"), "what enters the down projection: activated, gated",
         split="F", experts=False),
    Site("ffn_act", _axes("B T E F"), "what enters each expert's down projection, 0 where the "
         "token was not sent to it (experts that all tokens share are not in it)", "derived",
         split="F", experts=True),
    Site("ffn_out", _axes("B T C"), "what the channel mixer adds to the residual"),
    Site("resid_post", _axes("B T C"), "the residual stream that leaves the layer"),
    Site("final", _axes("B T C"), "what enters the head: after the final norm", of_stack=True),
    Site("logits", _axes("B T V"), "scores over the vocabulary", of_stack=True, split="V"),
)  # fmt: skip

NAMES: tuple[str, ...] = tuple(dict.fromkeys(site.name for site in _TABLE))


def find(name: str, config: StackConfig, layer: int | None = None) -> Site:
    """The site called `name` as layer `layer` has it (None: as a site of the stack).

    Raises SiteError, naming the sites that exist there.
    """
    if name not in NAMES:
        known = dict.fromkeys(row.name for row in describe(config))
        raise SiteError(f"site {name!r} does not exist; there are {', '.join(known)}")
    if layer is None:
        for site in stack_sites(config):
            if site.name == name:
                return site
        raise SiteError(f"site {name!r} belongs to a layer, not to the whole stack")
    for site in layer_sites(config.layers[layer]):
        if site.name == name:
            return site
    here = config.layers[layer]
    have = ", ".join(site.name for site in layer_sites(here))
    what = f"{here.block} block, {here.attn.kind}"
    if isinstance(here, WrappedLayerConfig):
        what = "run by transformers, so what lies inside has no name"
    raise SiteError(f"layer {layer} ({what}) has no site {name!r}; it has {have}")


def is_of_stack(name: str) -> bool:
    """Whether a name belongs to the whole stack (`embed`, `logits`, ...) and to no layer."""
    return any(site.of_stack for site in _TABLE if site.name == name)


def layer_sites(layer: LayerConfig) -> tuple[Site, ...]:
    """Every site that a layer of this configuration has, in the order of the forward."""
    if isinstance(layer, WrappedLayerConfig):
        return tuple(site for site in _TABLE if site.name in layer.sites)
    return _sites_of(*_traits(layer))


def _traits(layer: LayerConfig) -> tuple[str, str, bool, bool]:
    gate = bool(getattr(layer.attn, "gate", True))
    return layer.attn.kind, layer.block, layer.ffn.kind == "moe", gate


@cache
def _sites_of(mixer: str, block: str, experts: bool, gate: bool) -> tuple[Site, ...]:
    return tuple(site for site in _TABLE if site.goes_with(mixer, block, experts, gate))


def stack_sites(config: StackConfig) -> tuple[Site, ...]:
    """The sites of the whole stack."""
    has_v_first = any(layer.attn.kind == "rwkv7_time" for layer in config.layers)
    sites = (site for site in _TABLE if site.of_stack)
    return tuple(
        site
        for site in sites
        if (site.name != "v_first" or has_v_first)
        and (site.name != "logits" or config.head.present)
    )


@dataclass(frozen=True)
class SiteRow:
    """One line of the printed table."""

    name: str
    axes: str
    meaning: str
    access: str
    availability: str


def describe(config: StackConfig) -> list[SiteRow]:
    """The sites of a model as rows for printing: name, axes, meaning, access, where it is."""
    rows = []
    of_stack = set(stack_sites(config))
    for site in _TABLE:
        if site.of_stack:
            where = "stack" if site in of_stack else ""
        else:
            where = _ranges(i for i, layer in enumerate(config.layers) if site.in_layer(layer))
        if where:
            rows.append(SiteRow(site.name, " ".join(site.axes), site.meaning, site.access, where))
    return rows


def _ranges(numbers: Iterable[int]) -> str:
    """`0, 1, 2, 5` as `layers 0-2, 5`; empty for no number."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    parts = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs]
    return f"layers {', '.join(parts)}" if parts else ""
