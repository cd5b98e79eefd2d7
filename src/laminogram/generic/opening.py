"""From a directory to a wrapped stack: what `transformers` may load, and what is refused.

No code of a checkpoint is run, and no weight is made up: a tensor that is missing, left over or of
another shape is an error, where `transformers` itself draws random rows and warns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils import logging as library_logging

from laminogram.errors import CheckpointError, ConfigError, FamilyError
from laminogram.generic.examine import examine, prove, remembers
from laminogram.generic.layer import Found
from laminogram.generic.spine import Spine
from laminogram.generic.stack import WrappedStack
from laminogram.stack.config import (
    HeadConfig,
    NormConfig,
    StackConfig,
    WrappedConfig,
    WrappedLayerConfig,
)

_INSIDE = NormConfig(kind="layer")
"""Says that there is a final norm; the model computes it."""


def open_wrapped(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    settings: Mapping[str, Any] | None = None,
) -> WrappedStack:
    """The model of a directory, wrapped. `dtype` None keeps the checkpoint's; `settings` replace
    fields of its configuration.

    FamilyError for a model that `transformers` does not know without foreign code, or that cannot
    be run layer by layer; CheckpointError for weights that do not fit; ConfigError for a setting
    that the configuration does not have.
    """
    config = _read_config(folder, settings or {})
    kind, causal = _kind(config)
    model = _load(folder, kind, config, dtype)
    return wrap(model.eval().to(cast(Any, device)), causal=causal)


def wrap(model: PreTrainedModel, *, causal: bool) -> WrappedStack:
    """A stack around a loaded model. FamilyError where it cannot be run layer by layer."""
    spine = Spine(model)
    found = examine(spine, causal=causal)
    longest = _longest(spine)
    stack = WrappedStack(_describe(spine, found, causal), spine, found, longest)
    prove(stack, spine)
    kept = remembers(stack, found, spine)
    if kept is found:
        return stack
    return WrappedStack(_describe(spine, kept, causal), spine, kept, longest)


def _read_config(folder: Path, settings: Mapping[str, Any]) -> PretrainedConfig:
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise FamilyError(f"transformers cannot read {folder / 'config.json'}: {error}") from error
    # A checkpoint may name a hub's kernels here, which are code; transformers chooses its own.
    config._attn_implementation = config._experts_implementation = None
    for name, value in settings.items():
        if not hasattr(config, name):
            known = ", ".join(sorted(config.to_dict()))
            raise ConfigError(f"{config.model_type} has no setting {name!r}; it has {known}")
        setattr(config, name, value)
    return cast(PretrainedConfig, config)


def _kind(config: PretrainedConfig) -> tuple[type[PreTrainedModel], bool]:
    """The class of the model, and whether it is causal; the configuration's word counts first."""
    name = config.model_type
    if getattr(config, "is_encoder_decoder", False):
        raise FamilyError(f"{name} has an encoder and a decoder: two stacks, and this tool has one")
    if getattr(config, "quantization_config", None) is not None:
        raise FamilyError(f"this {name} is quantised; the generic path takes dense weights alone")
    causal: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    masked: Any = MODEL_FOR_MASKED_LM_MAPPING.get(type(config), None)
    said = (config.architectures or [""])[0]
    if causal is None and masked is None:
        raise FamilyError(f"transformers has no language-model head for {name}, causal or masked")
    if masked is None or (causal is not None and said == causal.__name__):
        return cast(type[PreTrainedModel], causal), True
    return cast(type[PreTrainedModel], masked), False


def _load(
    folder: Path, kind: type[PreTrainedModel], config: PretrainedConfig, dtype: torch.dtype | None
) -> PreTrainedModel:
    with _quiet():
        try:
            loaded: Any = kind.from_pretrained(
                folder,
                config=config,
                dtype="auto" if dtype is None else dtype,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise CheckpointError(f"transformers cannot load {folder}: {error}") from error
    model, found = loaded
    wrong = {
        "missing": sorted(found["missing_keys"]),
        "left over": sorted(found["unexpected_keys"]),
        "of another shape": sorted(str(key[0]) for key in found["mismatched_keys"]),
    }
    told = [
        f"{', '.join(names[:4])}{', ...' if names[4:] else ''} {what}"
        for what, names in wrong.items()
        if names
    ]
    if told:
        raise CheckpointError(
            f"the tensors of {folder} do not fit {kind.__name__}: {'; '.join(told)}"
        )
    return cast(PreTrainedModel, model)


@contextmanager
def _quiet() -> Iterator[None]:
    """What transformers would print of weights that do not fit becomes an error here."""
    level = library_logging.get_verbosity()
    library_logging.set_verbosity_error()
    try:
        yield
    finally:
        library_logging.set_verbosity(level)


def _describe(spine: Spine, found: list[Found], causal: bool) -> StackConfig:
    config = spine.model.config.get_text_config()
    eos = getattr(config, "eos_token_id", None)
    eos = [eos] if isinstance(eos, int) else eos or []
    own = spine.model.get_output_embeddings()
    tied = own is not None and own.weight is spine.table.weight
    return StackConfig(
        family=spine.model.config.model_type,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        layers=tuple(_layer(one, causal) for one in found),
        final_norm=_INSIDE,
        head=HeadConfig(tied=tied),
        max_position_embeddings=getattr(config, "max_position_embeddings", None),
        bos_token_id=getattr(config, "bos_token_id", None),
        eos_token_ids=tuple(eos),
        source=spine.model.config.to_dict(),
        limits=_limits(spine, found, causal),
    )


def _layer(found: Found, causal: bool) -> WrappedLayerConfig:
    at = found.anatomy
    two = at.attn is not None and at.ffn is not None
    offered = {
        "resid_pre": True,
        "attn_out": at.attn is not None,
        "resid_mid": two and at.block != "parallel",
        "ffn_out": at.ffn is not None,
        "resid_post": True,
    }
    sites = [name for name, there in offered.items() if there]
    half = sites.index("ffn_out") if at.ffn is not None else len(sites) - 1
    width = sum(heads * size for heads, size in found.memory or ())
    return WrappedLayerConfig(
        block=at.block,
        attn=WrappedConfig(sites=tuple(sites[:half]), causal=causal, cache_width=width),
        ffn=WrappedConfig(sites=tuple(sites[half:]), causal=causal),
    )


def _limits(spine: Spine, found: list[Found], causal: bool) -> tuple[str, ...]:
    """What the card says that the model cannot give here."""
    lines = [
        f"the generic path: {type(spine.model).__name__} of transformers runs the layers",
        "nothing inside attention and feed-forward has a site (q, k, v, pattern, z, ffn_act, ...)",
        "one device; no compiled or captured decoding, no conversion, no plan written to disk",
    ]
    for word, there in (
        ("attn_out", [one.anatomy.attn is not None for one in found]),
        ("ffn_out", [one.anatomy.ffn is not None for one in found]),
    ):
        lacking = [str(index) for index, one in enumerate(there) if not one]
        if lacking:
            lines.append(f"{word} could not be told apart in layers {', '.join(lacking)}")
    if causal and found[0].memory is None:
        lines.append(f"no cache: {found[0].refusal}")
    return tuple(lines)


def _longest(spine: Spine) -> int | None:
    """Tokens up to which positions exist and rotary frequencies stay; None for any number."""
    config = spine.model.config.get_text_config()
    reach = getattr(config, "max_position_embeddings", None)
    limits = []
    for rope in _ropes(getattr(config, "rope_parameters", None) or {}):
        if rope["rope_type"] == "dynamic":
            limits.append(reach)
        if rope["rope_type"] == "longrope":
            original = getattr(config, "original_max_position_embeddings", None)
            limits.append(rope.get("original_max_position_embeddings", original) or reach)
    inside = {id(one) for layer in spine.layers for one in layer.modules()}
    for module in spine.model.modules():
        if not isinstance(module, nn.Embedding) or module is spine.table or id(module) in inside:
            continue
        if reach is not None and reach <= module.num_embeddings <= reach + 8:
            skipped = 0 if module.padding_idx is None else module.padding_idx + 1
            limits.append(min(reach, module.num_embeddings - skipped))
    return min((limit for limit in limits if limit is not None), default=None)


def _ropes(parameters: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every set of rotary parameters: of the model, or of each kind of layer."""
    if "rope_type" in parameters:
        yield parameters
    for value in parameters.values():
        if isinstance(value, Mapping):
            yield from _ropes(value)
