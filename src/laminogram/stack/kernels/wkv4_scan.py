"""RWKV-4's recurrence as a two-level scan, in plain differentiable operations.

T tokens are cut into n chunks of L ~ sqrt(T). Two recurrences have to be run over the tokens, and
both are associative, so each runs over the L positions of all chunks at once, then over the n
chunks, and one pass over all tokens joins the two:

1. the scale, `m_t = max(m_{t-1} + w, k_t)`;
2. with the scale known, the sums `x_t = exp(m_{t-1} + w - m_t) x_{t-1} + exp(k_t - m_t) (v_t, 1)`,
whose factors
   are all at most 1 and are computed for every token in one call.

Every exponent is a difference to the running maximum, so nothing overflows, and what underflows is
truly zero.

Axes: B batch, T tokens, A attention width; inside, n chunks of L positions. State (B, 3, A): see
`wkv4_naive`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def exp_bound(dtype: torch.dtype) -> float:
    """The exponent beyond which a weight, or its inverse, is lost in rounding."""
    return 80.0 if dtype == torch.float64 else 40.0


def bounded_exp(exponent: Tensor) -> Tensor:
    """`exp(exponent)` within bounds that change no result.

    The past's sum lies between 1 and 1 / (1 - exp(w)) of its scale. So a token that outweighs it by
    the upper bound replaces it to the last bit (no second maximum is needed), and a share below the
    lower bound is lost in rounding whatever it is. The lower bound also keeps denormal numbers out,
    on which CPUs run a hundred times slower.
    """
    bound = exp_bound(exponent.dtype)
    return exponent.clamp(-bound, bound).exp()


def decay_steps(w: Tensor, length: int) -> Tensor:
    """The log decay after 1..length tokens (length, A)."""
    return torch.arange(1, length + 1, device=w.device, dtype=w.dtype)[:, None] * w


def wkv4_scan(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `wkv4_naive`, for at least one token; every argument already in the compute dtype."""
    tokens = k.shape[1]
    num, den, scale = (rows[:, : tokens + 1] for rows in scan_rows(k, v, w, state))
    own = bounded_exp(k + u - scale[:, :-1])
    y = torch.addcmul(num[:, :-1], own, v) / (den[:, :-1] + own)
    if lengths is None:
        last = torch.stack([num[:, -1], den[:, -1], scale[:, -1]], dim=1)
    else:  # row 0 of the three is the state given, so a row without tokens keeps its own
        at = lengths.to(torch.long).view(-1, 1, 1).expand(-1, 1, k.shape[2])
        last = torch.cat([num.gather(1, at), den.gather(1, at), scale.gather(1, at)], dim=1)
    return y, last


def scan_rows(k: Tensor, v: Tensor, w: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numerators, denominators and scales before the first and after every token.

    Each (B, T + 1 or a little more, A): tokens appended to fill the last chunk follow at the end,
    where they change nothing before them.
    """
    length = _chunk_length(k.shape[1])
    short = -k.shape[1] % length
    if short:
        k, v = F.pad(k, (0, 0, 0, short)), F.pad(v, (0, 0, 0, short))
    scale = _scan_scale(k, w, state[:, 2], length)
    num, den = _scan_sums(k, v, w, state, scale, length)
    return num, den, scale


def _chunk_length(tokens: int) -> int:
    """About the root of T, and a divisor of T where one is near: then nothing is padded."""
    root = 1
    while root * root < tokens:  # not math.isqrt, which a compiler does not trace
        root += 1
    return next((length for length in range(root, 2 * root) if tokens % length == 0), root)


def _scan_scale(k: Tensor, w: Tensor, first: Tensor, length: int) -> Tensor:
    """The running maximum `m_t = max(m_{t-1} + w, k_t)`: (B, T + 1, A), row 0 the scale given."""
    columns = k.unflatten(1, (-1, length)).unbind(2)
    rows = [columns[0]]
    for column in columns[1:]:
        rows.append(torch.maximum(rows[-1] + w, column))
    incoming = [first]
    for last in rows[-1].unbind(1)[:-1]:
        incoming.append(torch.maximum(incoming[-1] + w * length, last))
    reach = torch.stack(incoming, dim=1)[:, :, None] + decay_steps(w, length)
    scale = torch.maximum(torch.stack(rows, dim=2), reach)
    return torch.cat([first[:, None], scale.flatten(1, 2)], dim=1)


def _scan_sums(
    k: Tensor, v: Tensor, w: Tensor, state: Tensor, scale: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Numerators and denominators under the known scale: (B, T + 1, A), row 0 the state given."""
    before, after = scale[:, :-1], scale[:, 1:]
    keep = bounded_exp(before + w - after).unflatten(1, (-1, length))
    join = bounded_exp(k - after)
    # what is left of a chunk's incoming state at each of its positions: the kept shares multiplied
    # up
    start = before.unflatten(1, (-1, length))[:, :, :1]
    left = bounded_exp(start + decay_steps(w, length) - after.unflatten(1, (-1, length)))
    return (
        _scan_linear(keep, left, (join * v).unflatten(1, (-1, length)), state[:, 0]),
        _scan_linear(keep, left, join.unflatten(1, (-1, length)), state[:, 1]),
    )


def _scan_linear(keep: Tensor, left: Tensor, joined: Tensor, first: Tensor) -> Tensor:
    """`x_t = keep_t x_{t-1} + joined_t` over chunked tokens (B, n, L, A): (B, n L + 1, A), row 0
    `first`.
    """
    factors, columns = keep.unbind(2), joined.unbind(2)
    rows = [columns[0]]
    for factor, column in zip(factors[1:], columns[1:], strict=True):
        rows.append(torch.addcmul(column, factor, rows[-1]))
    incoming = [first]
    for last, share in zip(rows[-1].unbind(1)[:-1], left[:, :, -1].unbind(1)[:-1], strict=True):
        incoming.append(torch.addcmul(last, share, incoming[-1]))
    carried = torch.stack(incoming, dim=1)[:, :, None]
    sums = torch.addcmul(torch.stack(rows, dim=2), left, carried)
    return torch.cat([first[:, None], sums.flatten(1, 2)], dim=1)
