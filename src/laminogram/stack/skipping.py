"""Weights that lie input by input, so that what belongs to an input of zero need not be read.

RWKV's channel mixing squares a ReLU, and most of what then enters its last product is exactly zero
once a model is trained. One token reads a weight once, and that is its cost: rows of zeros are left
out. The layout of the weight is the switch; its name, shape and values stay, and nothing is held
twice. The fused steps of RWKV-4 and RWKV-7 on a GPU and of RWKV-4 on a CPU (with numba, fp32 and
bf16) leave rows out; every other path multiplies all of them, as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from laminogram.errors import ConfigError
from laminogram.stack.config import ChannelMix4Config, ChannelMix6Config, ChannelMix7Config
from laminogram.stack.kernels.matvec import lies_by_inputs

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack

SQUARED = (ChannelMix4Config, ChannelMix6Config, ChannelMix7Config)
"""Channel mixers whose last product follows a squared ReLU."""


def lay(stack: Stack, *, by_inputs: bool) -> None:
    """Lay the last product of every channel mixer with a squared ReLU by its inputs, or back.

    One weight at a time exists twice. ConfigError where there is no such mixer, or its weight is
    packed.
    """
    mixers: list[Any] = [layer.ffn for layer in stack.layers]
    products = [
        mixer.down
        for mixer, layer in zip(mixers, stack.config.layers, strict=True)
        if isinstance(layer.ffn, SQUARED)
    ]
    if not products:
        kinds = sorted({type(mixer).__name__ for mixer in mixers})
        raise ConfigError(
            "rows of zeros are skipped after a squared ReLU (RWKV's channel mixing); the layers "
            f"here have {', '.join(kinds)}"
        )
    packed = [one for one in products if not isinstance(one._parameters.get("weight"), Tensor)]
    if packed:
        raise ConfigError(f"{len(packed)} of these weights are packed ({stack.quantised})")
    with torch.inference_mode(False), torch.no_grad():
        for product in products:
            weight = product.weight
            if lies_by_inputs(weight) != by_inputs:
                old = weight.data
                weight.data = old.t().contiguous().t() if by_inputs else old.contiguous()
    stack.together.moves += 1
