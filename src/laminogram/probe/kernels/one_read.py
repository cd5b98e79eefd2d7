"""The kernels of one_read.cu and batch_end.cu, compiled for the GPU at hand when first wanted.

NVRTC, which comes with torch, compiles them: nothing else is needed on the machine. `missing` says
why they cannot be had; then the plain statistics serve.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
PER_LANE, BLOCK, FIELDS = 4, 128, 1282
"""Channels of a lane and of a block; the histogram's fields without zero and nonfinite."""

_WARPS, _DEPTH, _WIDE = 16, 4, "double"
_TEAMS = _WARPS * 32 // (BLOCK // PER_LANE)
_MEMORY = max((704 + 2) * 32 * 4, _TEAMS * BLOCK * (4 * 8 + 3 * 4))  # bytes: counters, later sums
_JOIN_THREADS, _COUNT_THREADS, _COUNT_VARIANTS = 128, 128, 4


@cache
def missing(device: torch.device) -> str | None:
    """Why the kernels cannot run on a device; None where they can."""
    if device.type != "cuda":
        return f"the one-read kernels are for CUDA, not for {device.type}"
    if torch.version.hip or not hasattr(torch.cuda, "_compile_kernel"):
        return "this torch has no NVRTC compiler of its own (torch.cuda._compile_kernel)"
    try:
        for name in ("one_read", "join_largest", "count_documents"):
            compiled(name, torch.float32, device)
    except Exception as error:  # noqa: BLE001 - whatever stops a compiler, plain code can go on
        return f"the one-read kernels cannot be compiled: {error}"
    return None


@cache
def compiled(name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A kernel for a dtype of sites."""
    _allow_compilation_without_toolkit()
    macros = {
        "DTYPE": DTYPES[dtype],
        "WIDE": _WIDE,
        "WARPS": _WARPS,
        "PER_LANE": PER_LANE,
        "DEPTH": _DEPTH,
    }
    head = "".join(f"#define {key} {value}\n" for key, value in macros.items())
    names = ("words.cu", "one_read.cu" if name == "one_read" else "batch_end.cu")
    folder = files(__package__)
    source = "".join(folder.joinpath(one).read_text(encoding="utf-8") for one in names)
    with torch.cuda.device(device):
        kernel = torch.cuda._compile_kernel(head + source, name)
        if name == "one_read":
            kernel.set_shared_memory_config(_MEMORY)
    return kernel


def _allow_compilation_without_toolkit() -> None:
    """torch asks for the toolkit's folder to find headers, of which these kernels include none."""
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = cpp_extension.CUDA_HOME or "/usr/local/cuda"


def spans_of(rows: int, tokens: int, channels: int, device: torch.device) -> tuple[int, int]:
    """Into how many spans a row is cut, and their length: about one block for each processor."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    spans = max(1, processors // (rows * -(-channels // BLOCK)))
    span = -(-tokens // min(spans, tokens))
    return -(-tokens // span), span


def most_places(rows: int, channels: int, device: torch.device) -> int:
    """How many spans up to so many rows can make together."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return max(rows, processors // -(-channels // BLOCK))


def read(x: Tensor, buffers: tuple[Tensor, ...], options: tuple[Any, ...], spans: int) -> None:
    """Launch `one_read` over x (B, T, C): see the kernel for the buffers and options."""
    device = x.device
    blocks = -(-x.shape[2] // BLOCK)
    compiled("one_read", x.dtype, device)(
        grid=(x.shape[0] * spans, blocks, 1),
        block=(32 * _WARPS, 1, 1),
        args=[x, *buffers, *options],
        shared_mem=_MEMORY,
    )


def join(slots: int, buffers: tuple[Tensor, ...], sizes: tuple[int, ...]) -> None:
    """Launch `join_largest`, one block a slot: see the kernel for the buffers and sizes."""
    compiled("join_largest", torch.float32, buffers[0].device)(
        grid=(slots, 1, 1), block=(_JOIN_THREADS, 1, 1), args=[*buffers, *sizes]
    )


def count(
    rows: int, spans: int, above: Tensor, weights: Tensor, counts: tuple[Tensor, Tensor]
) -> None:
    """Launch `count_documents`: above (S, P, C) of a batch of `rows` documents in `spans` places
    each, weights (V, B) int64; counts, of values and of documents (S, V, C), are added to."""
    slots, places, channels = above.shape
    variants = weights.shape[0]
    compiled("count_documents", torch.float32, above.device)(
        grid=(-(-channels // _COUNT_THREADS), slots, -(-variants // _COUNT_VARIANTS)),
        block=(_COUNT_THREADS, 1, 1),
        args=[above, weights, *counts, rows, spans, places, channels, variants],
    )
