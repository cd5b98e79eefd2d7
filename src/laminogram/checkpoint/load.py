"""Opening a model: from a name or path to a stack with its weights, its tokenizer and its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from laminogram import families
from laminogram.checkpoint import blockwise
from laminogram.checkpoint.loading import Device, load_into
from laminogram.checkpoint.reading import Checkpoint, open_checkpoint
from laminogram.checkpoint.resolve import Resolved, resolve
from laminogram.errors import CheckpointError, ConfigError, FamilyError
from laminogram.families import Family, Layout
from laminogram.stack.config import StackConfig
from laminogram.tokenizers import Tokenizer, find_tokenizer

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack


@dataclass(frozen=True)
class Described:
    """An open checkpoint with what its configuration or its tensors say it is."""

    checkpoint: Checkpoint
    family: Family
    layout: Layout
    config: StackConfig


@dataclass(frozen=True)
class Opened:
    """A loaded model; `tokenizer_missing` says why it has no tokenizer, where that is known.

    `described` is None for a model that no family knows, which transformers runs.
    """

    stack: Stack
    tokenizer: Tokenizer | None
    name: str
    path: Path
    described: Described | None
    tokenizer_missing: str = ""


def describe(
    path: str | Path,
    settings: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Described:
    """Opens a checkpoint and tells its family, layout and configuration, reading no weights.

    `settings` replace fields of the configuration (`group_norm_eps=1e-5`). `dtype` is that in which
    fp8 weights are given. Errors are CheckpointError, FamilyError or ConfigError.
    """
    from laminogram.checkpoint.megatron import is_megatron, read_megatron

    path = Path(path)
    if is_megatron(path):
        found = read_megatron(path)
        changed = {**found.config.source, **settings} if settings else None
        return found if changed is None else read_megatron(path, config=changed)
    checkpoint = open_checkpoint(path)
    file = (path if path.is_dir() else path.parent) / "config.json"
    source = read_config(file) if path.is_dir() and file.is_file() else None
    if source is None:
        try:
            family, source = families.detect(checkpoint.shapes)
        except FamilyError:
            if path.is_dir() or not file.is_file():
                raise
            source = read_config(file)
    checkpoint, source = blockwise.plain(checkpoint, source, dtype), blockwise.unquantised(source)
    family = families.find(source)
    layout = family.layout(checkpoint.keys)
    shapes = {layout.canonical(key): shape for key, shape in checkpoint.shapes.items()}
    config = family.config({**source, **(settings or {})}, shapes)
    return Described(checkpoint, family, layout, config)


def open_model(
    path_or_name: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: Device | Sequence[Device] | Callable[[str], Device] = "cpu",
    revision: str | None = None,
    **settings: Any,
) -> Opened:
    """Loads a bundled name, a directory, a file or a hub id.

    `dtype` None keeps the checkpoint's. `device` is one device, "auto", a list over which layers
    spread, or a function from parameter name to device. Further settings replace fields of the
    configuration, or are options of how its tensors are laid out (`rescaled=6`). ConfigError where
    the family understands neither. A model that no family knows is run by transformers, where that
    has it and is installed, on one device: see `laminogram.generic`.
    """
    from laminogram.stack.stack import Stack

    _check_devices(device)
    found = resolve(path_or_name, revision=revision)
    try:
        _check_family(found.path)
    except FamilyError as unknown:
        return _open_wrapped(found, unknown, dtype, device, settings)
    options = {name: settings.pop(name) for name in families.options() & set(settings)}
    described = describe(found.path, settings, dtype or torch.bfloat16)
    config = described.config
    stack = Stack(config, device="meta", dtype=dtype or torch.float32)
    placement = placed(config, device)
    load_into(
        stack,
        described.checkpoint,
        described.layout,
        config=config,
        dtype=dtype,
        device=placement,
        options=options,
    )
    text = find_tokenizer(
        found.path,
        bos=config.bos_token_id,
        eos=config.eos_token_ids,
        habits=described.family.text,
        vocab_size=config.vocab_size,
    )
    return Opened(stack, text.tokenizer, found.name, found.path, described, text.missing)


def _check_family(path: Path) -> None:
    """FamilyError for a directory whose configuration no family answers to."""
    file = path / "config.json"
    if path.is_dir() and file.is_file():
        families.find(read_config(file))


def _open_wrapped(
    found: Resolved,
    unknown: FamilyError,
    dtype: torch.dtype | None,
    device: Device | Sequence[Device] | Callable[[str], Device],
    settings: Mapping[str, Any],
) -> Opened:
    """The same for a model that only transformers knows; FamilyError where it does not either."""
    try:
        from laminogram.generic.opening import open_wrapped
    except ImportError as error:
        raise FamilyError(
            f"{unknown} Other models can be run by transformers (pip install 'laminogram[hf]'), "
            f"which cannot be imported: {error}"
        ) from error
    places = [device] if callable(device) or isinstance(device, str | torch.device) else device
    if len(places) != 1 or callable(places[0]) or places[0] == "auto":
        raise ConfigError("a model that transformers runs lies on one device: name it")
    try:
        stack = open_wrapped(found.path, dtype=dtype, device=places[0], settings=settings)
    except FamilyError as error:
        raise FamilyError(f"{unknown}. Nor can transformers open it: {error}") from error
    config = stack.config
    text = find_tokenizer(
        found.path,
        bos=config.bos_token_id,
        eos=config.eos_token_ids,
        vocab_size=config.vocab_size,
    )
    return Opened(stack, text.tokenizer, found.name, found.path, None, text.missing)


def placed(
    config: StackConfig, device: Device | Sequence[Device] | Callable[[str], Device]
) -> Device | Callable[[str], Device]:
    """One device for each parameter: layers in equal runs over a list, the head on the last.

    "auto" is every visible GPU, else the CPU. A tied head stays with the embedding.
    """
    if callable(device) or isinstance(device, torch.device):
        return device
    if device == "auto":
        count = torch.cuda.device_count()
        device = [torch.device("cuda", index) for index in range(count)] or ["cpu"]
    if isinstance(device, str):
        return device
    devices = list(device)
    if not devices:
        raise ConfigError("device is an empty list; expected at least one device")
    if len(devices) == 1:
        return devices[0]
    layers = len(config.layers)

    def where(name: str) -> Device:
        if name.startswith("embed."):
            return devices[0]
        if not name.startswith("layers."):
            return devices[0 if config.head.tied else -1]
        return devices[int(name.split(".")[1]) * len(devices) // layers]

    return where


def _check_devices(device: Device | Sequence[Device] | Callable[[str], Device]) -> None:
    """ConfigError for a device that this machine does not have, naming those it has."""
    if callable(device) or device == "auto":
        return
    count = torch.cuda.device_count()
    there = ", ".join(["cpu", *(f"cuda:{index}" for index in range(count))])
    for one in (device,) if isinstance(device, str | torch.device) else device:
        try:
            found = torch.device(one)
        except RuntimeError as error:
            raise ConfigError(f"device {one!r} is unknown; there are {there}") from error
        if found.type == "cuda" and (found.index or 0) >= count:
            raise ConfigError(f"device {str(one)!r} is not on this machine; there are {there}")


def read_config(file: Path) -> dict[str, Any]:
    """The contents of a config.json; CheckpointError where it is not a readable JSON object."""
    try:
        source = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is no readable configuration: {error}") from error
    if not isinstance(source, dict):
        raise CheckpointError(f"{file} holds a {type(source).__name__}; expected an object")
    return source
