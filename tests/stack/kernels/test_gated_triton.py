"""The gated product: under Triton's interpreter, and where a model uses it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.stacks import WIDTH, config_of, ids_of, relative, view_of

from laminogram import edits
from laminogram.stack.joined import JoinedProducts
from laminogram.stack.kernels import gated_triton
from laminogram.stack.kernels.gated_naive import gated_product_naive
from laminogram.stack.kernels.gated_triton import gated_product, pays, reads_tiles
from laminogram.stack.layer import run_layer
from laminogram.stack.mixers import mlp


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_interpreted_kernel_equals_its_reference() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.stack.kernels.gated_interpreted"],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal\n") == 4


def test_what_the_kernel_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.zeros(16, 24, dtype=torch.bfloat16)
    assert not reads_tiles(weight)  # on a CPU
    monkeypatch.setattr(gated_triton, "INTERPRETED", True)
    monkeypatch.setattr(gated_triton, "triton_missing", lambda: None)
    assert reads_tiles(weight) and reads_tiles(weight.half())
    assert not reads_tiles(weight.float())
    assert not reads_tiles(weight[:, :20].contiguous())
    assert not reads_tiles(weight[:, :16])
    monkeypatch.setattr(gated_triton, "triton_missing", lambda: "it is not installed.")
    assert not reads_tiles(weight)
    with pytest.raises(RuntimeError, match="need Triton"):
        gated_product(torch.zeros(2, 24, dtype=torch.bfloat16), weight, "silu")
    enough = torch.zeros(2, gated_triton.LEAST_TOKENS // 2, 1)
    assert pays(enough, 16) and not pays(enough, 20) and not pays(enough[:, 1:], 16)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operators of a bf16 Llama whose products are joined, done by their references."""
    noted: list[str] = []

    class Kernel:
        def __getitem__(self, grid):
            return self

        def __call__(self, h, halves, out, *_, **__):
            noted.append("gated_product")
            out.copy_(gated_product_naive(h, halves.flatten(0, 1), "silu"))

    monkeypatch.setattr(gated_triton, "_kernels", lambda: SimpleNamespace(gated_product=Kernel()))
    monkeypatch.setattr(gated_triton, "_described", lambda x, block: x)
    monkeypatch.setattr(gated_triton, "INTERPRETED", True)
    monkeypatch.setattr(gated_triton, "LEAST_TOKENS", 10)
    monkeypatch.setattr(gated_triton, "triton_missing", lambda: None)
    return noted


def _llama(dtype=torch.bfloat16):
    view = view_of("llama")
    view.stack.to(dtype)
    JoinedProducts(view.stack)
    return view


def test_a_joined_mlp_uses_it(calls):
    view, ids = _llama(), ids_of(2, 5)
    layers = view.config.num_layers
    with torch.no_grad():
        found = view.logits(ids)
        assert calls == ["gated_product"] * layers
        calls.clear()
        view.logits(ids[:, :4])
        assert not calls, "fewer tokens than pay"
        for layer in view.stack.layers:
            layer.ffn.joined = None
        usual = view.logits(ids)
    assert relative(found, usual) < 0.02


def test_where_it_is_not_used(calls):
    ids = ids_of(2, 5)
    with torch.no_grad():
        for dtype in (torch.float16, torch.float32):
            _llama(dtype).logits(ids)
    view = _llama()
    view.stack.requires_grad_(True)
    view.run(view.tokens(ids)).float().sum().backward()
    assert not calls
    config = config_of("llama").layers[0]
    for ffn in (replace(config.ffn, bias=True), replace(config.ffn, activation="tanh")):
        module = mlp.MLP(ffn, WIDTH).bfloat16()
        JoinedProducts(module)
        with torch.no_grad():
            module.activated(torch.zeros(1, 20, WIDTH, dtype=torch.bfloat16))
    assert not calls


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_layers_keep_it_as_one_call(calls):
    view, ids = _llama(), ids_of(2, 5)
    kept: list[str] = []

    def backend(graph, _):
        kept.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    torch._dynamo.reset()
    with torch.no_grad():
        usual = view.logits(ids)
        view.stack.compile_layers(backend)
        found = view.logits(ids)
        edited = view.using(edits=edits.zero("ffn_out", layers=1)).logits(ids)
    view.stack.run_layer = run_layer
    assert found.equal(usual) and not edited.equal(usual)
    ours = [name for name in kept if "laminogram" in name]
    assert ours and all("gated_product" in name for name in ours)
