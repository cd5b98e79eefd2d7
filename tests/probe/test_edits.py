import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.stacks import CAUSAL, KINDS, ids_of, relative, view_of

from laminogram import edits
from laminogram.errors import ConfigError, EditError, SiteError
from laminogram.probe.program import EditWarning
from laminogram.stack import sites

finite = st.floats(-5, 5, allow_nan=False, width=32)


def editable(view):
    """Every (site, layer) that can be edited, layer None for the stack's own."""
    table = [(site.name, None) for site in sites.stack_sites(view.config)]
    layer = view.config.layers[1]
    table += [(s.name, 1) for s in sites.layer_sites(layer) if s.access != "read"]
    return table


@pytest.mark.parametrize("kind", KINDS)
def test_a_no_op_edit_changes_no_bit(kind):
    view, ids = view_of(kind), ids_of(2, 5)
    for site, layer in editable(view):
        # Naming a derived site runs the explicit path; a recording of it does, too.
        plain = view.record(ids, sites=[site, "logits"], layers=layer)["logits"]
        nothing = edits.scale(site, 1.0, layers=layer)
        with pytest.warns(EditWarning, match="changed none"):
            edited = view.using(edits=nothing).record(ids, sites=[site, "logits"], layers=layer)
        assert (edited["logits"] == plain).all(), site


@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_at_every_site_reaches_the_logits(kind):
    view, ids = view_of(kind), ids_of(1, 6)
    plain = view.logits(ids)
    for site, layer in editable(view):
        changed = view.using(edits=edits.scale(site, 1.5, layers=layer)).logits(ids)
        assert relative(changed, plain) > 1e-6, site


@settings(max_examples=30, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    make=st.sampled_from(["zero", "set", "scale", "add", "clip"]),
    layer=st.integers(0, 2),
    channels=st.none() | st.sets(st.integers(0, 31), min_size=1),
    positions=st.none() | st.sets(st.integers(-6, 5), min_size=1),
    value=finite,
)
def test_an_edit_does_to_its_selection_what_it_says_and_nothing_else(
    kind, make, layer, channels, positions, value
):
    view, ids = view_of(kind), ids_of(2, 6)
    where = {"layers": layer, "channels": channels, "positions": positions}
    edit = {
        "zero": lambda: edits.zero("attn_out", **where),
        "set": lambda: edits.set_to("attn_out", value, **where),
        "scale": lambda: edits.scale("attn_out", value, **where),
        "add": lambda: edits.add("attn_out", value, **where),
        "clip": lambda: edits.clip("attn_out", low=-abs(value), high=abs(value), **where),
    }[make]()
    before = torch.tensor(view.record(ids, sites="attn_out")["attn_out", layer])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EditWarning)
        after = torch.tensor(
            view.using(edits=edit).record(ids, sites="attn_out")["attn_out", layer]
        )
    chosen = torch.zeros_like(before, dtype=torch.bool)
    columns = sorted(range(32) if channels is None else channels)
    rows = sorted(range(6) if positions is None else {p % 6 for p in positions})
    for row in rows:
        chosen[:, row, columns] = True
    expected = {
        "zero": torch.zeros_like(before),
        "set": torch.full_like(before, value),
        "scale": before * value,
        "add": before + value,
        "clip": before.clamp(-abs(value), abs(value)),
    }[make]
    assert after[~chosen].equal(before[~chosen])
    assert torch.allclose(after[chosen], expected[chosen])


def test_zeroing_an_infinite_value_gives_zero():
    view, ids = view_of("llama"), ids_of(1, 4)
    with torch.no_grad():
        view.stack.layers[0].ffn.down.weight[3] = float("inf")
    cut = view.using(edits=edits.zero("ffn_out", layers=0, channels=[3]))
    assert (cut.record(ids)["ffn_out", 0][..., 3] == 0).all()


def test_the_counts_of_an_edit_are_in_the_manifest():
    view = view_of("rwkv4").using(edits=edits.zero("ffn_out", layers=1, channels=[3, 4]))
    gram = view.record([[1, 2, 3], [4]], sites="ffn_out")
    assert gram.manifest["effects"] == [{"edit": str(view.edits[0]), "selected": 8, "changed": 8}]


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_patch_from_its_own_run_changes_nothing_and_from_another_moves_it_there(kind):
    view, ids = view_of(kind), ids_of(2, 6)
    other = ids_of(2, 6, seed=9)
    gram = view.record(other, sites="resid_post", layers=[2])
    patched = view.using(edits=edits.patch("resid_post", gram))
    # The last layer's whole output decides the logits.
    assert relative(patched.logits(ids), view.logits(other)) < 1e-6
    own = view.record(ids, sites="resid_post", layers=[2])
    with pytest.warns(EditWarning):
        assert view.using(edits=edits.patch("resid_post", own)).logits(ids).equal(view.logits(ids))


def test_a_patch_is_made_at_the_steps_that_its_gram_has():
    view, ids = view_of("llama"), ids_of(1, 4)
    gram = view.record(ids_of(1, 4, seed=9), sites="ffn_out", layers=[0, 2])
    found = view.using(edits=edits.patch("ffn_out", gram)).record(ids, "ffn_out")
    for step in (0, 2):
        assert (found["ffn_out", step] == gram["ffn_out", step]).all()
    assert (found["ffn_out", 1] != gram["ffn_out", 2]).any()


@pytest.mark.parametrize("kind", ("llama", "gpt_neox", "bert"))
def test_removing_every_head_leaves_the_bias(kind):
    view, ids = view_of(kind), ids_of(1, 4)
    found = view.using(edits=edits.zero("head_out", layers=1)).record(ids, sites="attn_out")
    bias = view.stack.layers[1].attn.o.bias
    expected = torch.zeros(32) if bias is None else bias.detach()
    assert torch.tensor(found["attn_out", 1]).allclose(expected.expand(1, 4, 32))


@pytest.mark.parametrize("kind", ("rwkv4", "rwkv5", "rwkv6", "rwkv7"))
def test_an_edited_state_acts_on_what_follows_and_on_nothing_before(kind):
    view, ids = view_of(kind), ids_of(1, 6)
    changed = view.using(edits=edits.scale("state", 0.5, layers=1, positions=[2])).logits(ids)
    plain = view.record(ids, sites=["state", "logits"], layers=1)["logits"][0]
    plain = torch.tensor(plain)
    assert changed[:, :3].equal(plain[:, :3])
    assert relative(changed[:, 3:], plain[:, 3:]) > 1e-6


def test_gradients_flow_through_edits():
    view, ids = view_of("llama"), ids_of(1, 4)
    cut = view.using(edits=edits.scale("resid_post", 3.0, layers=2))
    plain = view.record(ids, sites="ffn_out", layers=2, grad=lambda x: x.double().sum())
    tripled = cut.record(ids, sites="ffn_out", layers=2, grad=lambda x: x.double().sum())
    assert plain.grad is not None and tripled.grad is not None
    assert abs(plain.grad["ffn_out"]).max() > 0
    zeroed = view.using(edits=edits.zero("resid_post", layers=2))
    gone = zeroed.record(ids, sites="ffn_out", layers=2, grad=lambda x: x.sum())
    assert abs(gone.grad["ffn_out"]).max() == 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: edits.zero("fnn_out"), SiteError, "'fnn_out' does not exist; there are embed"),
        (lambda: edits.zero("ffn_out", layers=7), SiteError, "layer 7 does not exist.*0-2"),
        (lambda: edits.zero("ffn_out", channels=[32]), SiteError, "channel 32 .* 0-31"),
        (lambda: edits.zero("z", heads=[4]), SiteError, "head 4 .* 0-3"),
        (lambda: edits.zero("ffn_out", heads=[0]), EditError, "no axis of heads"),
        (lambda: edits.zero("w", layers=0), SiteError, "layer 0 .* has no site 'w'; it has"),
        (lambda: edits.zero("ffn_out", layers=[]), EditError, "empty"),
        (lambda: edits.zero("ffn_out", steps=[5]), SiteError, "step 5"),
        (lambda: edits.add("ffn_out", [1.0, 2.0]), EditError, "2 values; it selects 32"),
        (lambda: edits.zero("ffn_out", phase="late"), EditError, "'late'"),
    ],
)
def test_what_does_not_exist_is_an_error_that_names_what_does(make, error, message):
    with pytest.raises(error, match=message):
        view_of("llama").using(edits=make())


def test_a_read_only_site_cannot_be_edited():
    with pytest.raises(EditError, match="can only be read"):
        view_of("rwkv7").using(edits=edits.zero("pattern", layers=1))


def test_a_position_that_never_comes_is_an_error():
    view = view_of("llama").using(edits=edits.zero("ffn_out", positions=[40]))
    with pytest.raises(EditError, match="selected nothing"):
        view.logits([1, 2, 3])


def test_a_layer_outside_the_plan_cannot_be_edited():
    with pytest.raises(SiteError, match="layer 1 is not in the plan 0, 2"):
        view_of("llama").using(plan="0, 2", edits=edits.zero("ffn_out", layers=1))


@pytest.mark.parametrize("array", [np.array, torch.tensor])
def test_numbers_are_those_of_any_library(array):
    view, ids = view_of("llama"), ids_of(2, 5)
    where = {"layers": [0, 2], "channels": [3], "positions": [[1], [4]]}
    given = {"layers": array([0, 2]), "channels": array(3), "positions": array([[1], [4]])}
    assert edits.zero("ffn_out", **given) == edits.zero("ffn_out", **where)
    assert view.record(ids, "ffn_out", array([0, 2])).steps == (0, 2)
    assert view.record(ids, "ffn_out", array(1)).steps == (1,)
    name = "layers.0.ffn.down.weight"
    assert edits.weights.zero_rows(name, array([1])) == edits.weights.zero_rows(name, [1])


@pytest.mark.parametrize(
    "odd",
    [np.array([False, True]), torch.tensor([True]), [True], True, [1.5], 1.5, np.array(1.5), "12"],
)
def test_what_is_no_whole_number_chooses_nothing(odd):
    """A mask would choose 0 and 1, a fraction its whole part, a word its digits."""
    for name in ("layers", "heads", "channels", "positions"):
        with pytest.raises(EditError, match=rf"{name} holds .*; it takes whole numbers"):
            edits.zero("q", **{name: odd})
    with pytest.raises(EditError, match="positions holds"):
        edits.zero("q", positions=[[0], odd])
    with pytest.raises(ConfigError, match="layers holds"):
        view_of("llama").record([1], "q", layers=odd)


def test_edits_are_values():
    one, two = edits.zero("z", layers=1, heads=[2]), edits.zero("z", layers=1, heads=[2])
    assert one == two and hash(one) == hash(two) and str(one) == str(two)
    assert edits.add("z", [1.0, 2.0]) != edits.add("z", [1.0, 3.0])


def padded(side, lengths, width=8):
    """Rows of random ids in one tensor, padded on a side, and their mask."""
    tokens = torch.zeros(len(lengths), width, dtype=torch.long)
    mask = torch.zeros(len(lengths), width, dtype=torch.bool)
    for row, length in enumerate(lengths):
        place = slice(width - length, width) if side == "left" else slice(0, length)
        tokens[row, place], mask[row, place] = ids_of(1, length, seed=row)[0], True
    return tokens, mask


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("site", ["resid_mid", "state"])
def test_a_patch_knows_how_its_gram_was_padded(side, site):
    view = view_of("rwkv7")
    tokens, mask = padded(side, (8, 3))
    gram = view.record(tokens, sites=site, layers=1, mask=mask)
    patched = view.using(edits=edits.patch(site, gram, layers=1))
    plain = view.logits(tokens, mask=mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EditWarning)
        assert relative(patched.logits(tokens, mask=mask)[mask], plain[mask]) < 1e-5
    # Row 1 of the gram has three tokens: longer rows are left alone from the fourth on.
    longer = ids_of(2, 8, seed=5)
    moved = patched.record(longer, sites=site)[site, 1]
    kept = view.record(longer, sites=site)[site, 1]
    if site == "resid_mid":
        assert (moved[1, 3:] == kept[1, 3:]).all()
        assert abs(moved[1, :3] - kept[1, :3]).max() > 1e-3


def test_a_gram_of_new_tokens_alone_cannot_be_patched_from():
    view = view_of("llama")
    gram = view.record([1, 2, 3], new_tokens=4, temperature=0, phase="new")
    with pytest.raises(EditError, match="where in their rows"):
        edits.patch("ffn_out", gram)


@pytest.mark.parametrize("make", [edits.add, edits.set_to])
def test_an_edited_pattern_never_looks_ahead_nor_at_pads(make):
    view = view_of("llama").using(edits=make("pattern", 0.2, layers=1))
    tokens, mask = padded("left", (8, 3))
    together = view.logits(tokens, mask=mask)
    alone = view.logits(tokens[1, 5:])
    assert relative(together[1, 5:], alone[0]) < 1e-5
    assert relative(view.logits(tokens[0, :4])[0], together[0, :4]) < 1e-5
    effects = view.record([1, 2, 3], sites="z").manifest["effects"]
    assert effects[0]["selected"] == 4 * 6  # heads times the weights of three causal tokens
    cached, whole = (
        view.generate([[1, 2, 3], [4]], max_new_tokens=4, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert [one.tokens for one in cached] == [one.tokens for one in whole]


def test_the_gradient_of_an_edit_does_not_depend_on_what_it_happened_to_change():
    view, ids = view_of("llama"), ids_of(1, 4)
    own = view.record(ids, sites="resid_post", layers=1)
    patched = view.using(edits=edits.patch("resid_post", own))
    with pytest.warns(EditWarning):
        gram = patched.record(ids, sites="embed", grad=lambda logits: logits.square().sum())
    assert abs(gram.grad["embed"]).max() == 0


@pytest.mark.parametrize("kind", CAUSAL)
@pytest.mark.parametrize("phase", ["prompt", "new"])
def test_phases_hold_when_a_cache_is_fed_by_hand(kind, phase):
    view = view_of(kind).using(edits=edits.scale("ffn_out", 3.0, layers=1, phase=phase))
    ids = ids_of(1, 7)
    program = view.program()
    program.prompt_lengths = (4,)
    with torch.no_grad():
        whole = view.run(view.tokens(ids), observer=program)
        cache = view.new_cache(1)
        parts = [
            view.run(view.tokens(ids[:, a:b]), cache=cache)
            for a, b in ((0, 4), (4, 5), (5, 6), (6, 7))
        ]
    assert relative(torch.cat(parts, 1), whole) < 1e-5


def test_an_observer_without_the_views_edits_is_refused():
    view = view_of("llama")
    with pytest.raises(EditError, match="does not carry"):
        view.using(edits=edits.zero("ffn_out")).run(view.tokens([1]), observer=view.program())


@pytest.mark.parametrize("shape", [(3, 32), (3, 1, 32), (2,)])
def test_values_of_another_shape_are_refused(shape):
    with pytest.raises(EditError, match="values"):
        view_of("llama").using(edits=edits.add("ffn_out", torch.ones(shape)))


@pytest.mark.parametrize("shape", [(4, 1), (1, 8), (4, 8)])
def test_values_are_spread_over_heads_and_channels(shape):
    view, ids = view_of("llama"), ids_of(2, 3)
    values = torch.randn(shape)
    plain, moved = (
        torch.tensor(one.record(ids, "z", layers=1)["z", 1])
        for one in (view, view.using(edits=edits.add("z", values, layers=1)))
    )
    assert torch.allclose(moved, plain + values)


def test_edits_whose_values_differ_are_not_equal():
    assert edits.set_to("z", 1234567.0) != edits.set_to("z", 1234568.0)
    assert edits.scale("z", 1.0) != edits.scale("z", 1.0000001)
    heads = torch.arange(4.0)
    assert edits.add("q", heads) != edits.add("q", heads[:, None])  # by channel, by head
    assert edits.normalise("z", rms=1.0) != edits.normalise("z", rms=1.0, dose=0.5)
    grams = [view_of("llama").record(ids_of(1, 4, seed=seed), "z") for seed in (1, 2)]
    assert edits.patch("z", grams[0]) != edits.patch("z", grams[1])


def test_a_position_that_only_some_shards_have_is_no_error(tmp_path):
    view = view_of("llama").using(edits=edits.zero("ffn_out", positions=[3]))
    folder = view.record([[1, 2], [3, 4, 5, 6, 7]], to=tmp_path / "grams", shard_size=1)
    assert folder.complete
    with pytest.raises(EditError, match="selected nothing"):
        view.record([[1, 2], [3]], to=tmp_path / "short", shard_size=1)
