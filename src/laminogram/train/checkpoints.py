"""Checkpoints of a run: whole or absent, and read without executing anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from laminogram.errors import CheckpointError


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` beside `path`, then put it in place in one move.

    A process killed at any moment leaves the previous checkpoint, or the new one, never a part.
    """
    partial = path.with_name(path.name + ".partial")
    with open(partial, "wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read a checkpoint written by `save_checkpoint`, tensors on `device`.

    Raises CheckpointError where the file is not one.
    """
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of a training run: {error}") from error
    if not isinstance(state, dict) or "optimiser" not in state:
        raise CheckpointError(f"{path} is not a checkpoint of a training run: it has no optimiser")
    return state
