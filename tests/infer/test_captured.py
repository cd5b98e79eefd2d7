"""Generation by captured steps, here without the capture: the same tokens, the same memory."""

from __future__ import annotations

import copy

import pytest
from tests.infer.speaking import view_with_eos
from tests.stacks import view_of

from laminogram.infer import captured
from laminogram.infer.decode_graph import DecodeGraph
from laminogram.probe import edits

RAGGED = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [35, 8, 9, 7]]


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps are taken from a graph on the CPU too; what was used is noted."""
    used: list[str] = []
    step = DecodeGraph.step
    monkeypatch.setattr(captured, "DEVICES", ("cpu",))
    monkeypatch.setattr(captured, "LEAST_TOKENS", 1)
    monkeypatch.setattr(
        DecodeGraph, "step", lambda *a, **how: used.append("step") or step(*a, **how)
    )
    return used


@pytest.mark.parametrize("kind", ["llama", "latent", "rwkv4", "rwkv7"])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "seed": 5}])
def test_the_same_tokens_and_a_cache_to_go_on_from(kind, options, on_cpu, monkeypatch) -> None:
    view = view_of(kind)
    made = view.generate(RAGGED, max_new_tokens=9, **options)
    again = view.generate(RAGGED, max_new_tokens=9, **options)
    assert len(on_cpu) == 16 and made.cache.uncaptured is None
    more = view.generate(None, max_new_tokens=6, cache=made.cache, **options)
    monkeypatch.setattr(captured, "DEVICES", ())
    usual = view.generate(RAGGED, max_new_tokens=15, **options)
    rest = view.generate(None, max_new_tokens=6, cache=again.cache, **options)
    for row, one in enumerate(usual):
        assert made[row].tokens == again[row].tokens
        assert made[row].tokens + more[row].tokens == one.tokens
        assert rest[row].tokens == more[row].tokens


def test_rows_that_end_early_keep_their_memory(on_cpu, monkeypatch) -> None:
    said = view_of("rwkv4").generate(RAGGED, max_new_tokens=12, use_cache=False)
    view = view_with_eos("rwkv4", (said[1].tokens[4],))
    made = view.generate(RAGGED, max_new_tokens=12)
    monkeypatch.setattr(captured, "DEVICES", ())
    usual = view.generate(RAGGED, max_new_tokens=12)
    assert len({len(one.tokens) for one in usual}) > 1 and on_cpu
    assert [one.tokens for one in made] == [one.tokens for one in usual]
    on = [view.generate(None, max_new_tokens=4, cache=one.cache) for one in (made, usual)]
    assert [one.tokens for one in on[0]] == [one.tokens for one in on[1]]


def test_why_no_graph_serves(on_cpu, monkeypatch) -> None:
    view = view_of("llama")
    edited = view.using(edits=edits.zero("ffn_out", layers=1))
    assert "edits" in captured.graph_for(edited, 1, 40, 32, watched=False)
    assert "probes" in captured.graph_for(view, 1, 40, 32, watched=True)
    monkeypatch.setattr(captured, "LEAST_TOKENS", 32)
    assert "too few" in captured.graph_for(view, 1, 40, 31, watched=False)
    monkeypatch.setattr(captured, "DEVICES", ("cuda",))
    assert "not on cpu" in captured.graph_for(view, 1, 40, 32, watched=False)
    assert "not on cpu" in view.generate([1, 2], max_new_tokens=2).cache.uncaptured


def test_a_graph_is_kept_for_its_weights_alone(on_cpu) -> None:
    view = view_of("llama")
    first = captured.graph_for(view, 1, 40, 32, watched=False)
    assert captured.graph_for(view, 1, 200, 32, watched=False) is first
    view.stack.final_norm.weight.data = view.stack.final_norm.weight.data.clone()
    assert captured.graph_for(view, 1, 40, 32, watched=False) is not first
    assert not copy.deepcopy(view.stack)._graphs


def test_a_capture_joins_products_and_tells_other_graphs_that_weights_moved(monkeypatch) -> None:
    view, joined = view_of("llama"), []
    attn = view.stack.layers[0].attn
    monkeypatch.setattr(DecodeGraph, "_capture", lambda _: joined.append(attn.joined is not None))
    for rows in (1, 2):
        DecodeGraph(view, rows, 64, capture=True)
        assert view.stack.together.moves == 1
    assert joined == [True, True] and attn.joined is None
