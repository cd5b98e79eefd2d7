"""Rotary position embedding as configurations state it, old (`rope_scaling`) and new."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from laminogram.errors import ConfigError
from laminogram.families._fields import Fields, is_positive
from laminogram.stack.config import RopeConfig, RopeKind
from laminogram.stack.rope import inverse_frequencies

_COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_TRAINED = "original_max_position_embeddings"
_YARN = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")
# For each kind the parameters that its frequencies read.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "dynamic_log2": (_TRAINED,),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _TRAINED),
    "yarn": ("factor", _TRAINED, *_YARN),
    "longrope": ("factor", "attention_factor", "short_factor", "long_factor", _TRAINED),
    "proportional": ("factor",),
}
_LISTS = ("short_factor", "long_factor")
_OLD_NAMES = {"su": "longrope"}


def read_rope(
    fields: Fields,
    head_dim: int,
    *,
    theta_field: str = "rope_theta",
    partial_field: str = "partial_rotary_factor",
    partial: float | None = None,
    max_positions: int = 2048,
) -> RopeConfig:
    """The rotary embedding of a configuration.

    `rope_parameters` (or the older `rope_scaling`) wins over `theta_field` and `partial_field`
    beside it. `partial` is the family's default share of turned channels; None where the family
    turns all of them and another share is refused. ConfigError names what is missing or unknown.
    """
    given = _given(fields)
    kind = _kind(fields, given)
    share = given.get("partial_rotary_factor", fields.raw(partial_field, partial))
    beside, inner = fields.number(theta_field, 10_000.0), given.get("rope_theta")
    theta = beside if inner is None else inner
    if not is_positive(theta) or theta == 1:
        name = theta_field if inner is None else "rope_theta"
        fields.refuse(name, theta, "a positive number other than 1")
    if share is not None and not (is_positive(share) and share <= 1):
        fields.refuse(partial_field, share, "a share of a head, at most 1.0")
    parameters = {name: given[name] for name in _PARAMETERS[kind] if given.get(name) is not None}
    _check(fields, parameters)
    if _TRAINED in _PARAMETERS[kind]:
        trained = fields.optional(_TRAINED) or given.get(_TRAINED) or max_positions
        if trained < 2:
            fields.refuse(_TRAINED, trained, "at least 2 tokens")
        parameters[_TRAINED] = trained
    dims = head_dim
    if kind == "proportional":
        parameters["partial_rotary_factor"] = 1.0 if share is None else share
    elif share is not None:
        if partial is None and share != 1:
            fields.refuse("partial_rotary_factor", share, "1.0: the family turns whole heads")
        dims = int(head_dim * share)
    rope = RopeConfig(
        theta=float(theta),
        rotary_dims=dims,
        kind=kind,
        parameters=parameters,
        max_position_embeddings=max_positions,
    )
    inverse_frequencies(rope, 1)  # refuses what is missing now rather than at the first token
    return rope


def _kind(fields: Fields, given: Mapping[str, Any]) -> RopeKind:
    """What stretches the frequencies; ConfigError where it is unknown or has a parameter that it
    does not read."""
    kind = given.get("rope_type", given.get("type", "default"))
    if not isinstance(kind, str):
        fields.refuse("rope_type", kind, "one of " + ", ".join(_PARAMETERS))
    kind = _OLD_NAMES.get(kind, kind)
    if kind == "yarn" and "short_factor" in given:  # an early name of what has two lists
        kind = "longrope"
    if kind not in _PARAMETERS:
        fields.refuse("rope_type", kind, "one of " + ", ".join(_PARAMETERS))
    unknown = set(given) - _COMMON - set(_PARAMETERS[kind]) - {_TRAINED}
    if unknown:
        reads = ", ".join(_PARAMETERS[kind]) or "theta alone"
        raise ConfigError(
            f"{fields.family} configuration: rope kind {kind!r} does not know "
            f"{', '.join(sorted(unknown))}; it reads {reads}"
        )
    return cast(RopeKind, kind)


def _check(fields: Fields, parameters: Mapping[str, Any]) -> None:
    """ConfigError for a parameter that its kind cannot compute with."""
    for name, value in parameters.items():
        if name in _LISTS:
            if not isinstance(value, list) or not all(map(is_positive, value)):
                fields.refuse(name, value, "a list of positive numbers")
        elif name == "truncate":
            if not isinstance(value, bool):
                fields.refuse(name, value, "true or false")
        elif not is_positive(value) or (name == _TRAINED and value != int(value)):
            fields.refuse(name, value, "a positive number" + " of tokens" * (name == _TRAINED))
    low, high = parameters.get("low_freq_factor"), parameters.get("high_freq_factor")
    if low is not None and high is not None and low >= high:
        fields.refuse("high_freq_factor", high, f"more than low_freq_factor, {low}")


def _given(fields: Fields) -> Mapping[str, Any]:
    new, old = fields.raw("rope_parameters"), fields.raw("rope_scaling")
    given = old or new or {}
    if not isinstance(given, Mapping):
        fields.refuse("rope_parameters", given, "an object such as {'rope_type': 'default'}")
    if any(isinstance(value, Mapping) for value in given.values()):
        fields.refuse("rope_parameters", dict(given), "one rotary embedding for all layers")
    return given
