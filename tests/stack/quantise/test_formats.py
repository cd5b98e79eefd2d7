"""Formats: how far an entry moves, what is stored, and by what names they go."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stack.quantise.cases import ALONE, FORMATS, TOGETHER, weight

from laminogram.checkpoint.blockwise import multiplied_out
from laminogram.errors import ConfigError
from laminogram.stack.quantise import Scheme, nibbles
from laminogram.stack.quantise.base import Format, grouped
from laminogram.stack.quantise.fp8 import Fp8
from laminogram.stack.quantise.int4 import Int4
from laminogram.stack.quantise.int8 import Int8
from laminogram.stack.quantise.mxfp4 import MXFP4

SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 40))
SEEDS = st.integers(0, 2**32 - 1)
SIZES = st.sampled_from([1e-30, 1e-3, 1.0, 1e4])


def drawn(shape: tuple[int, int], seed: int, size: float) -> torch.Tensor:
    """Entries of very different sizes, some of them zero."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.exp(
        2 * torch.randn(shape, generator=generator)
    )
    return x * size * (torch.rand(shape, generator=generator) > 0.2)


def decoded(form: Format, x: torch.Tensor) -> torch.Tensor:
    return form.decode(form.encode(x), slice(0, x.shape[0]), x.shape[1])


def repeated(numbers: torch.Tensor, group: int, columns: int) -> torch.Tensor:
    return numbers.repeat_interleave(group, 1)[:, :columns]


@settings(deadline=None, max_examples=30)
@given(SHAPES, SEEDS, SIZES, st.sampled_from(["row", "tensor"]))
def test_int8_moves_an_entry_by_half_a_step_at_most(
    shape: tuple[int, int], seed: int, size: float, per: str
) -> None:
    x, form = drawn(shape, seed, size), Int8(per)  # type: ignore[arg-type]
    scale = form.encode(x)["scale"]
    assert scale.shape == ((shape[0], 1) if per == "row" else (1, 1))
    assert ((x - decoded(form, x)).abs() <= scale * 0.50001).all()
    absmax = x.abs().amax(1, keepdim=True) if per == "row" else x.abs().amax()
    assert ((decoded(form, x).abs().amax() - absmax.amax()).abs() <= absmax.amax() * 1e-6).all()


@settings(deadline=None, max_examples=30)
@given(SHAPES, SEEDS, SIZES, st.integers(1, 48), st.booleans())
def test_int4_moves_an_entry_by_half_a_step_at_most(
    shape: tuple[int, int], seed: int, size: float, group: int, symmetric: bool
) -> None:
    x, form = drawn(shape, seed, size), Int4(group, symmetric)
    scale = form.encode(x)["scale"]
    assert scale.shape == (shape[0], -(-shape[1] // group))
    step = repeated(scale, group, shape[1])
    assert ((x - decoded(form, x)).abs() <= step * 0.50001).all()
    if not symmetric:  # zero is one of the 16 steps
        assert (decoded(form, x)[x == 0] == 0).all()


@settings(deadline=None, max_examples=30)
@given(SHAPES, SEEDS)
def test_two_codes_share_a_byte_to_the_bit(shape: tuple[int, int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 16, shape, generator=generator, dtype=torch.uint8)
    packed = nibbles.pack(codes)
    assert packed.shape == (shape[0], (shape[1] + 1) // 2)
    assert torch.equal(nibbles.unpack(packed, shape[1]), codes)


@settings(deadline=None, max_examples=30)
@given(SHAPES, SEEDS, SIZES, st.sampled_from(["e4m3", "e5m2"]), st.sampled_from(["tensor", "row"]))
def test_fp8_moves_an_entry_by_half_a_unit_in_its_last_place(
    shape: tuple[int, int], seed: int, size: float, kind: str, per: str
) -> None:
    x, form = drawn(shape, seed, size), Fp8(kind, per)  # type: ignore[arg-type]
    scale = form.encode(x)["scale"]
    relative, least = (2**-4, 2**-10) if kind == "e4m3" else (2**-3, 2**-17)
    bound = torch.maximum(x.abs() * relative, least * scale) * 1.0001
    assert ((x - decoded(form, x)).abs() <= bound).all()


@pytest.mark.parametrize("shape", [(1, 1), (128, 128), (130, 300), (257, 127)])
@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_fp8_blocks_are_those_that_checkpoints_are_read_by(
    shape: tuple[int, int], kind: str
) -> None:
    x, form = weight(*shape), Fp8(kind, "block")  # type: ignore[arg-type]
    codes = form.encode(x)
    assert codes["scale"].shape == tuple(-(-size // 128) for size in shape)
    wanted = multiplied_out(codes["codes"], codes["scale"], (128, 128), torch.float32)
    assert torch.equal(decoded(form, x), wanted)
    assert torch.equal(
        form.decode(codes, slice(0, 1), shape[1]), wanted[:1]
    )  # rows of a block alone
    last = slice(shape[0] - 1, shape[0])
    assert torch.equal(form.decode(codes, last, shape[1]), wanted[last])


@settings(deadline=None, max_examples=25)
@given(SHAPES, SEEDS, st.sampled_from([1e-3, 1.0, 1e4]))
def test_mxfp4_takes_the_nearest_of_its_numbers(
    shape: tuple[int, int], seed: int, size: float
) -> None:
    x = drawn(shape, seed, size)
    found = decoded(MXFP4(), x)
    values = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=torch.float64)
    values = torch.cat((values, -values))
    for row, block in itertools.product(range(shape[0]), range(-(-shape[1] // 32))):
        part = slice(32 * block, 32 * (block + 1))
        entries = x[row, part].double()
        if not entries.any():
            assert not found[row, part].any()
            continue
        # The standard: the power of two of the largest entry, less that of the largest number, 4.
        unit = 2.0 ** (torch.floor(torch.log2(entries.abs().max())) - 2)
        away = (entries[:, None] - values * unit).abs().amin(1)
        assert torch.equal((entries - found[row, part].double()).abs(), away)


def test_mxfp4_keeps_its_own_numbers_and_rounds_ties_to_even() -> None:
    own = torch.tensor([[0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.5, -1, -1.5, -2, -3, -4, -6]])
    assert torch.equal(decoded(MXFP4(), own), own)
    ties = torch.tensor([[0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 4.0]])
    assert decoded(MXFP4(), ties).tolist() == [[0, 1, 1, 2, 2, 4, 4, 4]]


@pytest.mark.parametrize("name", FORMATS)
def test_zeros_stay_zeros_and_rows_decode_alone(name: str) -> None:
    form = Scheme.parse(name).weights
    assert not decoded(form, torch.zeros(3, 7)).any()
    x = weight(300, 37)
    codes, whole = form.encode(x), decoded(form, x)
    for rows in (slice(0, 1), slice(120, 140), slice(299, 300)):
        assert torch.equal(form.decode(codes, rows, 37), whole[rows])


def test_groups_are_filled_up_with_zeros() -> None:
    assert grouped(torch.ones(2, 5), 3).tolist() == [[[1, 1, 1], [1, 1, 0]]] * 2


@pytest.mark.parametrize("name", [*ALONE, *TOGETHER, "fp16+int4-g128+head+embeddings"])
def test_a_name_and_its_scheme_convert_into_each_other(name: str) -> None:
    assert str(Scheme.parse(name)) == name
    assert Scheme.parse(str(Scheme.parse(name))) == Scheme.parse(name)


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("int8-per-row", "int8"),
        ("W8A8", "int8-a8"),
        ("w8a8-per-tensor", "int8-per-tensor-a8-per-tensor"),
        ("int4", "int4-g128"),
        ("int4-asym", "int4-g128-asym"),
        ("fp8-e4m3-per-tensor", "fp8"),
        ("fp8-e5m2-blocks-a8-per-token", "fp8-e5m2-blocks-a8"),
        ("llm.int8-t6.0", "llm.int8"),
        ("bfloat16+llm.int8-tinf+head", "bf16+llm.int8-tinf+head"),
    ],
)
def test_other_spellings(written: str, canonical: str) -> None:
    assert str(Scheme.parse(written)) == canonical


@pytest.mark.parametrize("name", ["int3", "int8-per-channel", "fp8-e3m4", "llm.int4", "", "a8"])
def test_an_unknown_name_is_told_what_exists(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is unknown; there are float32.*int4\[-g128\].*mxfp4"):
        Scheme.parse(name)


def test_an_unknown_option_and_an_empty_group() -> None:
    with pytest.raises(ConfigError, match="'norms' is no option; there are head, embeddings"):
        Scheme.parse("int8+norms")
    with pytest.raises(ConfigError, match="one entry at least, not 0"):
        Scheme.parse("int4-g0")
