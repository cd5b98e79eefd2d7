"""A hash of weights: equal for equal parameters, whatever file and layout they came from."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

_CHUNK = 1 << 26
_known: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], str]]
_known = weakref.WeakKeyDictionary()


def fingerprint(module: nn.Module) -> str:
    """BLAKE2b (32 hex digits) over name, dtype, shape and bytes of each parameter, by name.

    Reads every weight once, some 64 MB at a time; the answer is kept until a parameter is
    replaced or written to in place.
    """
    parameters = dict(module.named_parameters())
    state = tuple((name, id(p), p.data_ptr(), p._version) for name, p in parameters.items())
    kept = _known.get(module)
    if kept is None or kept[0] != state:
        kept = (state, hash_tensors(parameters))
        _known[module] = kept
    return kept[1]


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """The hash of named tensors, as `fingerprint` computes it."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        for chunk in tensor_bytes(tensor):
            digest.update(chunk)
    return digest.hexdigest()


def tensor_bytes(tensor: Tensor) -> Iterator[memoryview]:
    """A tensor's bytes in row-major order, little-endian, in chunks."""
    flat = tensor.detach().contiguous().reshape(-1)
    step = max(1, _CHUNK // max(1, flat.element_size()))
    for start in range(0, flat.numel(), step):
        piece = flat[start : start + step].cpu().view(torch.uint8)
        yield piece.numpy().data
