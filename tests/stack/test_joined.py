"""Joined products give what single ones give, and nothing is lost or held twice by joining."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.stacks import ids_of, view_of

from laminogram.errors import ConfigError
from laminogram.stack.joined import JoinedProducts, joining


@pytest.fixture
def view():
    return view_of("llama")


def _owners(view):
    return [part for layer in view.stack.layers for part in (layer.attn, layer.ffn)]


def test_the_same_answer_and_the_same_memory(view):
    ids = ids_of(2, 5)
    with torch.no_grad():
        before = view.logits(ids)
        names = set(view.stack.state_dict())
        joined = JoinedProducts(view.stack)
        assert all(one.joined is not None for one in _owners(view))
        torch.testing.assert_close(view.logits(ids), before)
    assert set(view.stack.state_dict()) == names
    attn = view.stack.layers[0].attn
    whole = attn.joined.weight.untyped_storage().data_ptr()
    assert {p.weight.untyped_storage().data_ptr() for p in (attn.q, attn.k, attn.v)} == {whole}
    assert joined.stand()


def test_joined_for_a_capture_alone(view):
    layers = _owners(view)
    with joining(view.stack) as first:
        assert first.moved and all(one.joined is not None for one in layers)
    assert all(one.joined is None for one in layers)
    places = [weight.data_ptr() for weight in view.stack.parameters()]
    ids = ids_of(2, 5)
    with torch.no_grad(), joining(view.stack) as again:
        assert not again.moved
        found = view.logits(ids)
    assert places == [weight.data_ptr() for weight in view.stack.parameters()]
    torch.testing.assert_close(found, view.logits(ids))


def test_a_copy_begins_without(view):
    JoinedProducts(view.stack)
    layer = view.stack.layers[0]
    for other in (copy.deepcopy(layer.attn), pickle.loads(pickle.dumps(layer.ffn))):
        assert other.joined is None
    assert layer.attn.joined is not None


@pytest.mark.parametrize("change", ["moved", "replaced", "data", "module", "hook"])
def test_whatever_changes_is_noticed(view, change):
    joined = JoinedProducts(view.stack)
    q = view.stack.layers[1].attn.q
    if change == "moved":
        view.stack.to(torch.float64)
        assert all(one.joined is None for one in _owners(view))
    elif change == "replaced":
        q.weight = torch.nn.Parameter(q.weight.detach().clone())
    elif change == "data":
        q.weight.data = q.weight.detach().clone()
    elif change == "module":
        view.stack.layers[1].attn.q = copy.deepcopy(q)
    else:
        q.register_forward_hook(lambda *_: None)
    assert not joined.stand()
    joined.part()
    assert all(one.joined is None for one in _owners(view))


def test_with_gradients_every_product_is_its_own(view):
    JoinedProducts(view.stack)
    view.stack.requires_grad_(True)
    view.run(view.tokens(ids_of(2, 5))).float().sum().backward()
    assert view.stack.layers[0].attn.k.weight.grad is not None


def test_fast_names_what_is_missing(view):
    with pytest.raises(ConfigError, match="CUDA"):
        view.fast()
