"""One token of several rows: which layers take part, and what they are handed. On a CPU, with
halves that stand in for the kernels (`kernels/row_interpreted.py` holds those to the usual path).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.generic import models as generic
from tests.stacks import view_of

from laminogram.stack.mixers import row_decode, rows_decode
from laminogram.stack.taps import NO_TAPS


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The residuals that halves were given."""
    found: list[torch.Tensor] = []

    def half(layer: Any, stream: Any, *rest: Any) -> Any:
        found.append(stream.x)
        return stream

    monkeypatch.setattr(row_decode, "INTERPRETED", True)
    monkeypatch.setattr(row_decode, "triton_missing", lambda: None)
    for kind in list(rows_decode._HALVES):
        monkeypatch.setitem(rows_decode._HALVES, kind, half)
    return found


@torch.no_grad()
def test_kernels_are_handed_rows_that_lie_one_after_the_other(handed: list[torch.Tensor]) -> None:
    """An edit's own function may give memory in another order, which they would not see."""
    layer, ctx = view_of("llama").stack.layer(0), None
    slot, size = layer.new_slot(3, 8, "both"), layer.attn_norm.size
    x = torch.randn(size, 3, 1).permute(1, 2, 0)
    assert not x[:, 0].is_contiguous()
    for out in (
        rows_decode.one_layer(layer, x, ctx, slot, NO_TAPS),
        rows_decode.several_layers([(layer, slot)], x, ctx),
    ):
        assert torch.equal(out, x)
    assert len(handed) == 4 and all(one.is_contiguous() for one in handed)


@torch.no_grad()
def test_a_wrapped_stack_goes_the_usual_way(handed: list[torch.Tensor]) -> None:
    view = generic.wrapped("opt-post")
    ids = generic.ids_of(2, 4)
    cache = view.new_cache(2)
    view.run(view.tokens(ids[:, :3].tolist()), cache=cache)
    found = view.run(view.tokens(ids[:, 3:].tolist()), cache=cache)
    assert torch.allclose(found[:, 0], view.logits(ids)[:, -1], atol=1e-5)
    assert not handed
