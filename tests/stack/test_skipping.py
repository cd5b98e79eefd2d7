"""Weights laid by their inputs: the same model, and what one product leaves out."""

from __future__ import annotations

import pytest
import torch
from tests.stacks import ids_of, view_of

from laminogram.checkpoint.fingerprint import fingerprint
from laminogram.errors import ConfigError
from laminogram.stack.kernels.matvec import lies_by_inputs


def laid(view) -> list[bool]:
    return [lies_by_inputs(layer.ffn.down.weight) for layer in view.stack.layers]


@pytest.mark.parametrize("kind", ["rwkv4", "rwkv5", "rwkv6", "rwkv7"])
def test_only_the_layout_changes_and_it_can_be_laid_back(kind):
    view, ids = view_of(kind), ids_of(2, 5)
    usual, hashed = view.logits(ids), fingerprint(view.stack)
    names, moves = list(view.stack.state_dict()), view.stack.together.moves
    view.stack.skip_zero_rows()
    assert all(laid(view)) and list(view.stack.state_dict()) == names
    assert view.stack.together.moves > moves  # whoever keeps addresses is told
    assert fingerprint(view.stack) == hashed
    assert torch.allclose(view.logits(ids), usual, atol=1e-5)
    view.stack.skip_zero_rows(False)
    assert not any(laid(view))
    assert torch.equal(view.logits(ids), usual)


def test_a_text_goes_on_as_without():
    view = view_of("rwkv4")
    usual = view.generate([1, 2, 3], max_new_tokens=8)
    view.stack.skip_zero_rows()
    assert view.generate([1, 2, 3], max_new_tokens=8).tokens == usual.tokens


def test_a_model_without_squares_is_refused_by_the_name_of_its_mixer():
    with pytest.raises(ConfigError, match=r"squared ReLU .* MLP"):
        view_of("llama").stack.skip_zero_rows()


def test_packed_weights_are_refused():
    view = view_of("rwkv4").using(precision="int8")
    with pytest.raises(ConfigError, match="packed"):
        view.stack.skip_zero_rows()
