"""A plan written into a checkpoint, for every family: the engine's logits, or a refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.families.small import SMALL

import laminogram
from laminogram import families
from laminogram.checkpoint.apply import apply_plan
from laminogram.checkpoint.write import export
from laminogram.errors import LaminogramError
from laminogram.stack.stack import Stack

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])
PLANS = ("0-1", "1, 0", "1", "0, 0, 1", "0-1, 0")
# Where a layer's number decides what it is, a configuration cannot say every order.
REFUSED = {"deepseek_v2": 4, "deepseek_v3": 4, "gpt_neo": 4, "rwkv7": 4}


@pytest.mark.parametrize("family", sorted(families.known()))
def test_written_or_refused(family: str, tmp_path: Path) -> None:
    config = families.get(family).config(SMALL[family])
    stack = Stack(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    export(stack, config, tmp_path / "model")
    view, refused = laminogram.load(tmp_path / "model"), 0
    for number, plan in enumerate(PLANS):
        try:
            folder = apply_plan(tmp_path / "model", plan, tmp_path / str(number), copy=True)
        except LaminogramError:
            refused += 1
            assert not (tmp_path / str(number)).exists()
            continue
        want = view.using(plan=plan).logits(IDS)
        assert torch.allclose(laminogram.load(folder).logits(IDS), want, atol=1e-5, rtol=1e-4)
    assert refused <= REFUSED.get(family, 0), f"{refused} of {len(PLANS)} plans refused"
