"""Products of one row by a crew of threads: the numbers of a plain product, whoever helps."""

import os
import signal
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from laminogram.stack import linear as products
from laminogram.stack.kernels import matvec, team

pytest.importorskip("numba")


@pytest.fixture
def small_too(monkeypatch):
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)


def drawn(rows, columns, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) / columns**0.5
    return weight.to(dtype), torch.randn(columns, generator=generator)


@settings(deadline=None, max_examples=30)
@given(
    rows=st.integers(1, 70),
    steps=st.integers(1, 5),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    threads=st.integers(1, 3),
)
def test_equals_the_plain_product(rows, steps, dtype, threads):
    weight, x = drawn(rows, 32 * steps, dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = matvec.matvec(x, weight)
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(found.double(), weight.double() @ x.double(), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(
    rows=st.integers(2, 70),
    columns=st.integers(2, 70),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    zeros=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
)
def test_a_weight_that_lies_by_its_inputs_is_read_where_they_are_not_zero(
    rows, columns, dtype, zeros
):
    weight, x = drawn(rows, columns, dtype)
    x[torch.rand(columns, generator=torch.Generator().manual_seed(2)) < zeros] = 0.0
    laid = weight.t().contiguous().t()
    laid[:, x == 0] = torch.nan  # never read
    found = matvec.matvec(x, laid)
    weight[:, x == 0] = 0.0
    assert torch.allclose(found.double(), weight.double() @ x.double(), atol=1e-5)


def test_int8_is_codes_times_steps():
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-128, 128, (37, 64), generator=generator).to(torch.int8)
    scale, x = torch.rand(37, generator=generator), torch.randn(1, 1, 64, generator=generator)
    found = matvec.matvec(x, codes, scale)
    assert found.shape == (1, 1, 37)
    expected = (codes.double() * scale[:, None].double()) @ x.double().flatten()
    assert torch.allclose(found.flatten().double(), expected, atol=1e-3)


def test_what_is_not_finite_stays_so():
    weight, x = drawn(8, 64, torch.float32)
    weight[3, 5], weight[4, 6] = torch.nan, torch.inf
    found = matvec.matvec(x.abs(), weight)
    assert found.isnan().tolist() == [i == 3 for i in range(8)] and found[4] == torch.inf


def test_two_threads_at_once_get_their_own_numbers():
    weight, x = drawn(64, 64, torch.float32)
    wrong = []

    def many(factor):
        for _ in range(200):
            if not torch.allclose(
                matvec.matvec(x * factor, weight), factor * (weight @ x), atol=1e-4
            ):
                wrong.append(factor)

    callers = [threading.Thread(target=many, args=(float(i),)) for i in range(1, 4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.usefixtures("small_too")
def test_linear_takes_it_for_one_row_without_gradients(monkeypatch):
    taken = []
    plain = matvec.matvec
    monkeypatch.setattr(products, "matvec", lambda *given: taken.append(1) or plain(*given))
    weight, x = drawn(40, 64, torch.float32)
    bias = torch.randn(40)
    with torch.no_grad():
        one = products.linear(x[None], weight, bias)
        products.linear(x.expand(2, -1), weight)
        products.linear(x[None], weight.t().contiguous().t())
        products.linear(x[:40][None], weight[:, :40].contiguous())
    products.linear(x[None], weight)
    assert taken == [1] and torch.allclose(one[0], weight @ x + bias, atol=1e-5)


@pytest.mark.usefixtures("small_too")
def test_without_numba_torch_does_it(monkeypatch):
    monkeypatch.setattr(matvec, "numba_missing", lambda: "it is not here")
    assert not matvec.fits(torch.ones(64, 64))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_threads_of_our_own_where_torch_has_none_to_give(monkeypatch):
    monkeypatch.setattr(team, "_parallel", lambda: None)
    weight, x = drawn(640, 64, torch.float32)
    for _ in range(50):
        assert torch.allclose(matvec.matvec(x, weight), weight @ x, atol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.usefixtures("two_threads")
def test_a_child_of_a_process_that_has_used_torchs_threads_goes_on():
    weight, x = drawn(640, 64, torch.float32)
    expected = matvec.matvec(x, weight)
    torch.zeros(1 << 20).add_(1)
    child = os.fork()
    if child == 0:
        same = torch.equal(matvec.matvec(x, weight), expected)
        os._exit(0 if same else 1)
    until = time.monotonic() + 20
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < until:
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended == (child, 0)
