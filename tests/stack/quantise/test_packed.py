"""A packed weight: its product, its inputs, its gradient, and how it is moved."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.stack.quantise.cases import FORMATS, inputs, weight

from laminogram.stack.linear import PackedWeight, linear, linear_wide
from laminogram.stack.quantise import Format, Packed, Scheme, packed
from laminogram.stack.quantise.activations import KeptOutliers, Rounded
from laminogram.stack.quantise.base import Codes

INT8 = Scheme.parse("int8").weights


def packed_as(name: str, x: torch.Tensor, dtype: torch.dtype | None = None) -> Packed:
    scheme = Scheme.parse(name)
    return Packed(x, scheme.weights, scheme.activations, dtype)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("chunk", [37 * 5, 1 << 22])
def test_the_product_is_that_of_the_dense_weight(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_CHUNK", chunk)
    one, x = packed_as(name, weight(23, 37)), inputs(6, 37).view(2, 3, 37)
    assert isinstance(one, PackedWeight)
    torch.testing.assert_close(one.product(x), F.linear(x, one.dense()), rtol=1e-5, atol=1e-4)
    bias = torch.arange(23.0)
    torch.testing.assert_close(
        linear(x, one, bias), F.linear(x, one.dense(), bias), rtol=1e-5, atol=1e-4
    )


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("grad", [False, True])
def test_no_more_than_a_chunk_is_ever_dense(
    name: str, grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_CHUNK", 4 * 37)
    one, x = packed_as(name, weight(23, 37)), inputs(6, 37).requires_grad_(grad)
    decode, seen = type(one.form).decode, []

    def watched(form: Format, codes: Codes, rows: slice, columns: int) -> torch.Tensor:
        made = decode(form, codes, rows, columns)
        seen.append(made.numel())
        return made

    monkeypatch.setattr(type(one.form), "decode", watched)
    kept = one.product(x)
    if grad:
        kept.sum().backward()
    assert max(seen) == 4 * 37 and sum(seen) == (1 + grad) * 23 * 37


@pytest.mark.parametrize("name", [*FORMATS, "w8a8", "fp8-a8", "llm.int8-per-token", "llm.int8-t0"])
def test_the_gradient_is_that_of_the_dense_product(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "_CHUNK", 5 * 37)
    one, x = packed_as(name, weight(23, 37)), inputs(6, 37)
    given, wanted = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.randn(6, 23, generator=torch.Generator().manual_seed(2))
    one.product(given).backward(upstream)
    F.linear(wanted, one.dense()).backward(upstream)  # straight through what rounds the input
    torch.testing.assert_close(given.grad, wanted.grad, rtol=1e-5, atol=1e-4)
    assert all(not code.requires_grad for code in one.parameters())


@pytest.mark.parametrize("weights", ["int8", "int8-per-tensor"])
@pytest.mark.parametrize("per", ["token", "tensor"])
def test_whole_numbers_give_what_rounded_ones_give(weights: str, per: str) -> None:
    one, x = packed_as(f"{weights}-a8-per-{per}", weight(24, 40)), inputs(20, 40).view(4, 5, 40)
    assert one._counts(x)
    assert isinstance(one.activations, Rounded)
    simulated = F.linear(one.activations(x), one.dense())
    torch.testing.assert_close(one.product(x), simulated, rtol=1e-5, atol=1e-4)
    asked = x.clone().requires_grad_()  # with a gradient the simulated product runs
    torch.testing.assert_close(one.product(asked).detach(), simulated, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_inputs_are_rounded_by_token_or_all_alike(kind: str) -> None:
    x = inputs(5, 30)
    by_token, by_tensor = Rounded(kind, "token")(x), Rounded(kind, "tensor")(x)  # type: ignore[arg-type]
    for row in range(5):
        assert torch.equal(by_token[row], Rounded(kind, "tensor")(x[row]))  # type: ignore[arg-type]
    if kind == "int8":
        assert ((x - by_tensor).abs() <= x.abs().max() / 127 / 2 * 1.0001).all()
        assert ((x - by_token).abs() <= x.abs().amax(1, keepdim=True) / 127 / 2 * 1.0001).all()
    else:
        assert ((x - by_token).abs() <= x.abs() * 2**-4 + x.abs().amax(1, True) * 1e-5).all()
    assert not torch.equal(by_token, by_tensor)
    narrow = x.bfloat16()  # steps and codes are found in fp32 all the same
    assert torch.equal(Rounded(kind, "token")(narrow), Rounded(kind, "token")(narrow.float()))  # type: ignore[arg-type]


def test_llm_int8_with_threshold_zero_is_fp16() -> None:
    one, x = packed_as("llm.int8-t0", weight(23, 37)), inputs(6, 37)
    assert torch.equal(one.product(x), F.linear(x.half().float(), one.dense()))


def test_llm_int8_without_a_threshold_is_int8() -> None:
    x = inputs(6, 37)
    kept, plain = packed_as("llm.int8-tinf", weight(23, 37)), packed_as("w8a8", weight(23, 37))
    torch.testing.assert_close(kept.product(x), plain.product(x), rtol=1e-5, atol=1e-4)


def test_llm_int8_as_published_restated_column_by_column() -> None:
    one, x = packed_as("llm.int8", weight(23, 37)), inputs(6, 37)
    large = sorted({column for row in x.tolist() for column, v in enumerate(row) if abs(v) >= 6})
    assert {1, 2} <= set(large)
    small = [column for column in range(37) if column not in large]
    rest = x[:, small].double()
    step = rest.abs().amax(1, keepdim=True) / 127
    wanted = (rest / step).round() * step @ one.dense()[:, small].double().T
    wanted += x[:, large].half().double() @ one.dense()[:, large].double().T
    torch.testing.assert_close(one.product(x).double(), wanted, rtol=1e-5, atol=1e-4)


def test_llm_int8_per_token_keeps_entries_of_that_token_alone() -> None:
    x, rule = inputs(6, 37), KeptOutliers(of="token")
    whole = rule(x)
    for row in range(6):
        assert torch.equal(whole[row], rule(x[row : row + 1])[0])
        large = x[row].abs() >= 6
        assert torch.equal(whole[row][large], x[row][large].half().float())
    assert rule.alone
    assert not KeptOutliers().alone
    assert not torch.equal(KeptOutliers()(x)[3], KeptOutliers()(x[3:4])[0])


def test_what_fp16_cannot_hold_keeps_its_value() -> None:
    x = torch.tensor([[1e6, 7.0, 1.0]])
    assert KeptOutliers()(x)[0, 0] == 1e6


@pytest.mark.parametrize("name", ["int8", "int4-g16", "fp8", "mxfp4", "w8a8", "llm.int8"])
def test_above_fp16_weights_sums_do_not_overflow(name: str) -> None:
    big = torch.full((8, 64), 48.0)
    one = packed_as(name, big, torch.float16)
    out = linear_wide(torch.full((3, 64), 900.0), one)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.full((3, 8), 64 * 900 * 48.0), rtol=0.01, atol=0)


def test_the_scaling_around_fp16_hides_no_outlier() -> None:
    one, x = packed_as("llm.int8", weight(23, 37), torch.float16), inputs(6, 37).half()
    assert torch.equal(linear_wide(x, one), one.product(x.float()))


@pytest.mark.parametrize("name", FORMATS)
def test_moving_it_moves_bytes_and_never_converts_them(name: str) -> None:
    one = packed_as(name, weight(9, 21))
    before = {key: code.clone() for key, code in one.state_dict().items()}
    other = copy.deepcopy(one).half()
    assert other.dtype == torch.float16 and one.dtype == torch.float32
    for key, code in other.state_dict().items():
        assert code.dtype == before[key].dtype
        assert torch.equal(code.view(torch.uint8), before[key].view(torch.uint8))
    assert other.dense().dtype == torch.float16
    assert other.to("meta").device.type == "meta"


@pytest.mark.parametrize("name", FORMATS)
def test_a_state_dict_brings_it_back(name: str) -> None:
    one, other = packed_as(name, weight(9, 21)), packed_as(name, weight(9, 21, seed=5))
    assert not torch.equal(one.dense(), other.dense())
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.dense(), other.dense())
    assert "(9, 21)" in repr(one)
