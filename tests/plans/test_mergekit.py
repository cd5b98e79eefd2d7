"""mergekit files of the kinds that people publish, and what is no order of one model's layers."""

from __future__ import annotations

import pytest

from laminogram.errors import PlanError
from laminogram.plans import mergekit

SOLAR = """
slices:
  - sources:
      - model: mistralai/Mistral-7B-v0.1
        layer_range: [0, 24]
  - sources:
      - model: mistralai/Mistral-7B-v0.1
        layer_range: [8, 32]
merge_method: passthrough
dtype: bfloat16
"""
PATHS = """
merge_method: passthrough
slices:
- sources:
  - layer_range: [0, 20]
    model: {model: {path: some/model, revision: main}}
- sources:
  - layer_range: [19, 20]
    model: {path: some/model, revision: main}
    parameters: {scale: [{filter: o_proj, value: 1.0}, {value: 1}]}
base_model: some/model@main
"""


def slices(*sources, rest="merge_method: passthrough"):
    lines = "".join(f"  - sources: [{one}]\n" for one in sources)
    return f"slices:\n{lines}{rest}\n"


def test_a_passthrough_merge_is_a_plan():
    plan = mergekit.parse(SOLAR, num_layers=32)
    assert [step.layer for step in plan] == [*range(24), *range(8, 32)]
    assert str(mergekit.parse(PATHS)) == "0-18, 2x(19)"


def test_slices_come_in_their_order(tmp_path):
    path = tmp_path / "merge.yml"
    names = ["{model: m, layer_range: [4, 6]}", "{model: m, layer_range: [0, 2]}"]
    path.write_text(slices(*names), encoding="utf-8")
    assert str(mergekit.read(path)) == "4-5, 0-1"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (slices("{model: m, layer_range: [0, 2]}", rest="merge_method: slerp"), "'slerp'"),
        (slices("{model: m, layer_range: [0, 2]}", rest=""), "merge_method is None"),
        (
            slices("{model: a, layer_range: [0, 2]}", "{model: b, layer_range: [2, 4]}"),
            r"2 models are named \(a, b\)",
        ),
        (
            slices(
                "{model: a, layer_range: [0, 2]}",
                rest="merge_method: passthrough\nbase_model: b",
            ),
            "2 models",
        ),
        (
            slices(
                "{model: {path: a, revision: x}, layer_range: [0, 2]}",
                "{model: {path: a, revision: y}, layer_range: [0, 2]}",
            ),
            "a@x, a@y",
        ),
        (slices("{model: a+lora, layer_range: [0, 2]}"), "LoRA"),
        (slices("{model: {model: a, lora: b}, layer_range: [0, 2]}"), "LoRA"),
        (
            slices("{model: m, layer_range: [0, 2], parameters: {scale: 0.5}}"),
            "slice 0 has a scale",
        ),
        (
            slices(
                "{model: m, layer_range: [0, 2], "
                "parameters: {scale: [{filter: o_proj, value: 0.0}, {value: 1.0}]}}"
            ),
            "has a scale",
        ),
        (
            slices(
                "{model: m, layer_range: [0, 2]}",
                rest="merge_method: passthrough\nparameters: {scale: [1, 0.5]}",
            ),
            "the configuration has a scale",
        ),
        (slices("{model: m, layer_range: [0, 2]}, {model: m, layer_range: [0, 2]}"), "2 sources"),
        (slices("{model: m, layer_range: [4, 2]}"), "0 <= a < b"),
        (slices("{model: m, layer_range: [2, 2]}"), "0 <= a < b"),
        (slices("{model: m, layer_range: [-1, 2]}"), "0 <= a < b"),
        (slices("{model: m, layer_range: [0, 1.5]}"), "two whole numbers"),
        (slices("{model: m, layer_range: [0, true]}"), "two whole numbers"),
        (slices("{model: m, layer_range: [0, 4000000000]}"), "at most"),
        (slices("{model: m}"), "slice 0 needs model and layer_range"),
        (slices("{model: 7, layer_range: [0, 2]}"), "names no model"),
        (slices(""), "at least one entry"),
        ("merge_method: passthrough", "there are none"),
        ("merge_method: passthrough\nmodels: [{model: m}]", "models instead"),
        ("merge_method: passthrough\nslices: []", "at least one entry"),
        ("merge_method: passthrough\nslices: [3]", "no mapping with sources"),
        ("[1, 2]", "is a mapping"),
        ("a: [", "no YAML"),
        ("!!python/object/apply:os.getcwd []", "no YAML"),
    ],
)
def test_what_is_no_order_of_one_models_layers_is_refused(text, said):
    with pytest.raises(PlanError, match=said):
        mergekit.parse(text)


def test_layers_that_are_not_there_and_files_that_cannot_be_read(tmp_path):
    with pytest.raises(PlanError, match=r"some\.yml: .*layer 30.*0-29"):
        mergekit.parse(SOLAR, num_layers=30, source="some.yml")
    with pytest.raises(PlanError, match="cannot read"):
        mergekit.read(tmp_path / "none.yml")
    (tmp_path / "latin.yml").write_bytes(b"a: \xe9")
    with pytest.raises(PlanError, match="byte 3"):
        mergekit.read(tmp_path / "latin.yml")
