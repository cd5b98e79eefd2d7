"""Small stacks with an outlier of each kind planted by hand."""

from __future__ import annotations

import torch
from tests.stacks import ids_of, view_of

from laminogram.probe.edits import set_to
from laminogram.view import View

ROWS = [ids_of(1, n, seed=n)[0].tolist() for n in (40, 37, 40, 35)]
LAYER, CHANNEL, HEAD, COLUMN = 1, 7, 2, 11


def plain() -> View:
    """Nothing planted."""
    return view_of("llama")


def massive_token() -> View:
    """One enormous value: first token, one channel, after layer 1."""
    return plain().using(
        edits=set_to("resid_post", 1e5, layers=LAYER, channels=[CHANNEL], positions=[0])
    )


def large_channel() -> View:
    """One channel that is moderately large at every token, in what the feed-forward reads."""
    return plain().using(edits=set_to("ffn_in", 8.0, channels=[CHANNEL]))


def super_weight() -> View:
    """One entry of layer 1's down projection that turns an inner spike into an outer one."""
    view = plain()
    ffn = view.stack.layer(LAYER).ffn
    with torch.no_grad():
        ffn.up.weight[COLUMN] *= 100
        ffn.down.weight[:, COLUMN] = 0
        ffn.down.weight[CHANNEL, COLUMN] = 5
    return view


def sink_head() -> View:
    """One head of layer 1 that looks at the first token."""
    first = torch.zeros(8)
    first[0] = 10.0
    edits = (
        set_to("q", first, layers=LAYER, heads=[HEAD]),
        set_to("k", first, layers=LAYER, heads=[HEAD // 2], positions=[0]),
    )
    return plain().using(edits=edits)


def norm_weight(layers: tuple[int, ...] = (0, 1)) -> View:
    """A gain that is far off at the same index in these of three layers, harmless in its effect."""
    view = plain()
    with torch.no_grad():
        for layer in layers:
            view.stack.layer(layer).ffn_norm.weight[CHANNEL] = -1.5
    return view
