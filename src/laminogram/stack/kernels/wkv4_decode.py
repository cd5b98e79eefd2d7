"""RWKV-4's recurrence for one token, in few operations.

The step is written with `exp2`: on a CPU with two threads `exp` of a few hundred numbers was seen
to take ten times as long, as if its library woke its threads for them. The exponents lie between
minus and plus `exp_bound`, where the rounding of `x * log2(e)` moves a sum no more than its own
rounding.

Axes: B batch, T tokens (here 1), A attention width. State (B, 3, A): see `wkv4_naive`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .wkv4_scan import exp_bound

LOG2_E = math.log2(math.e)


def wkv4_single(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `wkv4_naive` for one token; every argument already in the compute dtype."""
    num, den, scale = state.unbind(1)
    key, value = k[:, 0], v[:, 0]
    decayed = scale + w
    top = torch.maximum(decayed, key)
    bound = exp_bound(key.dtype)
    exponents = torch.stack((decayed - top, key - top, key + u - scale)).clamp(-bound, bound)
    keep, join, own = (exponents * LOG2_E).exp2().unbind()
    y = torch.addcmul(num, own, value) / (den + own)
    new = torch.stack(
        (torch.addcmul(join * value, keep, num), torch.addcmul(join, keep, den), top), dim=1
    )
    if lengths is not None:
        new = torch.where((lengths > 0)[:, None, None], new, state)
    return y[:, None], new


class Wkv4Decoder:
    """The same step for one row whose state is advanced in place, gradients off.

    It belongs to one state and holds what does not change from token to token: the decay's
    exponential and its working memory (14 A numbers). The caller writes the token's key and value
    into `k` and `v` (A,) and calls `step`.
    """

    def __init__(self, state: Tensor, decay: Tensor, bonus: Tensor) -> None:
        """state (1, 3, A); decay and bonus (A,) as the parameters hold them (`time_decay`)."""
        self.state = state
        self._stamp = stamp(decay), stamp(bonus)
        self._sums, self._scale = state[0, :2], state[0, 2]
        self._w = -torch.exp(decay.to(state.dtype))
        u = bonus.to(state.dtype)
        one, high = torch.ones_like(u), exp_bound(u.dtype) * LOG2_E
        # Exponents of base 2 as `offset + sign * (k - scale)`: of the past, the token, its answer.
        self._offset = torch.stack((self._w, -self._w, u)) * LOG2_E
        self._sign = torch.stack((-one, one, one)) * LOG2_E
        self._low = torch.full_like(self._sign, -high)
        self._high = torch.stack((0 * one, 0 * one, high * one))
        self._ahead, self._weights = torch.empty_like(u), torch.empty_like(self._sign)
        self._keep, self._join, self._own = self._weights.unbind()
        self._pair = torch.ones_like(self._sums)  # what a token adds to both sums: (v, 1)
        self.k, self.v = torch.empty_like(u), self._pair[0]
        self._answer = torch.empty_like(self._sums)
        self._top, self._bottom = self._answer.unbind()

    def serves(self, state: Tensor, decay: Tensor, bonus: Tensor) -> bool:
        """Whether it was made for this very state and the parameters as they are now."""
        return self.state is state and self._stamp == (stamp(decay), stamp(bonus))

    def step(self) -> Tensor:
        """y (A,), valid until the next call, and `state` advanced by the token in `k`, `v`."""
        torch.sub(self.k, self._scale, out=self._ahead)
        torch.addcmul(self._offset, self._sign, self._ahead, out=self._weights)
        torch.clamp(self._weights, self._low, self._high, out=self._weights).exp2_()
        torch.addcmul(self._sums, self._own, self._pair, out=self._answer)
        self._sums.mul_(self._keep).addcmul_(self._join, self._pair)
        torch.maximum(self._scale.add_(self._w), self.k, out=self._scale)
        return self._top.div_(self._bottom)


def stamp(parameter: Tensor) -> tuple[int, int]:
    """What changes when a parameter does: where it lies, and how often it was written to."""
    version = -1 if parameter.is_inference() else parameter._version
    return parameter.data_ptr(), version
