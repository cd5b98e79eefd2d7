from __future__ import annotations

import numpy as np
import pytest
import torch

from laminogram.errors import ConfigError, SiteError
from laminogram.probe.gram import Gram
from laminogram.probe.statistics import Measurement
from laminogram.probe.statistics.thresholds import Thresholds
from laminogram.probe.statistics.topk import TopK
from laminogram.probe.store import StoreError

LAYERS = {0: (0, None), 1: (5, "attn"), 2: (1, None)}
ALL = ("moments", TopK(3), Thresholds((1.0,)), "histogram", "tokens")


def measured(seed: int, documents: range, **options) -> Measurement:
    generator = torch.Generator().manual_seed(seed)
    measurement = Measurement(ALL, LAYERS, {"plan": "0-2"}, **options)
    for step in LAYERS:
        for site, width in (("ffn_out", 4), ("ffn_act", 6)):
            x = torch.randn(len(documents), 5, width, generator=generator)
            measurement.observe(site, step, x, None, torch.tensor(list(documents)))
    return measurement


def test_it_is_a_mapping():
    measurement = measured(0, range(2))
    assert len(measurement) == len(ALL) * 2 * 3
    assert ("topk", "ffn_out", 1) in measurement
    assert measurement["topk", "ffn_out", 1].options() == {"k": 3}
    assert measurement.sites == ("ffn_act", "ffn_out")
    assert measurement.steps == (0, 1, 2)
    assert "ffn_out" in repr(measurement)
    assert "steps 0-2" in repr(measurement)
    assert measurement.get(("topk", "q", 1)) is None


def test_table_stacks_the_steps_first():
    table = measured(0, range(2)).table("moments", "ffn_out")
    assert table["mean"].shape == (3, 4)
    assert table["step"].tolist() == [0, 1, 2]
    assert table["layer"].tolist() == [0, 5, 1]
    assert measured(0, range(2)).table("tokens", "ffn_act")["norm"].shape == (3, 10)


def test_merging_two_halves_is_measuring_both():
    a, b = measured(0, range(2)), measured(1, range(2, 4))
    merged = a.merge(b)
    for key in merged:
        for name, value in merged[key].result().items():
            alone = a[key].merge(b[key]).result()[name]
            np.testing.assert_array_equal(value, alone)
    assert merged.manifest == {"plan": "0-2"}
    merged.observe("ffn_out", 0, torch.ones(1, 1, 4), None, torch.tensor([9]))
    assert merged["moments", "ffn_out", 0].result()["count"][0] == 21
    assert a["moments", "ffn_out", 0].result()["count"][0] == 10


def test_merging_keeps_what_only_one_has_and_both_manifests():
    a, b = measured(0, range(2)), Measurement(["moments"], manifest={"device": "other"})
    b.observe("q", 0, torch.ones(1, 2, 3))
    merged = a.merge(b).merge(a)
    assert ("moments", "q", 0) in merged
    assert merged.manifest == {"merged": [{"plan": "0-2"}, {"device": "other"}, {"plan": "0-2"}]}
    with pytest.raises(ConfigError, match="they ran different plans"):
        a.merge(Measurement(step_layers={1: (3, None)}))


def test_save_and_load(tmp_path):
    measurement = measured(0, range(2))
    measurement.save(tmp_path / "m.safetensors")
    again = Measurement.load(tmp_path / "m.safetensors")
    assert list(again) == list(measurement)
    assert again.manifest == measurement.manifest
    assert again.step_layers == LAYERS
    for key in measurement:
        before, after = measurement[key].state_dict(), again[key].state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]
    with pytest.raises(StoreError, match="laminogram-gram/1"):
        Gram.load(tmp_path / "m.safetensors")


def test_errors_name_what_exists():
    measurement = measured(0, range(1))
    with pytest.raises(SiteError, match=r"ffn_act, ffn_out.*steps 0-2") as error:
        measurement["moments", "q", 0]
    assert isinstance(error.value, KeyError)
    assert not str(error.value).startswith("'")
    with pytest.raises(SiteError, match="'moments' was not measured at 'q'"):
        measurement.table("moments", "q")
    with pytest.raises(ConfigError, match="asked for twice: topk"):
        Measurement(("topk", TopK(3)))
    measurement.observe("ffn_out", 7, torch.ones(1, 1, 9), None, torch.tensor([0]))
    with pytest.raises(ConfigError, match="different shapes"):
        measurement.table("moments", "ffn_out")
