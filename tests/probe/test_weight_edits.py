"""Edits of weights: what they change, what they leave alone, and rotations that change nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import KINDS, config_of, ids_of, relative, stack_of, view_of

from laminogram import edits
from laminogram.errors import EditError
from laminogram.stack.config import HeadConfig, NormConfig, ScoreConfig
from laminogram.stack.residual_basis import random_rotation
from laminogram.stack.stack import Stack
from laminogram.view import View

weights = edits.weights
DOWN = "layers.1.ffn.down.weight"
ROTATABLE = ("llama", "gpt_neox", "moe", "latent")


def parameters(view):
    return dict(view.stack.named_parameters())


def view_like(config, seed=0):
    """A view of another configuration, its weights drawn as those of `stack_of` are."""
    stack = Stack(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in stack.named_parameters():
            parameter.normal_(0, 0.3, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return View(stack, None, config.family, stack.full_plan())


@settings(max_examples=25, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    number=st.integers(0, 10**6),
    make=st.sampled_from(["scale_rows", "scale_columns", "zero_rows", "zero_columns", "set"]),
    factor=st.floats(-3, 3, width=32),
    data=st.data(),
)
def test_an_edit_changes_its_entries_and_nothing_else(kind, number, make, factor, data):
    view = view_of(kind)
    before = {name: x.detach().clone() for name, x in parameters(view).items()}
    name = sorted(before)[number % len(before)]
    old = before[name]
    columns = "columns" in make and old.dim() > 1
    axis = 1 if columns else 0
    chosen = sorted(data.draw(st.sets(st.integers(0, old.shape[axis] - 1), min_size=1)))
    edit = {
        "scale": lambda: (weights.scale_columns if columns else weights.scale_rows)(
            name, chosen, factor=factor
        ),
        "zero": lambda: (weights.zero_columns if columns else weights.zero_rows)(name, chosen),
        "set": lambda: weights.set_to(name, factor, rows=chosen),
    }[make.partition("_")[0]]()
    edited = view.using(edits=edit)
    expected = old.double()
    index = (slice(None), chosen) if columns else (chosen,)
    expected[index] = {"zero": 0.0, "set": factor}.get(make.partition("_")[0], 0.0)
    if make.startswith("scale"):
        expected[index] = old.double()[index] * factor
    found = parameters(edited)
    assert found[name].equal(expected.to(old.dtype))
    for other, x in parameters(view).items():
        assert x.equal(before[other])  # nothing in place
        assert other == name or found[other] is x  # nor copied


def test_one_entry_of_a_matrix_and_of_a_vector():
    view = view_of("llama")
    cut = view.using(
        edits=[weights.scale_entry(DOWN, 3, 5, factor=0), weights.scale_entry(
            "layers.0.attn_norm.weight", 7, factor=2)]
    )  # fmt: skip
    old, new = parameters(view), parameters(cut)
    assert new[DOWN][3, 5] == 0 and (new[DOWN] != old[DOWN]).sum() == 1
    gain = "layers.0.attn_norm.weight"
    assert new[gain][7] == 2 * old[gain][7] and (new[gain] != old[gain]).sum() == 1


def test_a_view_carries_its_weight_edits_and_the_old_view_is_as_it_was():
    view, ids = view_of("gpt_neox"), ids_of(2, 5)
    logits, facts = view.logits(ids), view.facts()
    first = weights.scale_entry(DOWN, 3, 5, factor=0.5)
    second = edits.zero("ffn_out", layers=1)
    cut = view.using(edits=[second, first])
    assert cut.facts()["edits"] == [str(first), str(second)]
    assert cut.facts()["weights_hash"] != facts["weights_hash"]
    assert str(first) in cut.conditions and repr(cut).endswith("2 edits>")
    assert cut.record(ids, "ffn_out").manifest["edits"] == [str(first), str(second)]
    assert view.logits(ids).equal(logits) and view.facts() == facts
    chained = view.using(edits=first).using(edits=second)
    assert chained == cut or chained.logits(ids).equal(cut.logits(ids))
    assert chained.conditions == cut.conditions


def test_a_weight_edit_that_does_nothing_changes_no_bit_and_no_hash():
    view, ids = view_of("rwkv7"), ids_of(1, 4)
    same = view.using(edits=weights.scale_rows(DOWN, [1, 2], factor=1))
    assert same.logits(ids).equal(view.logits(ids))
    assert same.facts()["weights_hash"] == view.facts()["weights_hash"]


def test_weights_are_edited_before_they_are_converted():
    view = view_of("llama")
    edit = weights.set_to(DOWN, 1.001, rows=3, columns=5)
    found = view.using(edits=edit, precision="bf16").stack.get_parameter(DOWN)
    assert found.dtype == torch.bfloat16 and found[3, 5] == torch.tensor(1.001).bfloat16()


def test_removing_a_gain_of_a_norm_removes_its_channel_from_what_reads_it():
    """As Kovaleva et al. 2021 do: gain and bias at 0."""
    view, ids = view_of("gpt_neox"), ids_of(1, 4)
    cut = view.using(
        edits=[weights.zero_rows(f"layers.1.ffn_norm.{name}", 9) for name in ("weight", "bias")]
    )
    assert (cut.record(ids, "ffn_in")["ffn_in", 1][..., 9] == 0).all()
    same = view.using(edits=edits.zero("ffn_in", layers=1, channels=9))
    assert relative(cut.logits(ids), same.logits(ids)) < 1e-6


def test_values_are_set_as_an_array_and_a_gradient_reaches_the_new_parameter():
    view, ids = view_of("llama"), ids_of(1, 4)
    block = np.arange(6.0).reshape(2, 3)
    cut = view.using(edits=weights.set_to(DOWN, block, rows=[0, 4], columns=[1, 2, 7]))
    parameter = cut.stack.get_parameter(DOWN)
    assert np.array_equal(parameter.detach()[[0, 4]][:, [1, 2, 7]].numpy(), block)
    cut.run(cut.tokens(ids)).square().sum().backward()
    assert parameter.grad is not None and view.stack.get_parameter(DOWN).grad is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: weights.zero_rows("layers.1.ffn.dwn.weight", 0), "there are .*ffn.down.weight"),
        (lambda: weights.zero_rows(DOWN, 32), "row 32 of .* does not exist: there are 0-31"),
        (lambda: weights.zero_columns(DOWN, [48]), "column 48 of .* there are 0-47"),
        (lambda: weights.zero_columns("final_norm.weight", 0), r"shape \(32,\): no columns"),
        (lambda: weights.zero_rows(DOWN, []), "rows is empty"),
        (lambda: weights.set_to(DOWN, [1.0, 2.0], rows=0, columns=[0, 1, 2]), r"it selects \(1, 3"),
        (lambda: weights.rotate(torch.eye(16)), "16 channels for a residual of 32"),
        (lambda: weights.rotate(torch.ones(32, 32)), "not orthogonal"),
    ],
)
def test_what_does_not_exist_is_an_error_that_names_what_does(make, message):
    with pytest.raises(EditError, match=message):
        view_of("llama").using(edits=make())


def test_weight_edits_are_values():
    one, two = (weights.set_to(DOWN, [[1.0, 2.0]], columns=[0, x]) for x in (1, 1))
    assert one == two and hash(one) == hash(two)
    assert one != weights.set_to(DOWN, [[1.0, 3.0]], columns=[0, 1])
    assert weights.rotate(seed=1) != weights.rotate(seed=2)
    assert weights.rotate(np.eye(4)) == weights.rotate(torch.eye(4))


# Rotation


@pytest.mark.parametrize("kind", ROTATABLE)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_rotated_residual_gives_the_same_logits_in_another_basis(kind, seed):
    view, ids = view_of(kind), ids_of(2, 7)
    turned = view.using(edits=weights.rotate(seed=seed))
    assert relative(turned.logits(ids), view.logits(ids)) < 1e-5
    wide, turned_wide = (
        one.using(precision=torch.float64).using(edits=some)
        for one, some in ((view, ()), (view, weights.rotate(seed=seed)))
    )
    assert relative(turned_wide.logits(ids), wide.logits(ids)) < 1e-11
    # The stream is the old one (without its mean, for LayerNorm) times the matrix.
    before, after = (
        torch.tensor(one.record(ids, "resid_post")["resid_post"]) for one in (wide, turned_wide)
    )
    if view.config.layers[0].norm.kind == "layer":
        before = before - before.mean(-1, keepdim=True)
    assert relative(after, before @ random_rotation(32, seed)) < 1e-11


@pytest.mark.parametrize("kind", ROTATABLE)
def test_a_given_matrix_and_its_transpose_lead_back(kind):
    view, ids = view_of(kind), ids_of(1, 5)
    matrix = random_rotation(32, 4)
    there = view.using(edits=weights.rotate(matrix))
    back = there.using(edits=weights.rotate(matrix.T))
    assert relative(back.logits(ids), view.logits(ids)) < 1e-5
    table = "embed.tokens.weight"
    if view.config.layers[0].norm.kind == "rms":
        assert relative(parameters(back)[table], parameters(view)[table]) < 1e-5


def test_a_rotation_at_a_site_is_undone_by_one_of_the_weights():
    """`resid_pre` of layer 0 turned back, under weights that expect the stream turned."""
    view, ids = view_of("llama"), ids_of(1, 5)
    matrix = random_rotation(32, 2)
    turned = view.using(edits=weights.rotate(matrix))
    mixed = turned.using(
        edits=[edits.rotate("resid_post", matrix.T, layers=2), edits.rotate(
            "resid_post", matrix, layers=2)]
    )  # fmt: skip
    assert relative(mixed.logits(ids), view.logits(ids)) < 1e-5


def special(name):
    """Configurations with what a few families add, each small."""
    llama, neox = config_of("llama"), config_of("gpt_neox")
    layer = neox.layers[0]
    bare = replace(layer, attn=replace(layer.attn, qkv_bias=False, o_bias=False),
                   ffn=replace(layer.ffn, bias=False))  # fmt: skip
    offset = NormConfig(kind="rms", offset=1.0)
    return {
        "tied": replace(llama, head=HeadConfig(tied=True)),
        "offset": replace(
            llama,
            final_norm=offset,
            layers=tuple(replace(one, norm=offset) for one in llama.layers),
            embedding=replace(llama.embedding, scale=5.5),
        ),
        "positions, no biases but those of the norms": replace(
            neox,
            layers=(bare,) * 3,
            head=HeadConfig(tied=True),
            embedding=replace(neox.embedding, positions=16),
        ),
        "score": replace(neox, score=ScoreConfig(labels=2, through="dense")),
    }[name]


@pytest.mark.parametrize(
    "name", ["tied", "offset", "positions, no biases but those of the norms", "score"]
)
def test_what_stands_around_the_layers_is_rotated_with_them(name):
    view, ids = view_like(special(name)), ids_of(2, 6)
    turned = view.using(edits=weights.rotate(seed=3))
    assert relative(turned.logits(ids), view.logits(ids)) < 1e-5
    if view.config.score is not None:
        assert relative(turned.scores(ids), view.scores(ids)) < 1e-5
    cache = turned.new_cache(2)
    parts = [turned.run(turned.tokens(x), cache=cache) for x in (ids[:, :4], ids[:, 4:])]
    assert relative(torch.cat(parts, 1), turned.logits(ids)) < 1e-5


def test_a_rotation_spreads_a_massive_activation():
    view, ids = view_of("llama"), ids_of(1, 6)
    massive = view.using(edits=weights.set_to(DOWN, 1e3, rows=7, columns=3))
    turned = massive.using(edits=weights.rotate(seed=0))
    tall, flat = (abs(one.record(ids, "resid_post")["resid_post"][1]).max()
                  for one in (massive, turned))  # fmt: skip
    assert tall > 500 and flat < 0.7 * tall
    assert relative(turned.logits(ids), massive.logits(ids)) < 1e-4


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bert", "layer 0 is a post-norm block"),
        ("alibi", "layer 0 is a sandwich-norm block"),
        ("rwkv4", "layer 0 has rwkv4_time, whose token shift"),
        ("rwkv7", "rwkv7_time"),
    ],
)
def test_a_residual_that_cannot_be_rotated_is_refused_by_name(kind, message):
    with pytest.raises(EditError, match=f"residual of {kind} cannot be rotated: .*{message}"):
        view_of(kind).using(edits=weights.rotate())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": HeadConfig(normalised=True)}, "rows of its weight to length one"),
        ({"final_norm": NormConfig(kind="layer")}, "only some of its norms"),
        ({"embedding": replace(config_of("llama").embedding, norm=NormConfig(kind="rms"))},
         "after the embedding"),
    ],
)  # fmt: skip
def test_heads_and_norms_that_stand_in_the_way_are_named(change, message):
    view = view_like(replace(config_of("llama"), **change))
    with pytest.raises(EditError, match=message):
        view.using(edits=weights.rotate())


def test_packed_weights_are_edited_before_they_are_packed():
    view, ids = View(stack_of("llama"), None, "llama", view_of("llama").plan), ids_of(1, 4)
    edit = weights.scale_entry(DOWN, 3, 5, factor=0)
    packed = view.using(precision="fp32+int8")
    with pytest.raises(EditError, match="already: edit those"):
        packed.using(edits=edit)
    both = view.using(edits=edit, precision="fp32+int8")
    assert not both.logits(ids).equal(packed.logits(ids))
