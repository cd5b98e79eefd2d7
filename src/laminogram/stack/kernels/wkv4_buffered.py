"""The two-level scan of `wkv4_scan` for a CPU without gradients: block after block, in one set of
small buffers.

The scan makes some twenty passes over its tokens. Over a whole sequence each pass would go to
memory and each temporary would be fresh pages; over a block that fits the cache, in buffers that
every block reuses, neither happens.

Axes: B batch, T tokens, A attention width, N tokens of a block, n chunks of L positions in it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .wkv4_scan import decay_steps, exp_bound

BLOCK_ELEMENTS = (
    256 * 768
)  # B * N * A of one block: its five float32 buffers are 4 MB; measured best from 1 to 2 threads
CHUNK = 16  # L; shorter blocks are one chunk


def wkv4_buffered(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `wkv4_naive`; every argument already in the compute dtype, no gradient recorded."""
    batch, tokens, width = k.shape
    largest = min(tokens, max(1, BLOCK_ELEMENTS // max(1, batch * width)))
    if largest > CHUNK:
        largest -= largest % CHUNK
    rows = k.new_empty(3, batch, largest + 1, width)  # scale, numerator, denominator
    spare = k.new_empty(2, batch, largest, width)
    y = torch.empty_like(k, memory_format=torch.contiguous_format)
    steps = decay_steps(w, CHUNK)
    state = state.roll(1, dims=1).transpose(0, 1)  # (3, B, A) in the order of `rows`
    final = state
    start = 0
    while start < tokens:
        size = _block_size(tokens - start, largest)
        here = slice(start, start + size)
        block = rows[:, :, : size + 1]
        _run_block(
            k[:, here], v[:, here], w, u, steps, state, block, spare[:, :, :size], y[:, here]
        )
        state = block[:, :, size].clone()
        if lengths is not None:
            at = (lengths.to(torch.long) - start).clamp(0, size)
            ends = block.gather(2, at.view(1, -1, 1, 1).expand(3, -1, 1, width))[:, :, 0]
            final = torch.where((at > 0)[None, :, None], ends, final)
        start += size
    if lengths is None:
        final = state
    return y, final.transpose(0, 1).roll(-1, dims=1)


def _block_size(left: int, largest: int) -> int:
    """Whole chunks while there are several, then what is left as one chunk."""
    size = min(left, largest)
    return size - size % CHUNK if size > CHUNK else size


def _run_block(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    steps: Tensor,
    state: Tensor,
    rows: Tensor,
    spare: Tensor,
    y: Tensor,
) -> None:
    """Fills `rows` (3, B, N + 1, A) with the states, row 0 the incoming one, and `y` (B, N, A) with
    the answers.
    """
    length = min(CHUNK, k.shape[1])
    shape = (k.shape[1] // length, length)
    rows[:, :, 0] = state
    scale, sums = rows[0], rows[1:]
    own, keep = spare[0], spare[1]
    before, after = scale[:, :-1], scale[:, 1:]

    _fill_scale(k.unflatten(1, shape), w, steps, scale, own.unflatten(1, shape))
    _exp_(torch.add(before, w, out=keep).sub_(after))
    join = sums[1, :, 1:]
    _exp_(torch.sub(k, after, out=join))
    torch.mul(join, v, out=sums[0, :, 1:])
    _fill_sums(keep.unflatten(1, shape), steps, scale, sums, own.unflatten(1, shape))

    _exp_(torch.add(k, u, out=own).sub_(before))
    torch.addcmul(sums[0, :, :-1], own, v, out=y)
    y.div_(own.add_(sums[1, :, :-1]))


def _exp_(exponent: Tensor) -> Tensor:
    """`bounded_exp` in place."""
    bound = exp_bound(exponent.dtype)
    return exponent.clamp_(-bound, bound).exp_()


def _fill_scale(k: Tensor, w: Tensor, steps: Tensor, scale: Tensor, spare: Tensor) -> None:
    """The running maximum into `scale[:, 1:]`; k and spare are (B, n, L, A)."""
    chunks, length = k.shape[1:3]
    local = scale[:, 1:].unflatten(1, (chunks, length))
    step = spare[:, :, 0]
    local[:, :, 0] = k[:, :, 0]
    if (
        chunks == 1
    ):  # the incoming scale enters at the first position, and nothing has to be joined afterwards
        torch.maximum(local[:, 0, 0], scale[:, 0] + w, out=local[:, 0, 0])
    for j in range(1, length):
        torch.add(local[:, :, j - 1], w, out=step)
        torch.maximum(step, k[:, :, j], out=local[:, :, j])
    if chunks == 1:
        return
    incoming = [scale[:, 0]]
    for c in range(chunks - 1):
        incoming.append(torch.maximum(incoming[-1] + steps[length - 1], local[:, c, -1]))
    torch.add(torch.stack(incoming, dim=1)[:, :, None], steps, out=spare)
    torch.maximum(local, spare, out=local)


def _fill_sums(keep: Tensor, steps: Tensor, scale: Tensor, sums: Tensor, spare: Tensor) -> None:
    """Scans `sums[:, :, 1:]`, which holds what each token adds, in place; keep and spare are (B, n,
    L, A).
    """
    chunks, length = keep.shape[1:3]
    local = sums[:, :, 1:].unflatten(2, (chunks, length))
    if chunks == 1:
        local[:, :, 0, 0].addcmul_(keep[:, 0, 0], sums[:, :, 0])
    for j in range(1, length):
        local[:, :, :, j].addcmul_(keep[:, :, j], local[:, :, :, j - 1])
    if chunks == 1:
        return
    start = scale[:, :-1].unflatten(1, (chunks, length))[:, :, :1]
    torch.add(start, steps, out=spare)
    left = _exp_(spare.sub_(scale[:, 1:].unflatten(1, (chunks, length))))
    incoming = [sums[:, :, 0]]
    for c in range(chunks - 1):
        incoming.append(torch.addcmul(local[:, :, c, -1], left[:, c, -1], incoming[-1]))
    local.addcmul_(left, torch.stack(incoming, dim=2)[:, :, :, None])
