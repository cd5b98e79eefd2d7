"""Opening a Megatron checkpoint as if it were one file of whole tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from laminogram import families
from laminogram.checkpoint.load import Described, read_config
from laminogram.checkpoint.megatron.arguments import source_of
from laminogram.checkpoint.megatron.contents import Contents, Whole, trimmed
from laminogram.checkpoint.megatron.legacy import is_legacy, read_legacy
from laminogram.checkpoint.megatron.naming import LAYOUT
from laminogram.checkpoint.megatron.torch_dist import is_torch_dist, read_torch_dist
from laminogram.checkpoint.reading import Checkpoint
from laminogram.errors import CheckpointError
from laminogram.stack.config import StackConfig

TRACKER = "latest_checkpointed_iteration.txt"
_ITERATION = re.compile(r"iter_\d{7,}|release")
_ZEROS = re.compile(
    r"decoder\.layers\.(\d+)\.(self_attention\.linear_proj|mlp\.linear_fc[12])\.bias"
)


def is_megatron(path: str | Path) -> bool:
    """True for a directory that Megatron wrote: a root, or the folder of one iteration."""
    path = Path(path)
    if not path.is_dir():
        return False
    return (path / TRACKER).is_file() or is_torch_dist(path) or is_legacy(path)


def read_megatron(
    path: str | Path,
    *,
    config: Mapping[str, Any] | None = None,
    vocab_size: int | None = None,
) -> Described:
    """A Megatron checkpoint, its ranks put together: tensors by global name, family and config.

    path: the root with `latest_checkpointed_iteration.txt`, or the folder of one iteration. config:
    what config.json would hold; without it a config.json of the root counts, else the arguments
    stored with the weights. vocab_size: true rows of the vocabulary, where neither says.

    Tensors are put together when they are asked for (`checkpoint.get`), and `load_into` reads them
    with the layout given here. The checkpoint's `extras` are the run's arguments, its iteration and
    how it was cut. CheckpointError, FamilyError or ConfigError say what cannot be read.
    """
    root = Path(path)
    contents = open_contents(root)
    source = _source(root, contents, config)
    if vocab_size is not None:
        source = {**source, "vocab_size": vocab_size}
    family = families.find(source)
    described = family.config(source)
    tensors = trimmed(contents, described.vocab_size)
    tensors = _without_added_biases(tensors, described)
    checkpoint = as_checkpoint(root, tensors, contents)
    return Described(checkpoint, family, LAYOUT, described)


def open_contents(path: Path) -> Contents:
    """The checkpoint as stored, in either layout; CheckpointError where it is in none."""
    if not path.is_dir():
        raise CheckpointError(f"{path} is no directory")
    folder = _iteration(path)
    if is_torch_dist(folder):
        return read_torch_dist(folder)
    if is_legacy(folder):
        return read_legacy(folder)
    listed = ", ".join(sorted(item.name for item in folder.iterdir())[:6]) or "nothing"
    raise CheckpointError(
        f"{folder} holds {listed}; expected mp_rank_00, ... or .metadata with metadata.json"
    )


def _iteration(path: Path) -> Path:
    tracker = path / TRACKER
    if not tracker.is_file():
        found = sorted(item for item in path.iterdir() if _ITERATION.fullmatch(item.name))
        if found:
            raise CheckpointError(
                f"{path} has no {TRACKER}, so what it holds may be incomplete; name the folder to "
                f"read, such as {found[-1].name}"
            )
        return path
    text = tracker.read_text(encoding="utf-8", errors="replace").strip()
    if text != "release" and not text.isdecimal():
        raise CheckpointError(f"{tracker} says {text[:40]!r}; expected a number or release")
    folder = path / ("release" if text == "release" else f"iter_{int(text):07d}")
    if not folder.is_dir():
        raise CheckpointError(f"{tracker} names {folder.name}, which {path} does not have")
    return folder


def _source(root: Path, contents: Contents, config: Mapping[str, Any] | None) -> dict[str, Any]:
    if config is not None:
        return dict(config)
    for file in (root / "config.json", root.parent / "config.json"):
        if file.is_file() and (file.parent == root or is_megatron(root.parent)):
            return read_config(file)
    if contents.arguments is None:
        raise CheckpointError(
            f"{contents.folder} has no arguments stored beside its weights; give the model's "
            "configuration (config=), as its config.json would hold it"
        )
    return source_of(contents.arguments, contents.padded_vocab_size)


def _without_added_biases(tensors: Mapping[str, Whole], config: StackConfig) -> dict[str, Whole]:
    """Without biases that Megatron needed and the model does not have: those that are all zero."""
    kept = dict(tensors)
    for name, whole in tensors.items():
        found = _ZEROS.fullmatch(name)
        if found is None or int(found.group(1)) >= config.num_layers:
            continue
        layer = config.layers[int(found.group(1))]
        attention = found.group(2).startswith("self_attention")
        has = getattr(layer.attn, "o_bias", False) if attention else getattr(layer.ffn, "bias", 0)
        if not has and not torch.count_nonzero(whole.get()):
            del kept[name]
    return kept


class _Source:
    """Gives whole tensors by name, as a checkpoint asks its files for them."""

    def __init__(self, tensors: Mapping[str, Whole]) -> None:
        self._tensors = tensors

    def get_tensor(self, name: str) -> Tensor:
        """The whole tensor."""
        return self._tensors[name].get()

    def files(self, name: str) -> tuple[Path, ...]:
        """The files that its parts lie in."""
        return self._tensors[name].files


def as_checkpoint(path: Path, tensors: Mapping[str, Whole], contents: Contents) -> Checkpoint:
    """Whole tensors as an open checkpoint."""
    extras = {
        "arguments": contents.arguments,
        "iteration": contents.iteration,
        "layout": contents.layout,
        "tp": contents.tp,
        "pp": contents.pp,
        "vpp": contents.vpp,
        "stages": contents.counts,
    }
    infos = {name: whole.info for name, whole in tensors.items()}
    return Checkpoint(path, infos, extras, dict.fromkeys(tensors, _Source(tensors)))
