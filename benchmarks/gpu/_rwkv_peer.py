"""The `rwkv` package as a peer: its CUDA kernels compiled beside other work, and its last logits.

The package compiles its kernels when it is imported, for a minute or more, and decides by the
environment which RWKV it is.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

PACKAGE = "rwkv"
PATIENCE = 100.0  # seconds for the compilation, from its start


@dataclass(frozen=True)
class Peer:
    """The package's model; kernels: whether it runs with the package's CUDA kernels."""

    model: Any
    kernels: bool

    def last(self, ids: list[int]) -> Tensor:
        """A text's last logits."""
        logits: Tensor = self.model.forward(ids, None)[0]
        return logits


def installed() -> bool:
    return importlib.util.find_spec(PACKAGE) is not None


@functools.cache
def compiling() -> tuple[subprocess.Popen[bytes], float]:
    """Starts to compile the kernels of all versions in a process of its own; when it was started.

    torch keeps them (below TORCH_EXTENSIONS_DIR), so that this process finds them there.
    """
    os.environ.setdefault("TORCH_CUDA_ARCH_LIST", ".".join(map(str, _capability())))
    settings = {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "1", "RWKV_V7_ON": "1"}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    command = [sys.executable, "-c", f"import {PACKAGE}.model"]
    process = subprocess.Popen(command, env=os.environ | settings, **quiet)  # type: ignore[call-overload]
    return process, time.monotonic()


def _capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability()


@functools.cache
def kernels(device: str) -> bool:
    """Waits for the kernels; False where they cannot be compiled, or not in time."""
    if device != "cuda":
        return False
    process, begin = compiling()
    try:
        return process.wait(max(0.0, begin + PATIENCE - time.monotonic())) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        return False


@functools.lru_cache(maxsize=1)
def peer(version: int, path: Path, device: str) -> Peer:
    """The model of a file in fp16, which the package's kernels are written for."""
    compiled = kernels(device)
    os.environ |= {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": str(int(compiled))}
    os.environ["RWKV_V7_ON"] = "1" if version == 7 else "0"
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]
    with contextlib.redirect_stdout(io.StringIO()):
        from rwkv.model import RWKV

        name = str(path.with_suffix("")) if version == 7 else str(path)
        model = RWKV(model=name, strategy="cuda fp16" if device == "cuda" else "cpu fp32")
    return Peer(model, compiled)
