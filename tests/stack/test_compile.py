"""A layer compiles whole (no graph break) for every class of tap signature, with equal values."""

import pytest
import torch
from tests.stacks import KINDS, ids_of, relative, view_of

from laminogram import edits
from laminogram.stack import layer
from laminogram.stack.layer import run_layer

DERIVED = {"llama": "pattern", "moe": "ffn_act", "latent": "k", "alibi": "pattern",
           "gpt_neox": "head_out", "bert": "pattern", "rwkv4": "state", "rwkv6": "pattern",
           "rwkv7": "state", "rwkv5": "state"}  # fmt: skip
# Compiling takes seconds a signature: the three most different kinds are in every run.
OFTEN = ("llama", "rwkv4", "latent")
MARKS = {kind: pytest.mark.slow for kind in KINDS if kind not in OFTEN}
SIGNATURES = {
    "nothing": ((), ()),
    "read": (("ffn_out", "z"), ()),
    "edit": ((), (edits.scale("ffn_out", 0.5, layers=1, channels=[2]),)),
    "read and edit": (("ffn_out",), (edits.zero("ffn_out", layers=1, positions=[-1]),)),
    "derived": (None, ()),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=MARKS.get(kind, ())) for kind in KINDS])
def test_every_signature_is_one_graph(kind, signature):
    names, changes = SIGNATURES[signature]
    names = (DERIVED[kind],) if names is None else names
    view, ids = view_of(kind), ids_of(2, 5)
    view = view.using(edits=changes)

    def everything():
        logits = view.logits(ids)
        return logits, view.record(ids, sites=names or ("embed",))

    logits, gram = everything()
    torch._dynamo.reset()
    counted: list[int] = []

    def backend(graph, inputs):
        counted.append(1)
        return graph.forward

    view.stack.compile_layers(backend)
    compiled_logits, compiled = everything()
    again, _ = everything()
    view.stack.run_layer = run_layer
    assert relative(compiled_logits, logits) < 1e-6
    assert again.equal(compiled_logits)
    for key in gram:
        assert relative(torch.tensor(compiled[key]), torch.tensor(gram[key])) < 1e-6
    # One graph for a signature, and not one for each of the three layers. (RWKV-7 has two kinds of
    # layers: the one that provides v_first differs.)
    kinds_of_layers = 2 if kind == "rwkv7" else 1
    signatures = 1 + bool(names) + (2 if changes else 0)
    assert len(counted) <= kinds_of_layers * signatures


def test_one_graph_serves_a_sweep_of_edits():
    view, ids = view_of("llama"), ids_of(1, 5)
    torch._dynamo.reset()
    counted: list[int] = []

    def backend(graph, inputs):
        counted.append(1)
        return graph.forward

    results = []
    view.stack.compile_layers(backend)
    for factor in (0.5, 2.0, -1.0):
        for channel in (0, 7):
            edit = edits.scale("ffn_out", factor, channels=[channel])
            results.append(view.using(edits=edit).logits(ids))
    assert len(counted) == 1
    view.stack.run_layer = run_layer
    expected = view.using(edits=edits.scale("ffn_out", -1.0, channels=[7])).logits(ids)
    assert relative(results[-1], expected) < 1e-6
    assert len({float(x.sum()) for x in results}) == len(results)


def test_more_signatures_than_torch_keeps_run_uncompiled(monkeypatch):
    monkeypatch.setattr(layer, "MOST_FORMS", 2)
    torch._dynamo.reset()
    plain, view, ids = view_of("llama"), view_of("llama"), ids_of(2, 5)
    view.stack.compile_layers("eager")
    with torch._dynamo.config.patch(recompile_limit=2):  # of a torch that takes no limit of ours
        for site in ("attn_in", "attn_out", "attn_in"):
            assert (view.record(ids, site)[site] == plain.record(ids, site)[site]).all()
        with pytest.warns(UserWarning, match=r"taps at \['ffn_out'\] runs uncompiled"):
            gram = view.record(ids, "ffn_out")
    assert (gram["ffn_out"] == plain.record(ids, "ffn_out")["ffn_out"]).all()
    torch._dynamo.reset()
