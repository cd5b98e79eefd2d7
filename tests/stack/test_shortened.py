"""fp32 weights of 16 bits read from copies: equal to the bit, and never what is no longer there."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import config_of
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from laminogram.probe import edits
from laminogram.stack.batch import Batch
from laminogram.stack.forward import run
from laminogram.stack.kernels import matvec, room, shortened
from laminogram.stack.stack import Stack
from laminogram.view import View

pytest.importorskip("numba")

LONG = shortened.AFTER + 4


@pytest.fixture(autouse=True)
def small_too(monkeypatch):
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)
    monkeypatch.setattr(shortened, "has_room", lambda nbytes: True)


def stack_of(kind, *, tied=False):
    config = config_of(kind)
    if kind == "llama":
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "rope": None}
        layers = (
            replace(x, attn=replace(x.attn, **heads), ffn=replace(x.ffn, intermediate_size=64))
            for x in config.layers
        )
        config = replace(config, layers=tuple(layers))
    stack = Stack(replace(config, head=replace(config.head, tied=tied)))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in stack.named_parameters():
        drawn = 0.3 * torch.randn(parameter.shape, generator=generator) + name.endswith("norm")
        parameter.data = drawn.bfloat16().float()
    return stack.requires_grad_(False)


class Decoding:
    """Caches that may read copies and caches that may not, fed with equal tokens."""

    def __init__(self, stack):
        self.stack, self.plan = stack, stack.full_plan()
        self.restart()

    def restart(self):
        self.caches = []
        for self.stack.short in (False, True):
            self.caches.append(self.stack.new_cache(1, self.plan, "test", capacity=64))

    def equal(self, tokens=LONG):
        """Tokens through both, to equal logits; whether the last was read from copies alone."""
        for token in range(tokens):
            batch = Batch(torch.tensor([[token % 50]]), (1,), (0,), 1)
            plain, found = (
                run(self.stack, batch, self.plan, cache=cache, logits="last")
                for cache in self.caches
            )
            assert found.isfinite().all() and torch.equal(found, plain)
        assert not any(self.copies(self.caches[0]))
        return self.copies(self.caches[1])

    def copies(self, cache):
        """Of every weight whether a copy is read; the head's is the last."""
        tables = [stage.weights.table for stage in cache.passage._stages]
        assert all(slot.decoder.weights.table is own for slot, own in zip(cache.slots, tables))
        kernel = matvec.kernels()
        copies = (kernel.PAIRS, kernel.BF16_BY_INPUTS)
        return [kind in copies for table in tables for kind in table[:, 0]]


def bits_of(numbers):
    return torch.from_numpy(np.array(numbers, np.uint32).view(np.float32))


def numbers_of(copy):
    """The weight (O, I) that a copy is of."""
    if copy.dtype is torch.bfloat16:
        words = copy.contiguous().view(torch.int16).int() << 16
    else:
        words = copy.view(len(copy), -1, 16)
        words = torch.stack((words << 16, words & ~0xFFFF), 2).view(len(copy), -1)
    return words.view(torch.float32)


SPECIAL = [0x8000, 0x0001, 0x807F, 0x7F80, 0xFF80, 0x7FC1, 0x7F81, 0xFFFF, 0x0080]
"""-0, denormal numbers, infinities, NaN with several payloads, the least normal number."""


@settings(deadline=None, max_examples=40)
@given(
    high=st.lists(st.one_of(st.sampled_from(SPECIAL), st.integers(0, 0xFFFF)), min_size=1),
    rows=st.integers(1, 40),
    steps=st.integers(1, 4),
    by_inputs=st.booleans(),
    odd=st.none() | st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 0xFFFF)),
)
def test_a_copy_has_every_bit_or_there_is_none(high, rows, steps, by_inputs, odd):
    count = rows * 32 * steps
    numbers = [high[i % len(high)] << 16 for i in range(count)]
    if odd is not None:
        numbers[int(odd[0] * count)] |= odd[1]
    weight = bits_of(numbers).view(rows, -1)
    weight = weight.t().contiguous().t() if by_inputs else weight
    copy = shortened.shortened(weight)
    if odd is not None:
        assert copy is None
        return
    assert torch.equal(numbers_of(copy).view(torch.int32), weight.contiguous().view(torch.int32))


@pytest.mark.parametrize("place", [0, 65535, 65536, 200_000, 32 * 8192 - 1])
def test_one_number_of_many_is_found_whenever_it_is_written(place):
    weight = torch.ones(8192, 32)
    copy = shortened.shortened(weight)
    assert shortened.shortened(weight) is copy
    weight.view(-1).numpy()[place] = 2  # what autograd does not see
    other = shortened.shortened(weight)
    assert other is not copy and torch.equal(numbers_of(other), weight)
    assert (numbers_of(copy) == 1).all()
    weight.view(-1).numpy()[place] = 1 + 2**-20
    assert shortened.shortened(weight) is None and weight not in shortened._copies


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 150),
    steps=st.integers(1, 3),
    place=st.none() | st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 31),
    seed=st.integers(0, 99),
)
def test_a_product_that_compares_is_equal_and_finds_any_bit(rows, steps, place, bit, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, 32 * steps, generator=generator).bfloat16().float()
    x = torch.randn(1, 32 * steps, generator=generator)
    assert shortened.check_of(weight) is None  # there is no copy yet
    copy = shortened.shortened(weight)
    if place is not None:
        weight.view(-1).numpy().view(np.uint32)[int(place * weight.numel())] ^= np.uint32(1 << bit)
    check = shortened.check_of(weight)
    part = (check.kind, weight.data_ptr(), check.address, *weight.shape)
    expected = matvec.matvec(x, weight)
    found = matvec.product(x, part)
    assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
    assert check.copy() is (copy if place is None else None)


def test_what_has_no_copy(monkeypatch):
    with torch.inference_mode():
        assert shortened.shortened(torch.ones(64, 64)) is None  # writes to it are not counted
    for weight in (torch.ones(64, 64).bfloat16(), torch.ones(64, 64).double(), torch.ones(64, 33)):
        assert shortened.shortened(weight) is None
    monkeypatch.setattr(shortened, "has_room", lambda nbytes: False)
    assert shortened.shortened(torch.ones(64, 64)) is None


@pytest.mark.parametrize("kind", ["rwkv4", "llama"])
@pytest.mark.parametrize("tied", [False, True])
def test_decoding_is_equal_to_the_bit(kind, tied):
    decoding = Decoding(stack_of(kind, tied=tied))
    assert not any(decoding.equal(shortened.AFTER))
    assert all(decoding.equal())
    made = [shortened._copies[weight] for weight in weights_read(decoding)]
    decoding.restart()
    assert not any(decoding.equal(shortened.CHECKED + 1)[:-1])
    assert all(decoding.equal(1))  # the token before has compared them
    assert all(decoding.equal())
    again = [shortened._copies[weight] for weight in weights_read(decoding)]
    assert all(one is other for one, other in zip(made, again, strict=True))


@pytest.mark.parametrize("kind", ["rwkv5", "rwkv6", "rwkv7"])
def test_halves_of_low_rank_products_have_copies_that_last(kind):
    decoding = Decoding(stack_of(kind))
    assert not any(decoding.equal(shortened.AFTER))
    assert all(decoding.equal())
    made = [shortened._copies[weight] for weight in weights_read(decoding)]
    decoding.restart()
    assert all(decoding.equal())
    again = [shortened._copies[weight] for weight in weights_read(decoding)]
    assert all(one is other for one, other in zip(made, again, strict=True))


def test_rows_of_zeros_are_skipped_in_a_copy():
    stack = stack_of("rwkv4")
    decoding = Decoding(stack)
    assert all(decoding.equal())
    stack.skip_zero_rows()
    assert all(decoding.equal())
    kinds = [slot.decoder.weights.table[-1, 0] for slot in decoding.caches[1].slots]
    assert set(kinds) == {matvec.kernels().BF16_BY_INPUTS}
    stack.skip_zero_rows(False)
    assert all(decoding.equal())


def test_weights_of_full_fp32_are_read_as_they_are_and_looked_at_once(monkeypatch):
    stack = stack_of("rwkv4")
    for weight in stack.parameters():
        weight.mul_(1.001)
    assert not any(Decoding(stack).equal())
    assert not any(weight in shortened._copies for weight in stack.parameters())
    with monkeypatch.context() as patch:
        patch.setattr(shortened, "_made", None)
        Decoding(stack).equal()
    for weight in stack.parameters():
        weight.copy_(weight.bfloat16())
    assert all(Decoding(stack).equal())


def written(parameter, new, owner, name):
    parameter.copy_(new)


def moved(parameter, new, owner, name):
    parameter.data = new


def replaced(parameter, new, owner, name):
    setattr(owner, name, nn.Parameter(new, requires_grad=False))


def loaded(parameter, new, owner, name):
    owner.load_state_dict({name: new}, strict=False)


def assigned(parameter, new, owner, name):
    owner.load_state_dict({name: new}, strict=False, assign=True)


def cast(parameter, new, owner, name):
    parameter.copy_(new)
    owner.double().float()


WRITES = [written, moved, replaced, loaded, assigned, cast]


@pytest.mark.parametrize("short", [True, False])
@pytest.mark.parametrize("kind", ["rwkv4", "llama", "rwkv6", "rwkv7"])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_seen_at_the_next_token(write, kind, short):
    """One that 16 bits still hold, and one that they do not."""
    decoding = Decoding(stack_of(kind))
    assert all(decoding.equal())
    for path in ("layers.1.ffn.down.weight", "layers.0.attn.k.weight", "head.weight"):
        parameter = decoding.stack.get_parameter(path)
        owner = decoding.stack.get_submodule(path.rpartition(".")[0])
        new = parameter * (2 if short else 1.001)
        write(parameter, new, owner, "weight")
        decoding.equal(1)
    assert decoding.equal() == [
        short or not any(torch.equal(copy, weight) for copy in weights_changed(decoding))
        for weight in weights_read(decoding)
    ]


def weights_read(decoding):
    layers = [
        product.weight
        for slot in decoding.caches[1].slots
        for product in slot.decoder.weights._products
    ]
    stack = decoding.stack
    return [*layers, stack.tied_table if stack.head.weight is None else stack.head.weight]


def weights_changed(decoding):
    paths = "layers.1.ffn.down.weight", "layers.0.attn.k.weight", "head.weight"
    return [decoding.stack.get_parameter(path) for path in paths]


@pytest.mark.parametrize("kind", ["rwkv4", "llama", "rwkv6", "rwkv7"])
def test_a_write_that_autograd_does_not_see_is_seen_by_a_new_cache(kind):
    decoding = Decoding(stack_of(kind))
    assert all(decoding.equal())
    for parameter in weights_changed(decoding):
        parameter.data[1:3] = 0.25
        parameter.numpy()[5] = -0.0
    decoding.caches = [cache.fork() for cache in decoding.caches]
    assert all(decoding.equal())
    decoding.restart()
    assert all(decoding.equal())


def test_nothing_can_come_to_lie_where_a_watched_weight_lies():
    """A stamp knows an address; two weights at one, one after the other, would look alike."""
    decoding = Decoding(stack_of("llama"))
    decoding.equal()
    weights = weights_changed(decoding)
    memory = [StorageWeakRef(weight.untyped_storage()) for weight in weights]
    for weight in weights:
        weight.data = weight * 2
    assert not any(one.expired() for one in memory)
    decoding.equal(1)
    assert all(one.expired() for one in memory)


def test_a_copy_has_the_shape_that_the_weight_has_now():
    weight = nn.Parameter(torch.ones(64, 32), requires_grad=False)
    shortened.shortened(weight)
    for shape in ((32, 64), (128, 64), (32, 32)):
        weight.data = torch.ones(shape)
        assert numbers_of(shortened.shortened(weight)).shape == shape


def test_edited_and_quantised_weights_are_their_own():
    stack = stack_of("rwkv4")
    assert all(Decoding(stack).equal())
    view = View(stack, None, "test", stack.full_plan())
    edit = edits.weights.scale_entry("layers.1.ffn.down.weight", 3, 5, factor=2.5)
    for other in (view.using(edits=[edit]), view.using(precision="int8")):
        Decoding(other.stack).equal()
    assert all(Decoding(stack).equal())


def test_a_stack_can_be_told_not_to_and_what_is_made_of_it():
    stack = stack_of("llama").read_short(False)
    assert stack.new_cache(1, stack.full_plan(), "test").reader is None
    view = View(stack, None, "test", stack.full_plan())
    edit = edits.weights.zero_rows("layers.1.ffn.down.weight", [1])
    cache = view.using(edits=[edit]).new_cache(1)
    assert cache.reader is None and cache.fork().reader is None
    assert not any(slot.short for slot in (*cache.slots, *cache.fork().slots))


def test_copies_go_with_the_stack_or_when_it_is_told():
    gc.collect()
    before = len(shortened._copies)
    decoding = Decoding(stack_of("llama"))
    decoding.equal()
    assert len(shortened._copies) == before + 3 * 7 + 1
    decoding.stack.read_short(False)
    assert len(shortened._copies) == before
    decoding.restart()
    decoding.equal()
    assert len(shortened._copies) == before + 3 * 7 + 1
    del decoding
    gc.collect()
    assert len(shortened._copies) == before


@pytest.mark.parametrize(
    ("limit", "taken", "more", "fits"),
    [
        ("max", 0, 40, True),
        ("max", 0, 70, False),  # leaves less than a quarter of 100
        ("40", 10, 15, True),
        ("40", 10, 25, False),
        ("40", 35, 1, False),
    ],
)
def test_room_is_that_of_the_machine_and_of_a_container(
    tmp_path, monkeypatch, limit, taken, more, fits
):
    kib = 1024
    (tmp_path / "meminfo").write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable: 90 kB\n")
    (tmp_path / "memory.max").write_text(limit if limit == "max" else str(int(limit) * kib))
    (tmp_path / "memory.current").write_text(str(taken * kib))
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(room, "_GROUP", tmp_path)
    assert room.has_room(more * kib) == fits
    (tmp_path / "meminfo").unlink()
    (tmp_path / "memory.max").unlink()
    assert not room.has_room(1)
