"""The static step, run as it is: on a GPU `tests/gpu/check_decode_graph.py` captures the same."""

from __future__ import annotations

import pytest
import torch
from tests.infer.speaking import view_with_rope
from tests.stacks import CAUSAL, ids_of, relative, view_of

from laminogram.errors import CacheError, FamilyError
from laminogram.infer.decode_graph import DecodeGraph, StaticReads
from laminogram.probe import edits
from laminogram.stack.batch import Batch
from laminogram.view import View

RAGGED = [[3, 1, 4, 1, 5, 9, 2], [6, 5], [35, 8, 9, 7]]


@torch.no_grad()
def normal(view: View, prompts: list[list[int]], tokens: torch.Tensor) -> list[torch.Tensor]:
    """Logits (B, V) after the prompts and after each column of tokens, on the usual path."""
    cache = view.new_cache(len(prompts))
    program = view.program()
    found = [view.run(view.tokens(prompts), cache=cache, logits="last", observer=program)[:, 0]]
    ones = (1,) * len(prompts)
    for column in tokens.T:
        batch = Batch(column[:, None], ones, (0,) * len(prompts), 1)
        found.append(view.run(batch, cache=cache, observer=program)[:, 0])
    return found


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("plan", ["0-2", "0, 1, 1.ffn, 0"])
def test_the_static_step_equals_the_usual_path(kind: str, plan: str) -> None:
    edit = edits.scale("ffn_out", [2.0, -1.0], layers=1, channels=[3, 5], phase="new")
    view = view_of(kind).using(plan=plan, edits=edit)
    tokens = ids_of(3, 9)
    graph = DecodeGraph(view, rows=3, capacity=20)
    for _ in range(2):  # a second text begins as the first did
        found = [graph.start(RAGGED), *(graph.step(column) for column in tokens.T)]
        for one, wanted in zip(found, normal(view, RAGGED, tokens), strict=True):
            assert relative(one, wanted) < 1e-5
    assert graph.lengths == (16, 11, 13)


def test_reads_and_edits_live_in_buffers() -> None:
    edit = edits.scale("ffn_out", [1.0, 1.0], layers=0, channels=[2, 7])
    view = view_of("llama").using(edits=edit)
    reads = StaticReads()
    program = view.program(reads={1: ("ffn_out",), 2: ("pattern",)}, sink=reads)
    graph = DecodeGraph(view, rows=1, capacity=12, observer=program)
    graph.start([1, 2, 3])
    plain = graph.step(torch.tensor([4]))
    buffer, kept = reads["ffn_out", 1], reads["ffn_out", 1].clone()
    assert reads["pattern", 2].shape == (1, 4, 1, 12)
    slot = program.taps(0).edits["ffn_out"][0]
    owned = {name: getattr(slot, name) for name in ("scale", "shift", "low", "high", "rows")}
    graph.start([1, 2, 3])
    slot.scale.fill_(-3.0)
    changed = graph.step(torch.tensor([4]))
    # A captured step knows addresses: what it read the first time is what is written to.
    assert all(getattr(slot, name) is tensor for name, tensor in owned.items())
    assert reads["ffn_out", 1] is buffer
    assert relative(changed, plain) > 1e-2
    assert relative(buffer, kept) > 1e-2
    # The prompt was read under the old values, as it was in the graph.
    later = edits.scale("ffn_out", -3.0, layers=0, channels=[2, 7], positions=[3])
    wanted = view_of("llama").using(edits=later).logits([1, 2, 3, 4])[:, -1]
    assert relative(changed, wanted) < 1e-5


def test_what_is_returned_is_the_caller_s() -> None:
    graph = DecodeGraph(view_of("rwkv4"), rows=1, capacity=8)
    graph.start([1, 2])
    first = graph.step(torch.tensor([3]))
    kept = first.clone()
    graph.step(torch.tensor([9]))
    assert torch.equal(first, kept)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(FamilyError, match="encoder"):
        DecodeGraph(view_of("bert"), rows=1, capacity=4)
    with pytest.raises(CacheError, match="rotary frequencies change"):
        DecodeGraph(view_with_rope("dynamic", factor=2.0), rows=1, capacity=9)
    graph = DecodeGraph(view_of("llama"), rows=1, capacity=3)
    with pytest.raises(CacheError, match="1 rows, 2 were given"):
        graph.start([[1], [2]])
    with pytest.raises(CacheError, match="capacity is 3"):
        graph.start([1, 2, 3, 4])
    graph.start([1, 2, 3])
    with pytest.raises(CacheError, match="used up"):
        graph.step(torch.tensor([1]))


def test_a_graph_notices_that_weights_have_moved(monkeypatch):
    view = view_of("llama")
    graph = DecodeGraph(view, rows=1, capacity=8, capture=False)
    graph._moves = view.stack.together.moves  # as a captured one keeps it
    graph.start([[1, 2]])
    graph.step(torch.tensor([3]))
    view.using(plan="mean(0-2)").logits([1, 2])
    with pytest.raises(CacheError, match="moved"):
        graph.step(torch.tensor([3]))


class Replayed:
    """In place of a captured step: runs it."""

    def __init__(self, graph: DecodeGraph) -> None:
        self.replay = graph._run


def test_a_captured_step_refuses_hooks_that_it_would_not_call() -> None:
    view, token = view_of("llama"), torch.tensor([3])
    graph = DecodeGraph(view, rows=1, capacity=8)
    graph._graph = Replayed(graph)  # type: ignore[assignment]
    graph.start([1, 2])
    handle = view.stack.layer(1).ffn.register_forward_hook(lambda *_: None)
    with pytest.raises(CacheError, match=r"layers\.1\.ffn of .* have hooks.*capture=False"):
        graph.step(token)
    with pytest.raises(CacheError, match="hooks"):
        DecodeGraph(view, rows=1, capacity=8, capture=True)
    DecodeGraph(view, rows=1, capacity=8, capture=False).start([1])
    handle.remove()
    wanted = view.logits([1, 2, 3])[:, -1]
    assert relative(graph.step(token), wanted) < 1e-5
