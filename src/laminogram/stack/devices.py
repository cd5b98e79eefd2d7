"""The current device. torch launches its kernels where their tensors lie, Triton where the current
device is, which need not be the same: so whatever runs layers makes theirs the current one.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Work on a device, and afterwards again on the one before."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def go_on(device: torch.device) -> None:
    """Within `on`: work on another device from here."""
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        torch.cuda.set_device(device)


@cache
def capture_stream(device: torch.device) -> torch.cuda.Stream:
    """Where graphs of a device are captured: one for all, for each has a library's workspace. That
    of torch is one for all devices, made on whichever is current when it is first used."""
    return torch.cuda.Stream(device)
