"""Edits of rows, doses, means, draws and modules: their algebra, and where they may not differ."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.probe.test_edits import padded
from tests.stacks import CAUSAL, KINDS, WIDTH, ids_of, relative, stack_of, view_of

from laminogram import edits
from laminogram.errors import EditError
from laminogram.evaluate.divergence import divergence
from laminogram.probe import rows
from laminogram.probe.gram import Gram
from laminogram.probe.program import EditWarning
from laminogram.stack import sites
from laminogram.stack.layer import run_layer
from laminogram.stack.residual_basis import random_rotation
from laminogram.view import View

pytestmark = pytest.mark.filterwarnings("ignore::laminogram.probe.program.EditWarning")
VIEWS = {kind: view_of(kind) for kind in KINDS}
NEAR = {"rtol": 1e-5, "atol": 1e-6}


class Halved(torch.nn.Module):
    """A module from a site to itself that treats each token by itself."""

    def __init__(self, size=WIDTH, factor=0.5):
        super().__init__()
        self.factor = factor
        self.weight = torch.nn.Parameter(torch.linspace(-1, 1, size))

    def forward(self, x):
        return x * self.factor + self.weight * x.square()


def read(view, ids, site="attn_out", layer=1, **how):
    return torch.tensor(view.record(ids, sites=site, layers=layer, **how)[site, layer])


MAKERS = {
    "winsorise": lambda **w: edits.winsorise("attn_out", quantile=0.8, **w),
    "bound": lambda **w: edits.winsorise("attn_out", bound=0.3, **w),
    "sign": lambda **w: edits.sign("attn_out", 0.7, **w),
    "rms": lambda **w: edits.normalise("attn_out", rms=2.0, **w),
    "length": lambda **w: edits.normalise("attn_out", length=1.0, **w),
    "rotate": lambda **w: edits.rotate("attn_out", random_rotation(WIDTH, 3), **w),
    "apply": lambda **w: edits.apply("attn_out", Halved(), **w),
    "zero": lambda **w: edits.zero("attn_out", **w),
    "set": lambda **w: edits.set_to("attn_out", 0.4, **w),
    "add": lambda **w: edits.add("attn_out", 0.4, **w),
    "clip": lambda **w: edits.clip("attn_out", low=-0.2, high=0.1, **w),
}


def expected(make, x):
    """The same, restated with numpy in float64."""
    x = x.double().numpy()
    if make == "winsorise":
        bound = np.quantile(np.abs(x), 0.8, axis=-1, keepdims=True)
        return np.clip(x, -bound, bound)
    if make == "rms":
        return x * 2.0 / np.sqrt((x**2).mean(-1, keepdims=True))
    if make == "length":
        return x / np.linalg.norm(x, axis=-1, keepdims=True)
    return {
        "bound": lambda: np.clip(x, -0.3, 0.3),
        "sign": lambda: 0.7 * np.sign(x),
        "rotate": lambda: x @ random_rotation(WIDTH, 3).numpy(),
        "apply": lambda: x * 0.5 + np.linspace(-1, 1, WIDTH) * x**2,
        "zero": lambda: 0 * x,
        "set": lambda: 0 * x + 0.4,
        "add": lambda: x + 0.4,
        "clip": lambda: np.clip(x, -0.2, 0.1),
    }[make]()


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    make=st.sampled_from(sorted(MAKERS)),
    dose=st.sampled_from([0.0, 0.25, 1.0, 1.5, 2.0]),
    channels=st.none() | st.sets(st.integers(0, WIDTH - 1), min_size=1),
    positions=st.none()
    | st.sets(st.integers(-6, 5), min_size=1)
    | st.tuples(st.sets(st.integers(0, 5), min_size=1), st.sets(st.integers(0, 5))),
)
def test_an_edit_writes_what_it_says_in_its_dose_where_it_selects(
    kind, make, dose, channels, positions
):
    view, ids = VIEWS[kind], ids_of(2, 6)
    where = {"layers": 1, "channels": channels, "positions": positions, "dose": dose}
    before = read(view, ids)
    gram = view.using(edits=MAKERS[make](**where)).record(ids, sites="attn_out", layers=1)
    after = torch.tensor(gram["attn_out", 1])
    chosen = torch.zeros_like(before, dtype=torch.bool)
    columns = sorted(range(WIDTH) if channels is None else channels)
    each = positions if isinstance(positions, tuple) else (positions, positions)
    for row, here in enumerate(each):
        for position in range(6) if here is None else sorted(p % 6 for p in here):
            chosen[row, position, columns] = True
    between = before + dose * (torch.tensor(expected(make, before)) - before)
    assert after[~chosen].equal(before[~chosen])
    away = (after[chosen].double() - between[chosen].double()).abs().max()
    assert away <= 1e-6 * (1 + dose) * max(1.0, float(before.abs().max()) ** 2)
    (effect,) = gram.manifest["effects"]
    assert effect["selected"] == int(chosen.sum())
    assert effect["changed"] == int((after != before).sum())
    assert dose or after.equal(before)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 9),
    quantile=st.floats(0, 1, width=32),
    scale=st.floats(0.125, 8),
)
def test_what_winsorising_normalising_and_rotating_keep(seed, quantile, scale):
    x = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(seed))
    held = rows.winsorised(x, torch.tensor(quantile, dtype=torch.float64))
    assert (held.abs() <= x.abs()).all() and (held * x >= 0).all()
    assert rows.winsorised(held, torch.tensor(1.0)).equal(held)
    long = rows.to_rms(x * scale, torch.tensor(2.0))
    assert torch.allclose(long, rows.to_rms(x, torch.tensor(2.0)), **NEAR)
    assert torch.allclose(long.square().mean(-1).sqrt(), torch.tensor(2.0), **NEAR)
    turned = rows.rotated(x, random_rotation(8, seed))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), **NEAR)
    assert torch.allclose(rows.rotated(turned, random_rotation(8, seed).T), x, atol=1e-5)


def test_a_row_of_zeros_stays_and_has_a_gradient():
    x = torch.zeros(2, 4, requires_grad=True)
    made = rows.to_rms(x, torch.tensor(1.0))
    made.sum().backward()
    assert made.equal(torch.zeros(2, 4)) and torch.isfinite(x.grad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_edits_of_rows_reach_the_heads_experts_and_states_of_a_site(kind):
    """The row is the last axis: each head, each expert, each line of a state by itself."""
    view, ids = VIEWS[kind], ids_of(1, 5)
    for site in ("z", "ffn_act", "state"):
        if not any(one.name == site for one in _sites(view)):
            continue
        edit = edits.normalise(site, length=1.0, layers=1)
        found = read(view.using(edits=edit), ids, site)
        lengths = found.norm(dim=-1)
        assert torch.allclose(lengths[lengths > 0], torch.ones(1), atol=1e-4), site


def _sites(view):
    return sites.layer_sites(view.config.layers[1])


# Means and draws


def means_by_hand(gram, site, step, first):
    """Restated token by token."""
    buckets = [[] for _ in range(first + 1)]
    for row, mask in zip(gram[site, step], gram.mask, strict=True):
        for position, value in enumerate(row[mask]):
            buckets[min(position, first)].append(value.astype(np.float64))
    return [np.mean(bucket, 0) for bucket in buckets]


@settings(max_examples=15, deadline=None)
@given(
    kind=st.sampled_from(CAUSAL),
    first=st.integers(0, 3),
    side=st.sampled_from(["left", "right"]),
    dose=st.sampled_from([0.5, 1.0]),
)
def test_a_mean_has_buckets_for_first_positions_and_counts_no_pad(kind, first, side, dose):
    view = VIEWS[kind]
    tokens, mask = padded(side, (8, 5))
    gram = view.record(tokens, sites="ffn_out", mask=mask)
    ids = ids_of(1, 7, seed=4)
    plain = read(view, ids, "ffn_out", 0)
    edit = edits.mean("ffn_out", gram, first=first, layers=0, dose=dose)
    found = read(view.using(edits=edit), ids, "ffn_out", 0)
    means = means_by_hand(gram, "ffn_out", 0, first)
    for position in range(7):
        mean = torch.tensor(means[min(position, first)])
        wanted = plain[0, position] + dose * (mean - plain[0, position])
        assert torch.allclose(found[0, position].double(), wanted, **NEAR)


def test_means_of_parts_are_the_mean_of_the_whole_and_a_measurement_gives_one_for_all():
    view, texts = VIEWS["llama"], [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    whole = view.record(texts, sites="z")
    parts = (view.record([text], sites="z") for text in texts)
    one, other = (edits.mean("z", of, layers=1) for of in (whole, parts))
    values = [edit.source.values[1] for edit in (one, other)]
    assert torch.allclose(*values, **NEAR)
    measured = view.measure(texts, sites="z", progress=False)
    flat = edits.mean("z", measured, layers=1)
    same = edits.mean("z", whole, first=0, layers=1)
    ids = ids_of(1, 5)
    found = [read(view.using(edits=edit), ids, "z") for edit in (flat, same)]
    assert torch.allclose(*found, **NEAR)


def test_means_of_grams_of_different_layers_are_those_of_each():
    view, ids = VIEWS["llama"], ids_of(2, 5)
    both = view.record(ids, "attn_out", layers=[0, 1])
    apart = [view.record(ids, "attn_out", layers=layer) for layer in (0, 1)]
    assert edits.mean("attn_out", apart) == edits.mean("attn_out", both)
    with pytest.raises(EditError, match="no token"):
        edits.mean("attn_out", [])


def test_a_bucket_without_a_token_and_a_measurement_without_means_are_errors():
    view = VIEWS["llama"]
    with pytest.raises(EditError, match="no token to take a mean of at the positions 1 and later"):
        edits.mean("z", view.record([[1], [2]], sites="z"))
    with pytest.raises(EditError, match=r"no mean of 'z'.*moments or channels"):
        edits.mean("z", view.measure([[1, 2]], "topk", sites="z", progress=False))
    gram = view.record([[1, 2]], sites="z")
    narrow = Gram(
        {("ffn_out", 1): gram.tensor("z", 1)[..., :4]},
        {"ffn_out": ("B", "T", "H", "D")},
        gram.step_layers,
        gram.tokens,
        gram.mask,
    )
    with pytest.raises(EditError, match=r"shape \(4, 4\) for each token.*has \(32,\)"):
        view.using(edits=edits.mean("ffn_out", narrow, layers=1))


def test_resampled_tokens_come_whole_from_the_gram_and_hang_on_seed_and_position_alone():
    view = VIEWS["rwkv7"]
    gram = view.record([[1, 2, 3, 4], [5, 6, 7]], sites=["ffn_out", "z"])
    first = {tuple(row[0]) for row in gram["ffn_out", 1]}
    later = {tuple(x) for row, m in zip(gram["ffn_out", 1], gram.mask) for x in row[m][1:]}
    edit = edits.resample("ffn_out", gram, seed=1, layers=1)
    edited = view.using(edits=edit)
    found = read(edited, ids_of(2, 9), "ffn_out")
    assert all(tuple(row[0].numpy()) in first for row in found)
    assert all(tuple(x.numpy()) in later for row in found for x in row[1:])
    assert found[0].equal(found[1])
    assert len({tuple(x.numpy()) for x in found[0, 1:]}) > 1
    other = read(view.using(edits=edits.resample("ffn_out", gram, seed=2, layers=1)), ids_of(2, 9),
                 "ffn_out")  # fmt: skip
    assert not other.equal(found)


# One forward path: caches, batches, pads, parallel groups, compiled layers


def everything(view):
    """One edit of every kind, at several layers."""
    gram = view.record(ids_of(2, 6, seed=8), sites=["ffn_out", "attn_out"])
    return [
        edits.winsorise("resid_post", quantile=0.9, layers=0),
        edits.normalise("attn_out", rms=0.5, layers=1, phase="new"),
        edits.mean("ffn_out", gram, layers=0, channels=[1, 2]),
        edits.resample("attn_out", gram, layers=2, positions=[0, 3, 4], dose=0.5),
        edits.apply("ffn_out", Halved(), layers=1),
        edits.sign("ffn_out", 0.3, layers=2, channels=[0, 5], dose=1.5),
        edits.clip("resid_post", high=0.4, layers=1, dose=0.5),
        edits.rotate("ffn_in", random_rotation(WIDTH, 1), layers=2),
    ]


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_cache_changes_nothing(kind):
    view = VIEWS[kind].using(edits=everything(VIEWS[kind]))
    ids = ids_of(2, 7)
    program = view.program()
    program.prompt_lengths = (4, 4)
    with torch.no_grad():
        whole = view.run(view.tokens(ids), observer=program)
        cache = view.new_cache(2)
        parts = [
            view.run(view.tokens(ids[:, a:b]), cache=cache)
            for a, b in ((0, 4), (4, 5), (5, 6), (6, 7))
        ]
    assert relative(torch.cat(parts, 1), whole) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_rows_with_pads_on_either_side(kind, side):
    view = VIEWS[kind].using(edits=[e for e in everything(VIEWS[kind]) if e.phase == "all"])
    tokens, mask = padded(side, (8, 5))
    together = view.logits(tokens, mask=mask)
    for row in range(2):
        alone = view.logits(tokens[row][mask[row]])[0]
        assert relative(together[row][mask[row]], alone) < 1e-5


def test_positions_of_each_row_are_those_of_its_own_run():
    view, ids = VIEWS["gpt_neox"], ids_of(2, 6)
    both = view.using(edits=edits.zero("ffn_out", layers=1, positions=[[0, -1], []]))
    found = both.logits(ids)
    first = view.using(edits=edits.zero("ffn_out", layers=1, positions=[0, 5])).logits(ids[:1])
    assert relative(found[:1], first) < 1e-6
    assert relative(found[1:], view.logits(ids[1:])) < 1e-6
    with pytest.raises(EditError, match="positions for 2 rows; this run has 1"):
        both.logits(ids[:1])
    with pytest.raises(EditError, match="empty in every row"):
        edits.zero("ffn_out", positions=[[], []])


@pytest.mark.parametrize("kind", ["patch", "positions"])
def test_an_edit_of_the_rows_of_a_run_acts_on_no_other_rows(kind):
    view, texts = VIEWS["llama"], [[1, 2, 3], [4, 5, 6, 7, 8]]
    if kind == "patch":
        edit = edits.patch("attn_out", view.record(texts, "attn_out"), dose=0.5)
    else:
        edit = edits.zero("attn_out", positions=[[0], [1, 4]])
    edited = view.using(edits=edit)
    gram = edited.record(texts, "resid_post", layers=2)
    measured = edited.measure(texts, "moments", "resid_post", 2, progress=False)
    mean = gram["resid_post", 2][gram.mask].mean(0)
    np.testing.assert_allclose(measured["moments", "resid_post", 2].result()["mean"], mean, 1e-4)
    for run in (
        lambda: edited.measure(texts, "moments", batch_size=1, progress=False),
        lambda: edited.measure([*texts, *texts], "moments", batch_size=2, progress=False),
        lambda: list(edited.recordings([*texts, *texts], "resid_post", batch_size=2)),
        lambda: divergence(view, edited, [*texts, *texts], batch_size=2),
    ):
        with pytest.raises(EditError, match=r"is of 2 rows of one run; here \d texts run in batch"):
            run()


def test_an_edit_in_a_parallel_group_is_that_of_its_branch():
    """The mean of branches, one of them edited, from two runs of single layers."""
    view, ids = VIEWS["llama"], ids_of(1, 5)
    edit = edits.winsorise("resid_post", quantile=0.5, layers=1)
    group = view.using(plan="0, mean(1, 2)", edits=edit)
    branches = [
        torch.tensor(view.using(plan=plan, edits=some).record(ids, "resid_post")["resid_post", 1])
        for plan, some in (("0, 1", edit), ("0, 2", ()))
    ]
    final = torch.tensor(group.record(ids, sites="final")["final"][0])
    norm = view.stack.final_norm
    assert relative(final, norm((branches[0] + branches[1]) / 2)) < 1e-5


def test_one_compiled_graph_serves_every_value_of_a_kind_of_edit():
    view, ids = View(stack_of("llama"), None, "llama", VIEWS["llama"].plan), ids_of(1, 5)
    changes = [
        [edits.winsorise("ffn_out", quantile=q, dose=d) for q, d in ((0.5, 1.0), (0.9, 0.5))],
        [edits.normalise("ffn_out", rms=r) for r in (1.0, 3.0)],
        [edits.apply("ffn_out", Halved())],
    ]
    plain = [[view.using(edits=one).logits(ids) for one in several] for several in changes]
    torch._dynamo.reset()
    counted: list[int] = []

    def backend(graph, inputs):
        counted.append(1)
        return graph.forward

    view.stack.compile_layers(backend)
    for several, wanted in zip(changes, plain, strict=True):
        found = [view.using(edits=one).logits(ids) for one in several]
        assert all(relative(a, b) < 1e-6 for a, b in zip(found, wanted, strict=True))
    view.stack.run_layer = run_layer
    assert len(counted) == len(changes)


# Gradients


def test_gradients_flow_through_rows_and_into_a_module():
    view, ids = VIEWS["llama"], ids_of(1, 4)
    module = Halved()
    for edit in (
        edits.apply("ffn_out", module, layers=1),
        edits.normalise("ffn_out", rms=1.0, layers=1),
        edits.winsorise("ffn_out", quantile=0.7, layers=1),
        edits.rotate("ffn_out", random_rotation(WIDTH, 0), layers=1),
    ):
        edited = view.using(edits=edit)
        gram = edited.record(ids, sites="attn_out", layers=1, grad=lambda x: x.square().sum())
        assert np.isfinite(gram.grad["attn_out"]).all() and abs(gram.grad["attn_out"]).max() > 0
    logits = view.using(edits=edits.apply("ffn_out", module, layers=1)).run(view.tokens(ids))
    (gradient,) = torch.autograd.grad(logits.square().sum(), [module.weight])
    moved, base = 1e-3, logits.square().sum().item()
    direction = gradient / gradient.norm()
    with torch.no_grad():
        module.weight += moved * direction
        after = view.using(edits=edits.apply("ffn_out", module, layers=1)).logits(ids)
    assert abs((after.square().sum().item() - base) / (moved * gradient.norm().item()) - 1) < 0.05


def test_the_gradient_of_a_sign_is_straight_through():
    x = torch.tensor([[-2.0, 0.5, 3.0]], requires_grad=True)
    made = rows.signed(x, torch.tensor(4.0))
    made.backward(torch.tensor([[1.0, 2.0, 3.0]]))
    assert made.tolist() == [[-4.0, 4.0, 4.0]] and x.grad.tolist() == [[1.0, 2.0, 3.0]]


# Values and errors


def test_a_module_is_named_by_its_settings_and_follows_its_weights():
    one, two = Halved(), Halved()
    assert edits.apply("z", one) == edits.apply("z", two)
    assert edits.apply("z", one) != edits.apply("z", Halved(factor=0.25))
    before = str(edits.apply("z", one))
    with torch.no_grad():
        one.weight[0] = 7
    assert edits.apply("z", one) != edits.apply("z", two) and str(edits.apply("z", one)) != before


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: edits.zero("z", dose=2.5), "dose is 2.5; it goes from 0"),
        (lambda: edits.winsorise("z"), "a quantile of the row or a bound"),
        (lambda: edits.winsorise("z", quantile=1.5), "quantile is 1.5"),
        (lambda: edits.winsorise("z", bound=-1.0), "below 0"),
        (lambda: edits.sign("z", -1.0), "magnitude is -1.0"),
        (lambda: edits.normalise("z"), "an rms or a length"),
        (lambda: edits.rotate("z", torch.ones(8, 8)), "not orthogonal"),
        (lambda: edits.rotate("z", torch.ones(8, 4)), "square"),
        (lambda: edits.rotate("ffn_out", torch.eye(8)), "8 channels; the site has 32"),
        (lambda: edits.apply("z", torch.tanh), "no torch.nn.Module"),
        (lambda: edits.winsorise("pattern", quantile=0.5), "as long as the text"),
        (lambda: edits.mean("z", [], first=-1), "first is -1"),
        (lambda: edits.sign("ffn_out", [1.0, 2.0]), "2 values; it selects 32"),
    ],
)
def test_what_cannot_be_is_an_error_that_says_why(make, message):
    with pytest.raises(EditError, match=message):
        VIEWS["llama"].using(edits=make())


def test_a_module_that_changes_the_shape_is_an_error():
    view = VIEWS["llama"].using(edits=edits.apply("ffn_out", torch.nn.Linear(WIDTH, 3)))
    with pytest.raises(EditError, match=r"made \(1, 2, 3\) of a tensor \(1, 2, 32\)"):
        view.logits([1, 2])


def test_an_edited_pattern_by_a_module_stays_within_its_mask():
    """Clipped softmax (Bondarenko et al. 2023) as a module."""

    class Clipped(torch.nn.Module):
        def forward(self, x):
            return (x * 1.1 - 0.05).clamp(0, 1)

    view, ids = VIEWS["llama"], ids_of(1, 5)
    edit = edits.apply("pattern", Clipped(), layers=1)
    before, after = read(view, ids, "pattern"), read(view.using(edits=edit), ids, "pattern")
    assert torch.allclose(after, (before * 1.1 - 0.05).clamp(0, 1), atol=1e-6)
    assert (after[0, 0].triu(1) == 0).all()


def test_a_dose_of_nothing_warns_that_nothing_changed():
    view = VIEWS["llama"].using(edits=edits.zero("ffn_out", layers=1, dose=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(EditWarning, match="changed none"):
            view.logits([1, 2, 3])
