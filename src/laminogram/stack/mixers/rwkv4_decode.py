"""One layer of RWKV-4 for one token of one row: on vectors, in place, as little as possible beside
the products.

On a CPU each product with a weight sweeps the caches. What comes after it starts cold and costs
several times what it does in a loop of its own, a look-up in a module as much as an operation. So
the memory of a step keeps a decoder of its layer, with views and working memory, that reads the
parameters from the tables of their modules. Parameters written to or replaced are seen. None is
copied but the decay and the bonus (`Wkv4Decoder`): a write to those two past autograd's eyes
(`.data`, a numpy view) is seen by a new cache only.

Axes: C channels, A width, F ffn width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from laminogram.stack.cache import StateSlot, StepSlot
from laminogram.stack.context import Context
from laminogram.stack.kernels.wkv4_decode import Wkv4Decoder
from laminogram.stack.mixers.rwkv4_fused import FusedDecoder, fused_decoder

if TYPE_CHECKING:
    from laminogram.stack.layer import Layer
    from laminogram.stack.mixers.rwkv4 import ChannelMix4, TimeMix4

_WIDE = (torch.float32, torch.float64)


class LayerDecoder:
    """`Layer.forward` of one token; the slot's shifts and state move on."""

    def __init__(self, layer: Layer, slot: StepSlot) -> None:
        self._norms = layer.attn_norm, layer.ffn_norm
        self._time = TimeDecoder(layer.attn, slot.attn)  # type: ignore[arg-type]
        self._channel = ChannelDecoder(layer.ffn, slot.ffn)  # type: ignore[arg-type]
        self._shape = (layer.attn_norm.size,)

    def serves(self, layer: Layer, slot: StepSlot, dtype: torch.dtype) -> bool:
        """Whether it was made for this layer, as it is put together now, and this very memory."""
        norms, modules = self._norms, layer._modules
        return (
            modules["attn_norm"] is norms[0]
            and modules["ffn_norm"] is norms[1]
            and self._time.serves(modules["attn"], slot.attn)  # type: ignore[arg-type]
            and self._channel.serves(modules["ffn"], slot.ffn)  # type: ignore[arg-type]
        )

    def __call__(self, x: Tensor, ctx: Context) -> Tensor:
        """`x (1, 1, C) -> (1, 1, C)`."""
        before, between = self._norms
        table = before._parameters
        h = torch.layer_norm(x, self._shape, table["weight"], table["bias"], before.eps, False)
        x = x + self._time(h)
        table = between._parameters
        h = torch.layer_norm(x, self._shape, table["weight"], table["bias"], between.eps, False)
        return x.add_(self._channel(h))


def row_decoder(
    layer: Layer, slot: StepSlot, dtype: torch.dtype
) -> LayerDecoder | FusedDecoder | None:
    """The decoder that the slot keeps, or a new one where that no longer serves: a compiled call
    where there can be, else operations of torch. None where neither takes the weights: packed ones,
    bf16, another dtype than the memory."""
    decoder: LayerDecoder | FusedDecoder | None = slot.decoder
    if decoder is not None and decoder.serves(layer, slot, dtype):
        return decoder
    fused = fused_decoder(layer, slot, dtype)
    if fused is not None:
        slot.decoder = fused
        return fused
    dtype = slot.attn.shift.dtype
    if dtype not in _WIDE:
        return None
    tables = [module._parameters for module in layer.modules()]
    plain = all(x is None or x.dtype is dtype for table in tables for x in table.values())
    products = (*layer.attn.children(), *layer.ffn.children())
    plain = plain and dtype in _WIDE  # above fp16 weights the residual is fp32
    if not plain or any("weight" not in module._parameters for module in products):
        return None
    plainest = slot.decoder = LayerDecoder(layer, slot)
    return plainest


class _Decoder:
    """What both share: where the parameters are found, and the token shift."""

    def __init__(self, mixer: nn.Module, slot: StateSlot, *products: nn.Module) -> None:
        self._shift = slot.shift
        self._vectors: dict[str, Any] = mixer._parameters
        self._modules = mixer._modules
        self._parts = list(mixer._modules.values())
        self._weights: list[dict[str, Any]] = [product._parameters for product in products]
        self._last = slot.shift.view(-1)

    def serves(self, mixer: nn.Module, slot: StateSlot) -> bool:
        """Whether it was made for this mixer, as it is put together now, and this very memory."""
        return (
            slot.shift is self._shift
            and mixer._modules is self._modules
            and list(self._modules.values()) == self._parts
            and all("weight" in table for table in self._weights)
        )


class TimeDecoder(_Decoder):
    """`TimeMix4.forward` of one token; the slot's shift and state move on."""

    def __init__(self, mixer: TimeMix4, slot: StateSlot) -> None:
        assert slot.state is not None
        super().__init__(mixer, slot, mixer.r, mixer.k, mixer.v, mixer.o)
        self._wkv = Wkv4Decoder(slot.state, mixer.decay, mixer.bonus)
        self._for_r, self._for_k, self._for_v = self._last.new_empty(3, len(self._last)).unbind()
        self._r = torch.empty_like(self._wkv.k)

    def serves(self, mixer: nn.Module, slot: StateSlot) -> bool:
        decay, bonus = self._vectors["decay"], self._vectors["bonus"]
        return (
            super().serves(mixer, slot)
            and slot.state is not None
            and self._wkv.serves(slot.state, decay, bonus)
        )

    def __call__(self, h: Tensor) -> Tensor:
        """`h (1, 1, C) -> (1, 1, C)`."""
        x, last, mix, wkv = h.view(-1), self._last, self._vectors, self._wkv
        r, k, v, o = self._weights
        torch.lerp(last, x, mix["mix_r"], out=self._for_r)
        torch.lerp(last, x, mix["mix_k"], out=self._for_k)
        torch.lerp(last, x, mix["mix_v"], out=self._for_v)
        last.copy_(x)
        torch.mv(r["weight"], self._for_r, out=self._r)
        torch.mv(k["weight"], self._for_k, out=wkv.k)
        torch.mv(v["weight"], self._for_v, out=wkv.v)
        return torch.mv(o["weight"], self._r.sigmoid_().mul_(wkv.step())).view(h.shape)


class ChannelDecoder(_Decoder):
    """`ChannelMix4.forward` of one token; the slot's shift moves on."""

    def __init__(self, mixer: ChannelMix4, slot: StateSlot) -> None:
        super().__init__(mixer, slot, mixer.up, mixer.r, mixer.down)
        self._for_k, self._for_r = self._last.new_empty(2, len(self._last)).unbind()
        self._act = self._last.new_empty(mixer.up.weight.shape[0])
        self._gate = torch.empty_like(self._last)

    def __call__(self, h: Tensor) -> Tensor:
        """`h (1, 1, C) -> (1, 1, C)`."""
        x, last, mix, act = h.view(-1), self._last, self._vectors, self._act
        up, r, down = self._weights
        torch.lerp(last, x, mix["mix_k"], out=self._for_k)
        torch.lerp(last, x, mix["mix_r"], out=self._for_r)
        last.copy_(x)
        torch.mv(up["weight"], self._for_k, out=act)
        torch.mv(r["weight"], self._for_r, out=self._gate)
        act.relu_().mul_(act)
        return torch.mv(down["weight"], act).mul_(self._gate.sigmoid_()).view(h.shape)
