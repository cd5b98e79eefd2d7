"""Filling a stack that was built on the meta device from an open checkpoint, tensor by tensor.

A tensor whose dtype and layout match stays where it is mapped; any other is converted alone, so the
peak is the model plus its largest tensor. Everything that is wrong is found before anything is
loaded, from shapes alone, and told in one error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from laminogram.checkpoint.reading import Checkpoint
from laminogram.errors import CheckpointError
from laminogram.families.base import Bound, Layout, TensorMap
from laminogram.stack.config import StackConfig
from laminogram.stack.linear import kept_dtype

Device = str | torch.device
Placement = Device | Callable[[str], Device]
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_SHOWN = 4


def load_into(
    stack: nn.Module,
    checkpoint: Checkpoint,
    layout: Layout,
    *,
    config: StackConfig,
    dtype: torch.dtype | None = None,
    device: Placement = "cpu",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Gives every parameter of `stack` its tensor.

    `dtype` None keeps the checkpoint's (the one most elements have). `device` is one device, or a
    function from a parameter's name to its device. `options` go to the layout (`rescaled=6`).
    On "meta" no tensor is read, and the rest is as usual. CheckpointError lists missing, unexpected
    and misshaped tensors, with what was expected.
    """
    mapping = bind(checkpoint, layout, config, options)
    keys = {layout.canonical(key): key for key in checkpoint.tensors}
    parameters = dict(stack.named_parameters())
    bounds = _check(parameters, checkpoint, layout, mapping, keys)
    target = dtype or _common_dtype(checkpoint, keys, bounds.values())
    for name, bound in bounds.items():
        where = torch.device(device(name) if callable(device) else device)
        tensor = bound.read(_getter(checkpoint, keys, blank=where.type == "meta"))
        kept = kept_dtype(stack, name, target)
        tensor = tensor.to(device=where, dtype=kept).contiguous()
        _assign(stack, name, tensor, parameters[name].requires_grad)


def bind(
    checkpoint: Checkpoint,
    layout: Layout,
    config: StackConfig,
    options: Mapping[str, Any] | None = None,
) -> TensorMap:
    """The layout for this model, its options from the caller and from the file's own entries."""
    stored = {name: value for name, value in checkpoint.extras.items() if name in layout.options}
    return layout.bind(config, stored | dict(options or {}))


def _check(
    parameters: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    layout: Layout,
    mapping: TensorMap,
    keys: Mapping[str, str],
) -> dict[str, Bound]:
    bounds: dict[str, Bound] = {}
    missing: list[str] = []
    misshaped: list[str] = []
    used: set[str] = set()
    ours = {name: torch.empty(p.shape, device="meta") for name, p in parameters.items()}
    for name, expected in ours.items():
        bound = mapping.ours(name)
        absent = [name] if bound is None else [n for n in bound.their_names if n not in keys]
        used.update(() if bound is None else bound.their_names)
        if bound is None or absent:
            missing += [item for item in absent if item not in missing]
            continue
        found = bound.read(lambda theirs: _blank(checkpoint, keys[theirs]))
        if found.shape != expected.shape:
            misshaped += _misshaped(bound, mapping, ours, checkpoint, keys, misshaped)
        bounds[name] = bound
    unexpected = [
        key
        for name, key in keys.items()
        if name not in used and not _ignored(name, layout, mapping.config)
    ]
    unexpected = [key for key in unexpected if not _is_copy(key, checkpoint, layout, keys)]
    if missing or unexpected or misshaped:
        raise CheckpointError(
            f"{checkpoint.path} does not hold the weights that its configuration asks for (family "
            f"{mapping.config.family}, layout {layout.name})"
            + _listed("missing", missing)
            + _listed("unexpected", unexpected)
            + _listed("misshaped", misshaped)
        )
    return bounds


def _getter(
    checkpoint: Checkpoint, keys: Mapping[str, str], *, blank: bool
) -> Callable[[str], Tensor]:
    """Gives a tensor by its name of today, or one of its form without memory."""
    get = partial(_blank, checkpoint) if blank else checkpoint.get
    return lambda name: get(keys[name])


def _blank(checkpoint: Checkpoint, key: str) -> Tensor:
    info = checkpoint.tensors[key]
    if info.dtype not in _FLOATS:
        known = ", ".join(str(item).removeprefix("torch.") for item in _FLOATS)
        raise CheckpointError(
            f"{checkpoint.path}: {key} is stored as {str(info.dtype).removeprefix('torch.')}; "
            f"expected one of {known}. Quantised weights are not read"
        )
    return torch.empty(info.shape, device="meta")


def _misshaped(
    bound: Bound,
    mapping: TensorMap,
    ours: Mapping[str, Tensor],
    checkpoint: Checkpoint,
    keys: Mapping[str, str],
    already: list[str],
) -> list[str]:
    told = []
    for name in bound.their_names:
        back = mapping.theirs(name)
        expected = tuple(back.write(lambda ours_name: ours[ours_name]).shape) if back else ()
        found = checkpoint.tensors[keys[name]].shape
        line = f"{keys[name]} (expected {expected}, found {found})"
        if found != expected and line not in already:
            told.append(line)
    return told


def _ignored(name: str, layout: Layout, config: StackConfig) -> bool:
    patterns = (pattern.format(layers=config.num_layers) for pattern in layout.ignore)
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _is_copy(key: str, checkpoint: Checkpoint, layout: Layout, keys: Mapping[str, str]) -> bool:
    """True for a tensor stored twice. One that differs from what it should repeat is an error."""
    original = dict(layout.duplicates).get(layout.canonical(key))
    if original is None or original not in keys:
        return False
    first, second = checkpoint.get(key), checkpoint.get(keys[original])
    if first.shape == second.shape and torch.equal(first, second):
        return True
    raise CheckpointError(
        f"{checkpoint.path}: {key} differs from {keys[original]}; under its configuration the "
        "model has one tensor for both"
    )


def _listed(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"; {what} {len(names)}: {', '.join(names[:_SHOWN])}{more}"


def _common_dtype(
    checkpoint: Checkpoint, keys: Mapping[str, str], bounds: Iterable[Bound]
) -> torch.dtype:
    count: Counter[torch.dtype] = Counter()
    for name in {name for bound in bounds for name in bound.their_names}:
        info = checkpoint.tensors[keys[name]]
        count[info.dtype] += torch.Size(info.shape).numel()
    return count.most_common(1)[0][0]


def _assign(stack: nn.Module, name: str, tensor: Tensor, requires_grad: bool) -> None:
    owner, _, leaf = name.rpartition(".")
    module = stack.get_submodule(owner)
    module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=requires_grad))
