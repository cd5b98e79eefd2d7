"""A model's card: its size by part, its memory by precision, what it remembers for each token."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from laminogram.plans import Group, Plan
from laminogram.stack.conditions import KeysAndValues
from laminogram.stack.config import (
    AttentionConfig,
    AttnConfig,
    LatentAttentionConfig,
    WrappedConfig,
)
from laminogram.stack.flops import idle_entries
from laminogram.stack.linear import kept_dtype
from laminogram.stack.quantise import weights_of
from laminogram.stack.stack import Stack

PARTS = ("embedding", "attn", "ffn", "norms", "head")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Card:
    """What one needs to know of a model before running it.

    parameters: count by part; active_parameters: those that one token meets, the experts that it is
    not sent to left out; bytes_by_precision: of the weights alone, if all were of a dtype, and as
    they are stored where they are quantised; cache_bytes_per_token: keys
    and values that each token adds under the plan, 0 for a recurrent stack; state_bytes: what one
    row remembers whatever its length, 0 for attention; context: the longest text it was made for,
    None where it names none; begins_with: the tokens that a text begins with unless asked
    otherwise, none where BOS is off, None without a tokenizer. limits:
    what a model that another library runs cannot give.
    """

    name: str
    family: str
    layers: int
    hidden_size: int
    vocab_size: int
    parameters: dict[str, int]
    parameter_total: int
    active_parameters: int
    bytes_by_precision: dict[str, int]
    cache_bytes_per_token: int
    state_bytes: int
    context: int | None
    dtype: str = ""
    tokenizer: bool = False
    plan: str = field(default="")
    begins_with: list[str] | None = None
    limits: tuple[str, ...] = ()

    @property
    def _is_sparse(self) -> bool:
        return self.active_parameters < self.parameter_total

    def __str__(self) -> str:
        rows = [
            ("family", self.family),
            ("layers", f"{self.layers} of {self.hidden_size} channels"),
            ("vocabulary", f"{self.vocab_size}"),
            ("parameters", f"{self.parameter_total:,}"),
            *((f"  {part}", f"{count:,}") for part, count in self.parameters.items()),
            *([("active", f"{self.active_parameters:,}")] if self._is_sparse else []),
            *((f"as {name}", _size(count)) for name, count in self.bytes_by_precision.items()),
            ("cache a token", _size(self.cache_bytes_per_token)),
            ("state", _size(self.state_bytes)),
            ("context", "any" if self.context is None else f"{self.context} tokens"),
            ("BOS", _bos(self.begins_with)),
        ]
        rows += [("limits" if i == 0 else "", line) for i, line in enumerate(self.limits)]
        width = max(len(name) for name, _ in rows)
        return "\n".join([self.name, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def make_card(
    stack: Stack,
    plan: Plan,
    name: str,
    *,
    tokenizer: bool,
    kv: KeysAndValues = "exact",
    begins_with: list[str] | None = None,
) -> Card:
    """The card of a stack under a plan; nothing is run."""
    counts = dict.fromkeys(PARTS, 0)
    stored = 0
    for path, weight in weights_of(stack):
        counts[part_of(path)] += weight.numel()
        stored += weight.nbytes
    total = sum(counts.values())
    sizes = {str(dtype).removeprefix("torch."): _bytes_in(stack, dtype) for dtype in _DTYPES}
    if stack.quantised is not None:
        sizes[str(stack.quantised)] = stored
    return Card(
        name=name,
        family=stack.config.family,
        layers=stack.config.num_layers,
        hidden_size=stack.config.hidden_size,
        vocab_size=stack.config.vocab_size,
        parameters=counts,
        parameter_total=total,
        active_parameters=total - idle_entries(stack),
        bytes_by_precision=sizes,
        cache_bytes_per_token=_cache_bytes(stack, plan, kv),
        state_bytes=_state_bytes(stack, plan),
        context=stack.config.max_position_embeddings,
        dtype=str(stack.quantised or stack.dtype).removeprefix("torch."),
        tokenizer=tokenizer,
        plan=str(plan),
        begins_with=begins_with,
        limits=stack.config.limits,
    )


def _bytes_in(stack: Stack, dtype: torch.dtype) -> int:
    """Bytes of all weights in a dtype, but for those that are kept in fp32."""
    return sum(
        weight.numel() * kept_dtype(stack, path, dtype).itemsize
        for path, weight in weights_of(stack)
    )


def part_of(path: str) -> str:
    """The part of a stack (`PARTS`) that a parameter belongs to."""
    if "norm" in path.split("."):
        return "norms" if not path.startswith(("embed", "head")) else _end(path)
    if path.startswith("layers."):
        half = path.split(".")[2]
        return half if half in ("attn", "ffn") else "norms"
    return "norms" if path.startswith("final_norm") else _end(path)


def _end(path: str) -> str:
    return "embedding" if path.startswith("embed") else "head"


def _cache_bytes(stack: Stack, plan: Plan, kv: KeysAndValues) -> int:
    if not stack.config.causal:
        return 0
    if kv == "averaged":  # a group remembers as much as one of its layers
        plan = Plan(x.branches[0] if isinstance(x, Group) else x for x in plan.items)
    size = torch.empty((), dtype=stack.dtype).element_size()
    mixers = (stack.config.layers[step.layer].attn for step in plan if step.part != "ffn")
    return size * sum(map(_kept_numbers, mixers))


def _kept_numbers(attn: AttnConfig) -> int:
    """How many numbers a token adds to the memory of one layer."""
    if isinstance(attn, WrappedConfig):
        return attn.cache_width
    if isinstance(attn, AttentionConfig):
        return 2 * attn.num_key_value_heads * attn.head_dim
    return attn.latent_size if isinstance(attn, LatentAttentionConfig) else 0


def _state_bytes(stack: Stack, plan: Plan) -> int:
    if not stack.config.recurrent:
        return 0
    with torch.device("meta"):
        slots = [stack.layer(step.layer).new_slot(1, 0, step.part) for step in plan]
    return sum(
        tensor.numel() * tensor.element_size()
        for slot in slots
        for _, part in slot.parts()
        for tensor in part.tensors().values()
    )


def _bos(begins_with: list[str] | None) -> str:
    if begins_with is None:
        return "no tokenizer"
    return f"on: texts begin with {' '.join(begins_with)}" if begins_with else "off"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.4g} {unit}"
        value /= 1000
    return f"{value:.4g} GB"
