"""Which device is the current one while layers run. No GPU: torch's own calls are stood in for."""

from __future__ import annotations

import pytest
import torch
from tests.stacks import ids_of, view_of

from laminogram.stack import devices, forward

FIRST, SECOND = torch.device("cuda", 0), torch.device("cuda", 1)


def test_the_current_device_follows_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[int] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: went[-1] if went else 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: went.append(device.index))
    for device in (FIRST, SECOND, SECOND, torch.device("cpu"), FIRST):
        devices.go_on(device)
    assert went == [1, 0]


@torch.no_grad()
def test_a_run_works_on_the_device_of_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    went: list[str] = []
    monkeypatch.setattr(forward, "go_on", lambda device: went.append(str(device)))
    view = view_of("llama")
    view.logits(ids_of(1, 3))
    assert went == ["cpu"] * (view.config.num_layers + 1)  # every layer, and the head
