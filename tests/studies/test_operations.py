"""Operations on planted outliers: what must be found, what must be nothing, and controls."""

import numpy as np
import pytest
import torch
from tests.stacks import ids_of, view_of

from laminogram import edits
from laminogram.errors import ConfigError, EditError, FamilyError, SiteError
from laminogram.studies import operation_scores
from laminogram.studies.operation_run import Run
from laminogram.studies.operation_targets import (
    Target,
    controls,
    massive_scalars,
    outlier_channels,
    super_weights,
)
from laminogram.studies.operations import OPERATIONS, RESPONSE, operate

DOWN = "layers.1.ffn.down.weight"
TEXTS = [ids_of(1, n, seed=n)[0].tolist() for n in (12, 9, 7, 11, 10)]
OTHERS = [ids_of(1, n, seed=50 + n)[0].tolist() for n in (9, 10)]


@pytest.fixture(scope="module")
def empty():
    """A model whose layer 1 adds nothing to channel 7."""
    return view_of("llama").using(edits=edits.weights.zero_rows(DOWN, 7))


@pytest.fixture(scope="module")
def planted(empty):
    """The same with one huge weight there: a super weight, and massive activations behind it."""
    return empty.using(edits=edits.weights.set_to(DOWN, 1e3, rows=7, columns=3))


@pytest.fixture(scope="module")
def target(planted):
    return massive_scalars(planted, TEXTS, ratio=100)


def run(view, targets, operations, doses=RESPONSE, **how):
    return operate(view, TEXTS, targets, operations, doses, calibration=OTHERS, progress=False,
                   replicates=40, batch_size=3, **how)  # fmt: skip


def test_a_planted_massive_activation_is_found_where_it_first_comes_up(planted, target, empty):
    assert (target.site, target.layers, target.channels) == ("resid_post", (1,), (7,))
    gram = planted.record(TEXTS, "resid_post")
    for number, text in enumerate(TEXTS):
        state = abs(gram["resid_post", 1][number, : len(text)])
        hits = (state > 100) & (state >= 100 * np.sort(state.ravel())[(state.size - 1) // 2])
        assert target.positions[number] == tuple(np.flatnonzero(hits.any(1)))
    assert massive_scalars(empty, TEXTS, ratio=100) is None
    assert outlier_channels(planted, TEXTS, 1, sigmas=4).channels == (7,)
    assert outlier_channels(empty, TEXTS, 1, sigmas=5) is None
    with pytest.raises(ConfigError, match="of the 32 channels of 'resid_post' none can lie 6 stan"):
        outlier_channels(planted, TEXTS, 1)


def test_removing_what_was_planted_gives_the_model_without_it(planted, empty):
    """By the weight, and at the site that it writes to: bit for bit the unplanted output."""
    ids = ids_of(2, 9)
    plain = empty.logits(ids)
    assert not planted.logits(ids).equal(plain)
    removed = planted.using(edits=edits.weights.scale_entry(DOWN, 7, 3, factor=0))
    assert removed.logits(ids).equal(plain)
    assert planted.using(edits=edits.zero("ffn_out", layers=1, channels=7)).logits(ids).equal(plain)
    found = run(planted, [super_weights([(1, 7, 3)])], ["zero"], {"zero": (1.0,)})
    losses = [empty.loss([text]).nats for text in TEXTS]
    assert np.allclose(found.nats[0], losses, rtol=1e-6)
    whole = [planted.loss([text]).nats for text in TEXTS]
    assert np.allclose(found.reference_nats, whole, rtol=1e-6)


def test_an_operation_that_does_nothing_is_exactly_zero_everywhere(planted, target):
    targets = [target, super_weights([(1, 7, 3)])]
    doses = {name: (1.0,) if name == "scale" else (0.0,) for name in OPERATIONS}
    found = run(planted, targets, list(OPERATIONS), doses)
    assert len(found.conditions) == len(OPERATIONS) + 3
    for value, low, high in (found.loss_change(), found.divergence(), found.sink_change()):
        assert (value == 0).all() and (low == 0).all() and (high == 0).all()
    assert (found.nats == found.reference_nats).all() and (found.kl == 0).all()
    assert np.array_equal(found.magnitude, found.reference_magnitude, equal_nan=True)
    assert np.array_equal(found.anywhere, found.reference_anywhere, equal_nan=True)
    assert all(one.changed == 0 for one in found.conditions)


def test_controls_are_as_many_as_the_target_and_never_the_target(planted, target):
    found = controls(planted, TEXTS, target, draws=20, seed=3)
    roles = [one.role for one in found]
    assert roles == ["random"] * 20 + ["norm", "tokens"]
    assert len({one.channels for one in found[:20]}) > 5
    for one in found[:20]:
        assert len(one.channels) == len(target.channels) and 7 not in one.channels
        assert one.positions == target.positions and one.of == target.name
    like, moved = found[20:]
    assert 7 not in like.channels and like.matched > 0
    assert moved.channels == target.channels
    for here, there, text in zip(target.positions, moved.positions, TEXTS, strict=True):
        assert not set(here) & set(there) and len(there) == min(len(here), len(text) - len(here))
    assert controls(planted, TEXTS, target, draws=20, seed=3) == found
    assert controls(planted, TEXTS, target, draws=20, seed=4) != found


def test_the_control_of_like_norm_is_the_nearest_run_of_large_channels(empty):
    some = Target("some", "resid_post", (1,), (4, 9))
    (like,) = [one for one in controls(empty, TEXTS, some, draws=0) if one.role == "norm"]
    gram = empty.record(TEXTS, "resid_post")
    energy = np.square(gram["resid_post", 1][gram.mask].astype(np.float64)).sum(0)
    wanted, found = energy[[4, 9]].sum(), energy[list(like.channels)].sum()
    assert like.matched == pytest.approx(np.sqrt(found / wanted), rel=1e-5)
    order = [c for c in np.argsort(-energy) if c not in (4, 9)]
    distances = abs(np.cumsum(energy[order]) - wanted)
    assert abs(found - wanted) == pytest.approx(distances.min(), rel=1e-4)


def test_controls_of_weights_are_other_entries_of_the_same_matrix(planted):
    found = controls(planted, TEXTS, super_weights([(1, 7, 3)]), draws=20)
    assert all(one.entries[0][0] == DOWN and one.entries[0][1:] != (7, 3) for one in found)
    weight = planted.stack.get_parameter(DOWN).detach().abs()
    _, row, column = found[-1].entries[0]
    assert weight[row, column] == weight.flatten().sort().values[-2]  # nearest to the largest


def test_the_effect_of_an_operation_is_that_of_its_edit(planted, target):
    """Loss, KL, counts and sinks restated from logits and patterns of single texts."""
    found = run(planted, [target], ["zero"], {"zero": (0.5,)})
    for number, text in enumerate(TEXTS):
        positions = target.positions[number]
        view = planted
        if positions:
            view = planted.using(
                edits=edits.scale("resid_post", 0.5, layers=1, channels=7, positions=positions)
            )
        ids = torch.tensor([text])
        before, after = (one.logits(ids)[0].double().log_softmax(-1) for one in (planted, view))
        kl = (before.exp() * (before - after)).sum(-1)[:-1].sum()
        nats = -after[:-1].gather(1, ids[0, 1:, None]).sum()
        assert found.kl[0, number] == pytest.approx(float(kl), abs=1e-5)
        assert found.nats[0, number] == pytest.approx(float(nats), rel=1e-5)
        pattern = view.record(ids, "pattern")["pattern"][:, 0]
        sink = pattern[:, :, 1:, 0].mean()
        assert found.sink[0, number] == pytest.approx(float(sink), rel=1e-4)
    (condition,) = found.conditions
    assert condition.selected == condition.changed == sum(map(len, target.positions))


def test_intervals_are_paired_and_hold_the_value(planted, target):
    found = run(planted, [target], ["zero"])
    value, low, high = found.loss_change()
    difference = (found.nats - found.reference_nats).sum(1) / found.tokens.sum()
    assert np.allclose(value, difference) and ((low <= value) & (value <= high)).all()
    assert (high - low)[1:].min() > 0


def test_where_an_outlier_regrows_is_seen_after_each_step(planted, target):
    """Zeroed after layer 1 it is gone there, and later layers do not bring it back; zeroed before
    the layer that makes it, it is back at once."""
    early = Target("early", "resid_post", (0,), (7,), target.positions)
    found = run(planted, [target, early], ["zero"], {"zero": (1.0,)})
    ratio, low, high = found.regrowth()
    assert ratio[0].tolist()[:2] == [1.0, 0.0] and ratio[0, 2] < 0.2
    assert ratio[1, 0] == 0 and ratio[1, 1] > 0.5
    assert (low <= ratio).all() and (ratio <= high).all()
    table = found.tables()["operations-regrowth"]
    assert table["layer"].tolist() == [0, 1, 2] * 2


def test_a_rotation_keeps_the_loss_and_takes_the_outlier_apart(planted, target):
    found = run(planted, [target], ["rotate"])
    assert abs(found.loss_change()[0][0]) < 1e-5 and abs(found.divergence()[0][0]) < 1e-5
    assert found.regrowth()[0][0, 1] < 0.9


def test_tables_have_a_line_for_each_condition_and_a_null_of_controls(planted, target):
    targets = [target, *controls(planted, TEXTS, target, draws=6)]
    tables = run(planted, targets, ["zero", "sign"], {"zero": (0.0, 1.0)}).tables()
    effects, null = tables["operations"], tables["operations-controls"]
    assert {len(column) for column in effects.values()} == {3 * len(targets)}
    assert null["controls"] == [6] * 3
    assert np.isnan(null["p"][0]) and null["note"][:2] == ["not touched", ""]
    assert null["p"][1] >= 1 / 7 and null["touched"] == [0, 6, 6]
    zeroed = null["operation"].index("zero", 1)
    assert null["random_low"][zeroed] <= null["random_mean"][zeroed] <= null["random_high"][zeroed]
    assert abs(null["loss_change"][zeroed]) > abs(null["random_high"][zeroed])


def test_a_clip_that_touches_no_control_has_no_p_but_says_so(planted, target):
    """A bound that the planted outlier alone passes."""
    targets = [target, *controls(planted, TEXTS, target, draws=4)]
    found = run(planted, targets, ["clip"], quantile=0.98)
    null = found.tables()["operations-controls"]
    assert null["note"] == ["not touched", "controls not touched", "controls not touched"]
    assert np.isnan(null["p"]).all() and null["touched"] == [0, 0, 0]
    assert null["loss_change"][2] != 0 and null["random_low"] == null["random_high"] == [0, 0, 0]


@pytest.mark.parametrize("name", ["llama", "rwkv4", "rwkv7", "gpt_neox"])
def test_what_branches_off_below_an_edit_is_what_a_whole_run_gives(name, monkeypatch):
    """To the bit, for targets at the beginning, in a group of a plan, and at the end."""
    view = view_of(name).using(plan="0, mean(1 | 2, 0), 2", edits=edits.scale("ffn_out", 1.1))
    targets = [
        Target("early", "resid_post", (0,), (3, 5)),
        Target("late", "ffn_out", (2,), (4,), positions=((2, 3), (), (4,), (0,), (1,))),
    ]
    names = ["zero", "normalise"] if name == "rwkv4" else ["zero", "mean", "normalise"]
    branched = run(view, targets, names, {})
    with monkeypatch.context() as patch:
        patch.setattr(Run, "_first_steps", lambda self: {})
        whole = run(view, targets, names, {})
    assert branched.conditions == whole.conditions
    for column in ("nats", "kl", "sink", "magnitude", "anywhere"):
        one, two = (getattr(found, column) for found in (branched, whole))
        assert np.array_equal(one, two, equal_nan=True), column
    assert (branched.nats != branched.reference_nats).any()


def test_the_unchanged_model_runs_and_is_scored_once(planted, target, monkeypatch):
    """However many conditions there are, and however few of its predictions are kept."""
    doses = {"zero": (0.5, 1.0), "clip": (1.0,)}
    kept = run(planted, [target], ["zero", "clip"], doses)
    made, forward = [], planted.stack.head.forward

    def counted(x, table):
        made.append(len(x))
        return forward(x, table)

    monkeypatch.setattr(planted.stack.head, "forward", counted)
    run(planted, [target], ["zero", "clip"], doses)
    assert 0 < sum(made) <= 4 * sum(len(text) - 1 for text in TEXTS)
    monkeypatch.setattr(operation_scores, "_KEPT", 0)
    again = run(planted, [target], ["zero", "clip"], doses)
    assert (again.nats == kept.nats).all() and (again.kl == kept.kl).all()


def test_every_operation_runs_on_a_recurrent_model_and_rotation_is_refused():
    view = view_of("rwkv4")
    target = Target("channel 3", "ffn_out", (1,), (3,))
    names = [name for name in OPERATIONS if name != "rotate"]
    found = run(view, [target], names, {})
    assert np.isfinite(found.loss_change()[0]).all() and (found.kl >= 0).all()
    assert (found.divergence()[0] > 0).sum() >= 5
    with pytest.raises(EditError, match="cannot be rotated"):
        run(view, [target], ["rotate"], {})


def test_sinks_are_left_out_where_patterns_are_signed_or_not_wanted():
    target = Target("channel 3", "ffn_out", (1,), (3,))
    assert np.isnan(run(view_of("rwkv7"), [target], ["zero"]).sink_change()[0]).all()
    assert np.isnan(run(view_of("llama"), [target], ["zero"], sinks=False).sink).all()


def test_a_channel_of_a_narrower_or_wider_site_is_followed_at_that_site():
    target = Target("neuron 5", "ffn_act", (1,), (5,))
    found = run(view_of("llama"), [target], ["zero"], {"zero": (1.0,)})
    assert found.regrowth()[0][0, 1] == 0 and found.regrowth()[0][0, 0] == 1


def test_a_study_under_a_plan_follows_its_steps():
    view = view_of("llama").using(plan="0, 1, 1, 2", edits=edits.scale("ffn_out", 1.1, layers=0))
    target = Target("channel 3", "resid_post", (1,), (3,))
    found = run(view, [target], ["zero", "clip"], {"zero": (1.0,)})
    assert found.layers == (0, 1, 1, 2)
    ratio = found.regrowth()[0][0]
    assert ratio[0] == 1 and (ratio[1:3] == 0).all()
    tokens = sum(map(len, TEXTS))
    assert [one.selected for one in found.conditions] == [2 * tokens, 2 * tokens]


def test_what_cannot_be_asked_is_an_error():
    view, target = view_of("llama"), Target("one", "ffn_out", (1,), (3,))
    with pytest.raises(ConfigError, match="no operation 'remove'; there are zero"):
        run(view, [target], ["remove"])
    with pytest.raises(ConfigError, match="names of their own"):
        run(view, [target, target], ["zero"])
    with pytest.raises(FamilyError, match="is an encoder"):
        run(view_of("bert"), [target], ["zero"])
    with pytest.raises(SiteError, match="logits"):
        run(view, [Target("one", "logits", (1,), (3,))], ["zero"])
    with pytest.raises(ConfigError, match="no super weight"):
        super_weights([])
