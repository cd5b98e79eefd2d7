"""What holds for any stack holds for every family: the doctor, and plans with exact caches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.families.small import SMALL, widened
from tests.stacks import relative

from laminogram import families
from laminogram.stack.kernels import matvec
from laminogram.stack.stack import Stack
from laminogram.studies.doctor import examine
from laminogram.view import View

IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3]])
PLANS = ("1, 0", "0, 1, 1", "mean(0, 1), 1", "2x(0-1)")


def view_of(family: str, config: dict[str, Any] | None = None) -> View:
    stack = Stack(families.get(family).config(config or SMALL[family]))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            parameter.normal_(0, 0.3, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return View(stack, None, family, stack.full_plan())


CAUSAL = [name for name in sorted(families.known()) if view_of(name).config.causal]


@pytest.mark.parametrize("family", sorted(families.known()))
def test_the_doctor_finds_nothing(family: str) -> None:
    report = examine(view_of(family))
    assert report.ok, str(report)
    assert sum(row.held is True for row in report.rows) >= 4


@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_any_plan_has_an_exact_cache(family: str) -> None:
    view = view_of(family)
    for plan in PLANS:
        rewired = view.using(plan=plan)
        batch = view.tokens(IDS)
        whole = rewired.run(batch)
        cache = rewired.new_cache(1, capacity=10, planned=10)
        parts = [
            rewired.run(view.tokens(IDS[:, a:b]), cache=cache) for a, b in ((0, 6), (6, 7), (7, 10))
        ]
        assert relative(torch.cat(parts, 1), whole) < 1e-4, plan


@pytest.mark.parametrize("family", CAUSAL)
@torch.no_grad()
def test_compiled_layers_say_what_the_others_say(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("numba")
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)
    view = view_of(family, widened(family))
    whole = view.run(view.tokens(IDS))
    cache = view.new_cache(1, capacity=10, planned=10)
    parts = [view.run(view.tokens(one), cache=cache) for one in IDS.split(1, 1)]
    assert cache.passage is not None
    assert relative(torch.cat(parts, 1), whole) < 1e-4
