"""A hash of weights: equal for equal parameters, whatever file and layout they came from."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

_CHUNK = 1 << 26
_LOOKS = 32
"""Numbers of each parameter by which a write that nobody counted is noticed."""
_known: weakref.WeakKeyDictionary[nn.Module, tuple[tuple[object, ...], str]]
_known = weakref.WeakKeyDictionary()


def fingerprint(module: nn.Module) -> str:
    """BLAKE2b (32 hex digits) over name, dtype, shape and bytes of each parameter, by name.

    Reads every weight once, some 64 MB at a time; the answer is kept until a parameter is
    replaced or written to in place. torch's fused optimisers, and `.data`, write past what counts
    writes: some numbers of every parameter are looked at as well, which finds a step of training
    and not every single number that was changed that way.
    """
    parameters = dict(module.named_parameters())
    state = (
        *((name, id(p), p.data_ptr(), p._version) for name, p in parameters.items()),
        _looks(parameters.values()),
    )
    kept = _known.get(module)
    if kept is None or kept[0] != state:
        kept = (state, hash_tensors(parameters))
        _known[module] = kept
    return kept[1]


def _looks(parameters: Iterable[Tensor]) -> bytes:
    """The bytes of a few numbers of each parameter, spread over its memory."""
    found = []
    for parameter in parameters:
        x = parameter.detach()
        x = x if x.is_contiguous() or x.dim() != 2 else x.t()
        if x.is_contiguous() and x.numel():
            # An odd step meets all columns of a matrix, whose width is seldom odd.
            flat = x.view(-1)[:: max(1, x.numel() // _LOOKS) | 1]
            found.append(flat.contiguous().view(torch.uint8))
    if not found:
        return b""
    device = found[0].device
    return torch.cat([x.to(device) for x in found]).cpu().numpy().tobytes()


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
