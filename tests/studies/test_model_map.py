"""The model map: its parts are the card, its statistics those of a recording."""

from __future__ import annotations

import numpy as np
import pytest
from tests.stacks import KINDS, ids_of, view_of

import laminogram
from laminogram.probe.card import PARTS
from laminogram.studies.model_map import model_map

IDS = ids_of(1, 9)[0].tolist()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_parts_add_up_to_the_card(kind: str, precision: str) -> None:
    view = view_of(kind).using(precision=getattr(__import__("torch"), precision))
    found, card = model_map(view), view.card()
    for part in PARTS:
        rows = [row for row in found.parts if row.kind == part]
        assert sum(row.parameters for row in rows) == card.parameters[part], part
    assert sum(row.parameters for row in found.parts) == card.parameter_total
    assert sum(row.bytes for row in found.parts) == card.bytes_by_precision[precision]
    layers = [row for row in found.parts if row.layer is not None]
    assert {row.label for row in layers} == set(found.labels) == {"0", "1", "2"}
    for layer in range(3):
        rows = [row for row in layers if row.layer == layer]
        assert found.statistics["parameters"][layer] == sum(row.parameters for row in rows)
        assert found.statistics["bytes"][layer] == sum(row.bytes for row in rows)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-rwkv4"])
def test_bundled_models(name: str) -> None:
    view = laminogram.load(name)
    found, card = model_map(view), view.card()
    assert sum(row.parameters for row in found.parts) == card.parameter_total
    assert sum(row.bytes for row in found.parts) == card.bytes_by_precision[card.dtype]
    assert found.tokens == () and "turn" not in found.statistics


def test_a_tied_head_is_drawn_and_counts_nothing() -> None:
    view = laminogram.load("tiny-llama")
    heads = [row for row in model_map(view).parts if row.kind == "head"]
    assert len(heads) == 1
    assert (heads[0].parameters == 0) == view.config.head.tied


def test_shapes_name_every_tensor() -> None:
    found = model_map(view_of("llama"))
    attn = next(row for row in found.parts if (row.layer, row.kind) == (0, "attn"))
    assert attn.shape == "q.weight 32x32, k.weight 16x32, v.weight 16x32, o.weight 32x32"
    assert attn.name == "attention"
    ffn = next(row for row in found.parts if (row.layer, row.kind) == (0, "ffn"))
    assert ffn.name == "gated MLP"


@pytest.mark.parametrize("plan", ["0-2", "1, 2x(0), mean(1, 2)", "0.attn, 1"])
@pytest.mark.parametrize("kind", KINDS)
def test_statistics_are_those_of_a_recording(kind: str, plan: str) -> None:
    view = view_of(kind).using(plan=plan)
    found = model_map(view, IDS)
    sites = ("attn_out", "ffn_out", "resid_pre", "resid_post")
    gram = view.record(IDS, sites=sites)
    for layer in range(3):
        steps = [step for step in gram.steps if gram.step_layers[step][0] == layer]
        assert found.steps[layer] == tuple(steps)
        for site in ("attn_out", "ffn_out", "resid_post"):
            x = [gram[site, step].astype(np.float64) for step in steps if (site, step) in gram]
            got = found.statistics[f"rms_{site}"][layer]
            if x:
                assert got == pytest.approx(np.sqrt(np.mean(np.square(x))), rel=1e-6)
            else:
                assert np.isnan(got)
        turns = []
        for step in steps:
            a, b = (gram[site, step][0].astype(np.float64) for site in ("resid_pre", "resid_post"))
            length = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
            turns.append(1 - (a * b).sum(-1) / length)
        got = found.statistics["turn"][layer]
        assert got == pytest.approx(np.mean(turns), abs=1e-6) if turns else np.isnan(got)


def test_a_plan_without_a_half() -> None:
    found = model_map(view_of("llama").using(plan="0.attn, 1.attn"), IDS)
    assert np.isnan(found.statistics["rms_ffn_out"]).all()
    assert np.isfinite(found.statistics["rms_attn_out"][:2]).all()


def test_weights_rms() -> None:
    view = view_of("rwkv4")
    weights = [x.detach().double().numpy().ravel() for x in view.stack.layer(1).ffn.parameters()]
    found = model_map(view).statistics["weight_rms_ffn"][1]
    assert found == pytest.approx(np.sqrt(np.mean(np.concatenate(weights) ** 2)))


def test_tables() -> None:
    found = model_map(view_of("rwkv7"), IDS)
    tables = found.tables()
    assert {len(column) for column in tables["map"].values()} == {len(found.parts)}
    assert {len(column) for column in tables["map-statistics"].values()} == {3}
    assert set(found.meanings) == set(found.statistics)
    assert tables["map"]["layer"][0] is None
