"""Which forwards are captured, replayed and let go of; the graph itself is a stand-in here."""

from __future__ import annotations

import copy
import weakref
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.stacks import ids_of, view_of

from laminogram.stack import forward, forward_graph
from laminogram.stack.forward_graph import FastForward


class _Graph:
    """Runs again what ran while it was captured; like a real one it keeps nothing that it reads."""

    current: _Graph | None = None
    replays = 0

    def replay(self) -> None:
        _Graph.replays += 1
        with torch.no_grad():
            self.out.copy_(self.again())

    def run(self, stack: Any, *given: Any, **options: Any) -> torch.Tensor:
        batch, plan, ctx = given
        read, observer = (weakref.ref(batch), weakref.ref(ctx)), options["observer"]

        def again() -> torch.Tensor:
            batch, ctx = (one() for one in read)
            assert batch is not None and ctx is not None, "the graph reads freed memory"
            kept = list(getattr(observer, "taken", []))
            out = self.through(stack, batch, plan, ctx, **options)
            if kept:
                for (*_, x), (*_, new) in zip(kept, observer.taken[len(kept) :], strict=True):
                    x.copy_(new)
                observer.taken[:] = kept
            return out

        self.again = again
        self.out = again()
        return self.out


@pytest.fixture(params=["llama"])
def view(monkeypatch, request):
    @contextmanager
    def graph(made: _Graph, pool: object, stream: object = None):
        through = forward.through
        made.through = through
        with monkeypatch.context() as patch:
            patch.setattr(forward, "through", made.run)
            yield

    view = view_of(request.param)
    monkeypatch.setattr(forward_graph, "_check", lambda stack: None)
    monkeypatch.setattr(view.stack, "compile_layers", lambda: view.stack)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", _Graph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda *given, **options: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 1 << 20))
    _Graph.replays = 0
    return view.fast()


def _plain(view, ids):
    fast, view.stack.fast = view.stack.fast, None
    out = view.logits(ids)
    view.stack.fast = fast
    return out


def test_the_second_is_captured_and_later_ones_read_new_tokens(view):
    for seed in range(4):
        ids = ids_of(2, 6, seed)
        out = view.logits(ids)
        torch.testing.assert_close(out, _plain(view, ids))
        assert _Graph.replays == seed
    kept = out.clone()
    view.logits(ids_of(2, 6, 9))
    assert torch.equal(out, kept)


def test_pads_gradients_and_edits_run_without(view):
    from laminogram.probe import edits

    for _ in range(3):
        view.logits([[1, 2, 3], [4]])
        view.run(view.tokens(ids_of(2, 6)))
        edited = view.using(edits=[edits.zero("ffn_out", layers=1)])
        edited.logits(ids_of(2, 6))
        edited.record(ids_of(2, 6), sites=["ffn_out"])
        view.record([[1, 2, 3], [4]], sites=["ffn_out"])
        view.record(ids_of(2, 6), sites=["ffn_out"], grad=lambda logits: logits.sum())
    assert _Graph.replays == 0


SITES = ("ffn_out", "resid_post", "final", "logits")


def _recorded_plainly(view, ids, sites=SITES):
    fast, view.stack.fast = view.stack.fast, None
    gram = view.record(ids, sites)
    view.stack.fast = fast
    return gram


def test_programs_that_read_the_same_share_a_graph_and_keep_what_they_took(view):
    kept = []
    for seed in range(4):
        ids = ids_of(2, 6, seed)
        kept.append((view.record(ids, SITES), _recorded_plainly(view, ids)))
        assert _Graph.replays == seed
    view.record(ids_of(2, 6), ("ffn_out",))  # another graph
    assert _Graph.replays == 3
    for gram, plain in kept:
        assert set(gram) == set(plain)
        for key in plain:
            torch.testing.assert_close(gram.tensor(*key), plain.tensor(*key))
        assert gram.manifest == plain.manifest


def test_recordings_of_many_batches_are_replayed(view):
    texts = ids_of(10, 6)
    grams = list(view.recordings(texts, SITES, batch_size=2))
    assert _Graph.replays == 4
    for number, gram in enumerate(grams):
        plain = _recorded_plainly(view, texts[2 * number : 2 * number + 2])
        for key in plain:
            torch.testing.assert_close(gram.tensor(*key), plain.tensor(*key))


def test_what_graphs_keep_for_readers_is_bounded(view, monkeypatch):
    sites = ["ffn_out", "attn_out"]
    for site in sites * 3:
        view.record(ids_of(2, 6), site)
    one = next(entry.read_bytes for entry in view.stack.fast._entries.values())
    assert _Graph.replays == 4
    assert len(view.stack.fast._entries) == 2
    view.stack.fast.forget()
    room = forward_graph.READ_SHARE * one
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, room))
    for site in sites:
        for _ in range(3):
            view.record(ids_of(2, 6), site)
    assert _Graph.replays == 4 + 4
    assert [key[3] for key in view.stack.fast._entries] == [
        frozenset((step, "attn_out") for step in range(len(view.plan)))
    ]
    for seed in range(4):
        gram = view.record(ids_of(2, 6, seed), sites)
        plain = _recorded_plainly(view, ids_of(2, 6, seed), sites)
        assert all(torch.equal(gram.tensor(*key), plain.tensor(*key)) for key in plain)
    assert _Graph.replays == 8
    assert "bytes" in view.stack.fast.reasons[2, 6]


def test_weights_that_move_end_every_graph(view):
    ids = ids_of(2, 6)
    for _ in range(3):
        before = view.logits(ids)
    q = view.stack.layers[0].attn.q
    q.weight = torch.nn.Parameter(q.weight.detach() * 2, requires_grad=False)
    after = view.logits(ids)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, _plain(view, ids))
    assert view.stack.layers[0].attn.joined is not None


def test_why_a_capture_was_refused_can_be_asked(view, monkeypatch):
    def waits(self, entry, *rest):
        raise RuntimeError("a layer waits for the device")

    monkeypatch.setattr(FastForward, "_capture", waits)
    view.logits(ids_of(2, 6))
    assert view.stack.fast.reasons == {}
    with pytest.warns(UserWarning, match="waits for the device"):
        view.logits(ids_of(2, 6))
    assert view.stack.fast.reasons == {(2, 6): "a layer waits for the device"}
    view.logits(ids_of(2, 6))  # no second warning


def test_the_number_of_graphs_is_bounded(view):
    for tokens in range(2, 2 + forward_graph.MOST_GRAPHS + 3):
        view.logits(ids_of(1, tokens))
    assert len(view.stack.fast._entries) == forward_graph.MOST_GRAPHS
    view.stack.fast.forget()
    assert not view.stack.fast._entries


def test_a_copy_begins_without(view):
    assert isinstance(view.stack.fast, FastForward)
    assert copy.deepcopy(view.stack.fast) is None


@pytest.mark.parametrize("view", ["rwkv4", "rwkv7"], indirect=True)
def test_prompts_of_recurrent_layers_fill_the_cache_that_is_given(view):
    for seed in range(4):
        ids = view.tokens(ids_of(2, 6, seed))
        filled, plain = view.new_cache(2), view.new_cache(2)
        with torch.no_grad():
            out = view.run(ids, cache=filled, logits="last")
            fast, view.stack.fast = view.stack.fast, None
            expected = view.run(ids, cache=plain, logits="last")
            view.stack.fast = fast
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(filled.tensors(), plain.tensors())
        assert (filled.lengths, filled.prompts, filled.regime) == ([6, 6], [6, 6], plain.regime)
        assert _Graph.replays == seed
        view.run(view.tokens(ids_of(2, 3, seed)), cache=filled)  # what goes on has no graph
        assert _Graph.replays == seed


def test_a_cache_with_keys_has_no_graph(view):
    for seed in range(3):
        view.run(view.tokens(ids_of(2, 6, seed)), cache=view.new_cache(2))
    assert _Graph.replays == 0


def test_a_run_with_a_cache_asks_whether_the_joined_products_still_stand(view):
    ids = view.tokens(ids_of(2, 6))
    weight = view.stack.layer(0).attn.k.weight
    view.stack.layer(0).attn.k.weight = torch.nn.Parameter(torch.randn_like(weight))
    with torch.no_grad():
        out = view.run(ids, cache=view.new_cache(2))
        torch.testing.assert_close(out, _plain_run(view, ids))


def _plain_run(view, ids):
    """The same of a copy, which begins without joined products."""
    stack = copy.deepcopy(view.stack)
    return forward.run(stack, ids, view.plan)
