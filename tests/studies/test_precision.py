"""The study of precisions: what it compares, and what it finds where nothing changed."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from tests.stacks import ids_of, view_of

from laminogram.errors import ConfigError, FamilyError, SiteError
from laminogram.evaluate.divergence import divergence
from laminogram.studies.precision import Precision, histogram_jsd, precision

ROWS = [row.tolist() for row in ids_of(8, 12)]


@cache
def whole() -> Precision:
    """The study with every part."""
    return study()


def study(**options: object) -> Precision:
    asked = {"seeds": (0, 1), "new_tokens": 6, "prompt_tokens": 4, "progress": False} | options
    return precision(
        view_of("llama"),
        {"random": ROWS, "repeated": [[7] * 9, [9] * 9]},
        ["fp32", "int8", "int4"],
        **asked,  # type: ignore[arg-type]
    )


def test_the_reference_against_itself_is_exactly_nothing() -> None:
    found = whole()
    own = [one for one in found.outputs if one.precision == "fp32"]
    assert {one.input for one in own} == {"random", "repeated"}
    assert all(not one.divergence.kl.any() for one in own)
    assert all(one.equal for one in found.texts if one.precision == "fp32")
    assert all(one.jsd == 0 for one in found.shifts if one.precision == "fp32")
    for one in found.shifts:
        if one.precision == "fp32":
            assert one.crossed == one.null or math.isnan(one.null)


def test_it_holds_what_its_parts_give() -> None:
    found, view = whole(), view_of("llama")
    kept = {(one.precision, one.input): one.divergence for one in found.outputs}
    alone = divergence(view, view.using(precision="int8"), ROWS)
    assert kept["int8", "random"].kl.equal(alone.kl)
    kl = [kept[name, "random"].estimate("kl").value for name in ("fp32", "int8", "int4")]
    assert kl == sorted(kl) and kl[2] > kl[1] > 0
    texts = [one for one in found.texts if (one.precision, one.input) == ("int4", "random")]
    assert [(one.document, one.seed) for one in texts] == [(d, s) for s in (0, 1) for d in range(8)]
    prompts = [row[:4] for row in ROWS]
    options = {"max_new_tokens": 6, "temperature": 1.0, "seed": 1}
    expected = view.generate(prompts, **options)
    made = view.using(precision="int4").generate(prompts, **options)
    for one in texts[8:]:
        a, b = expected[one.document].tokens, made[one.document].tokens  # type: ignore[index]
        assert (one.length_reference, one.length) == (len(a), len(b))
        assert a[: one.same] == b[: one.same]
        assert one.equal == (a == b) and (one.equal or a[one.same] != b[one.same])
    mean = found.agreement_length("int4", "random")
    assert mean.value == pytest.approx(np.mean([one.same for one in texts]))
    assert mean.low <= mean.value <= mean.high


def test_tables_are_rectangles_and_name_their_formats() -> None:
    tables = whole().tables()
    for table in tables.values():
        assert len({len(column) for column in table.values()}) == 1
    outputs = tables["precision-outputs"]
    assert outputs["precision"] == ["fp32", "fp32", "int8", "int8", "int4", "int4"]
    for name in ("kl", "kl_reverse", "jsd", "agreement", "perplexity"):
        assert {name, f"{name}_low", f"{name}_high"} <= set(outputs)
    formats = tables["precision-formats"]
    assert formats["precision"] == ["fp32", "int8", "int4"]
    assert formats["stored"] == ["float32", "fp32+int8", "fp32+int4-g128"]
    assert formats["weights"] == [None, "packed", "packed"]
    histograms = tables["precision-histograms"]
    assert set(histograms["site"]) == {"ffn_out", "resid_post"}
    assert set(histograms["layer"]) == {0, 1, 2}


def test_parts_are_left_out_and_draws_happen_once_where_there_are_none() -> None:
    found = study(sites=(), new_tokens=0)
    assert found.texts == () and found.shifts == () and len(found.outputs) == 6
    assert found.tables()["precision-texts"] == {}
    greedy = study(sites="ffn_out", layers=(i for i in (1,)), temperature=0.0)
    assert {(one.site, one.layer) for one in greedy.shifts} == {("ffn_out", 1)}
    assert {one.seed for one in greedy.texts} == {0}
    with pytest.raises(ConfigError, match="no text of 'other'"):
        greedy.agreement_length("int8", "other")


def test_a_format_without_a_dtype_keeps_the_references() -> None:
    view = view_of("llama").using(precision="bf16")
    found = precision(
        view, [[1, 2, 3]], ["int8", "fp16+int8"], new_tokens=0, sites=(), progress=False
    )
    assert [facts["precision"] for facts in found.facts.values()] == [
        "float32",
        "fp32+int8",
        "fp16+int8",
    ]
    assert found.manifest["study"] == "precision" and found.manifest["precision"] == "float32"


def test_what_does_not_exist_is_named_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="'int9' is unknown"):
        precision(view_of("llama"), ROWS, ["int8", "int9"])
    with pytest.raises(FamilyError, match="masked tokens"):
        precision(view_of("bert"), ROWS, ["int8"])
    with pytest.raises(SiteError, match="wkv"):
        study(sites=("wkv",))


def test_the_divergence_of_histograms() -> None:
    a, b = np.array([3, 1, 0]), np.array([1, 1, 2])
    p, q = a / 4, b / 4
    middle = (p + q) / 2
    wanted = (
        sum(x * math.log(x / m) for x, m in zip(p, middle, strict=True) if x)
        + sum(x * math.log(x / m) for x, m in zip(q, middle, strict=True) if x)
    ) / 2
    assert histogram_jsd(a, b) == pytest.approx(wanted)
    assert histogram_jsd(a, 7 * a) == 0
    assert histogram_jsd(np.array([1, 0]), np.array([0, 1])) == pytest.approx(math.log(2))
    assert math.isnan(histogram_jsd(a, 0 * a))
