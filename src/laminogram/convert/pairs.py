"""Which family converts to which, found by trying small configurations of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from laminogram import families
from laminogram.convert.route import Form, Route, find_route, forms
from laminogram.families import Family
from laminogram.families.base import Fields
from laminogram.stack.config import StackConfig

# Every family reads its own fields from these; what it does not say here is its default.
_SAMPLE: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 24,
    "num_attention_heads": 8,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "seq_length": 64,
    "moe_intermediate_size": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 0,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 8,
    "v_head_dim": 4,
    "head_size": 8,
    "type_vocab_size": 2,
    "pad_token_id": 1,
    "attention_types": [[["global", "local"], 1]],
    **{f"{name}_low_rank_dim": 4 for name in ("decay", "a", "v", "gate")},
}


class Pair(NamedTuple):
    """A family, a form, and what a conversion between them is: a grade and its changes, or why
    there is none."""

    source: str
    target: str
    grade: str
    how: str


def sample(family: Family) -> StackConfig:
    """A small model of a family in its usual form."""
    given = {family.names.get(name, name): value for name, value in _SAMPLE.items()}
    fields = Fields(given, family.name, names=family.names, defaults=family.defaults)
    return family.configure(fields, None)


def pairs() -> Iterator[Pair]:
    """Every pair of two families, and every two forms of one, by name.

    Weights are not known here: a bias counts as one that is not zero.
    """
    known = list(forms())
    for family in families.known().values():
        config = sample(family)
        for form in known:
            same = form.family is family
            if same and len([one for one in known if one.family is family]) < 2:
                continue
            yield _pair(config, form)


def _pair(config: StackConfig, form: Form) -> Pair:
    found = find_route(config, form)
    if isinstance(found, Route):
        how = "; ".join(change.what for change in found.changes) or "names and layout alone"
        bound = "" if found.limit is None else f" to {found.limit} tokens"
        return Pair(config.family, str(form), str(found.grade) + bound, how)
    return Pair(config.family, str(form), "refused", "; ".join(found.reasons))
