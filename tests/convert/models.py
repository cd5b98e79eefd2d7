"""Tiny random sources of every family, as published, and what programs of others say of them."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from tests.families import reference as ref
from tests.families.dense_models import dense_cases
from tests.families.hf_models import Case, build, cases
from tests.families.remote import checkpoints as remote
from torch import Tensor
from transformers import AutoModelForCausalLM

TOLERANCE = 2e-5


@lru_cache(maxsize=1)
def known() -> dict[str, Case]:
    """The models that stock transformers has."""
    return cases() | dense_cases()


def make(name: str, folder: Path) -> Path:
    """A source by its name: a case of transformers, or a published decoder that it lacks."""
    if name in remote.CASES:
        case = remote.CASES[name]
        return remote.save(remote.draw(case.shapes), case.config, folder)
    build(known()[name], folder)
    return folder


def restated(name: str, ids: Tensor) -> Tensor:
    """A source's logits by others than us: its published code restated, or stock transformers."""
    if name in remote.CASES:
        case = remote.CASES[name]
        weights = {key: x.double() for key, x in remote.draw(case.shapes).items()}
        return case.logits(weights, case.config, ids).float()
    model = ref.draw(known()[name].model(known()[name].config))
    with torch.no_grad():
        return model(ids).logits


def stock(folder: Path, ids: Tensor) -> Tensor:
    """Logits of stock transformers from a folder, of whatever class its configuration names."""
    model, told = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"], told
    with torch.no_grad():
        return model.eval()(ids).logits
