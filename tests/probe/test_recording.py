from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.stacks import CAUSAL, KINDS, ids_of, relative, view_of

from laminogram import edits
from laminogram.errors import ConfigError, EditError, SiteError, TokenError
from laminogram.probe import recorder, recording
from laminogram.probe.store import StoreError
from laminogram.stack import sites
from laminogram.stack.sites import STACK_STEP


def all_sites(view):
    names = [site.name for site in sites.stack_sites(view.config)]
    return names + [site.name for site in sites.layer_sites(view.config.layers[1])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_site_has_the_shape_that_the_table_says(kind):
    view, ids = view_of(kind), ids_of(2, 6)
    gram = view.record(ids, sites=all_sites(view))
    letters: dict[str, int] = {"B": 2, "T": 6, "S": 6, "3": 3}
    for site, step in gram:
        axes = gram.axes(site)
        shape = gram[site, step].shape
        assert len(shape) == len(axes), site
        for axis, size in zip(axes, shape):
            if site == "pattern" and kind == "rwkv4" and axis == "H":
                continue  # averaged over channels: one row of weights
            assert letters.setdefault(axis, size) == size, (site, axis)


@pytest.mark.parametrize("kind", KINDS)
def test_the_block_equation_holds_in_what_is_recorded(kind):
    gram = view_of(kind).record(
        ids_of(1, 5), sites=["resid_pre", "attn_out", "ffn_out", "resid_post"]
    )
    for step in gram.steps:
        total = gram["resid_pre", step] + gram["attn_out", step] + gram["ffn_out", step]
        if kind == "bert":
            assert abs(total - gram["resid_post", step]).max() > 1e-3  # norms stand between
        else:
            np.testing.assert_allclose(total, gram["resid_post", step], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ("llama", "gpt_neox", "bert"))
def test_a_pattern_is_what_the_mixer_does(kind):
    view = view_of(kind)
    gram = view.record(ids_of(2, 6), sites=["pattern", "v", "z", "head_out", "attn_out"])
    for step in gram.steps:
        pattern, v = torch.tensor(gram["pattern", step]), torch.tensor(gram["v", step])
        v = v.repeat_interleave(pattern.shape[1] // v.shape[2], 2)
        z = torch.einsum("bhts,bshd->bthd", pattern, v)
        assert relative(z, torch.tensor(gram["z", step])) < 1e-5
        assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)
        bias = view.stack.layers[step].attn.o.bias
        heads = gram["head_out", step].sum(2) + (0 if bias is None else bias.detach().numpy())
        np.testing.assert_allclose(heads, gram["attn_out", step], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ("rwkv6", "rwkv7"))
def test_the_effective_attention_of_a_matrix_state_is_exact(kind):
    gram = view_of(kind).record(ids_of(2, 9), sites=["pattern", "v", "wkv"])
    for step in gram.steps:
        pattern, v = torch.tensor(gram["pattern", step]), torch.tensor(gram["v", step])
        wkv = torch.einsum("bhts,bshd->bthd", pattern, v)
        assert relative(wkv, torch.tensor(gram["wkv", step])) < 1e-4


def test_the_effective_attention_of_rwkv4_is_a_weighting():
    pattern = view_of("rwkv4").record(ids_of(2, 9), sites="pattern")["pattern"]
    np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-5)
    assert (np.triu(pattern, 1) == 0).all() and (pattern >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_recorded_belongs_to_the_gram_alone(kind):
    view, ids = view_of(kind), ids_of(1, 5)
    names = [name for name in all_sites(view) if name not in ("pattern", "state", "head_out")]
    kept = view.record(ids, sites=names)
    copies = {key: kept[key].copy() for key in kept}
    later = view.using(edits=edits.add("resid_pre", 5.0))
    later.logits(ids)
    view.record(ids_of(1, 5, seed=3), sites=names)
    for parameter in view.stack.parameters():
        parameter.data.zero_()
    for key, copy in copies.items():
        assert (kept[key] == copy).all(), key


@pytest.mark.parametrize("kind", KINDS)
def test_left_padded_rows_are_recorded_where_they_were_given(kind):
    view, row = view_of(kind), ids_of(1, 4)
    tokens = torch.cat((torch.zeros(1, 3, dtype=torch.long), row), 1)
    mask = torch.tensor([[False] * 3 + [True] * 4])
    names = ["ffn_out", "pattern"]
    gram = view.record(view.tokens(tokens, mask=mask), sites=names)
    alone = view.record(row, sites=names)
    assert gram.mask.tolist() == mask.tolist()
    np.testing.assert_allclose(gram["ffn_out"][:, :, 3:], alone["ffn_out"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        gram["pattern"][:, :, :, 3:, 3:], alone["pattern"], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_those_of_a_small_push(kind):
    view, ids = view_of(kind), ids_of(1, 4)
    view.stack.double()

    def scalar(logits):
        return logits[0, -1, :7].square().sum()

    gram = view.record(ids, sites=["ffn_out", "attn_in"], layers=1, grad=scalar)
    for site in ("ffn_out", "attn_in"):
        values = []
        for push in (1e-6, -1e-6):
            pushed = edits.add(site, push, layers=1, channels=[5], positions=[2])
            values.append(scalar(view.using(edits=pushed).logits(ids)).item())
        estimate = (values[0] - values[1]) / 2e-6
        assert gram.grad[site, 1][0, 2, 5] == pytest.approx(estimate, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("phase", ["all", "prompt", "new"])
@pytest.mark.parametrize("kind", CAUSAL)
def test_recording_while_generating_equals_reading_the_finished_text(kind, phase):
    view, prompts = view_of(kind), [ids_of(1, 3)[0].tolist(), ids_of(1, 6, seed=1)[0].tolist()]
    options = {"sites": "ffn_out", "new_tokens": 5, "phase": phase, "temperature": 0}
    gram = view.record(prompts, **options)
    without = view.record(prompts, **options, use_cache=False)
    for row, prompt in enumerate(prompts):
        tokens = gram.tokens[row][gram.mask[row]].tolist()
        expected_length = {"all": len(prompt) + 4, "prompt": len(prompt), "new": 4}[phase]
        assert len(tokens) == expected_length
        whole = view.record(prompts, **{**options, "phase": "all"})
        text = whole.tokens[row][whole.mask[row]].tolist()
        read = view.record(text, sites="ffn_out")["ffn_out"][:, 0]
        span = {
            "all": slice(None),
            "prompt": slice(0, len(prompt)),
            "new": slice(len(prompt), None),
        }
        for found in (gram, without):
            values = found["ffn_out"][:, row][:, found.mask[row]]
            np.testing.assert_allclose(values, read[:, span[phase]], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ("llama", "rwkv7"))
def test_edits_of_a_phase_act_in_it_alone_with_and_without_the_cache(kind):
    view, prompt = view_of(kind), ids_of(1, 4)[0].tolist()
    for phase, touched in (("prompt", slice(0, 4)), ("new", slice(4, None))):
        cut = view.using(edits=edits.zero("ffn_out", layers=1, phase=phase))
        for use_cache in (True, False):
            gram = cut.record(prompt, new_tokens=4, temperature=0, use_cache=use_cache)
            values = gram["ffn_out", 1][0]
            assert (values[touched] == 0).all()
            rest = np.delete(values, np.arange(len(values))[touched], axis=0)
            assert (rest != 0).all()


def test_pattern_grows_with_the_text():
    view = view_of("llama")
    gram = view.record([1, 2, 3], sites="pattern", new_tokens=4, temperature=0)
    whole = view.record(gram.tokens[0].tolist(), sites="pattern")
    np.testing.assert_allclose(gram["pattern"], whole["pattern"], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", CAUSAL)
def test_rows_that_end_early_have_no_further_frames(kind):
    from dataclasses import replace

    view, prompts = view_of(kind), [[1, 2, 3, 4, 5, 6], [7, 8]]
    drawn = view.generate(prompts, max_new_tokens=5, temperature=0)
    # End the longer row at its second new token, and the other one nowhere (if it can be).
    ending = replace(view.config, eos_token_ids=(drawn[0].tokens[1],))
    view.stack.config = ending
    names = ["ffn_out", "pattern"]
    made = view.generate(prompts, max_new_tokens=5, temperature=0)
    gram = view.record(prompts, sites=names, new_tokens=5, temperature=0)
    for row, one in enumerate(made):
        text = [*one.prompt_tokens, *one.tokens]
        found = gram.tokens[row][gram.mask[row]].tolist()
        assert found == text[: len(found)]
        assert len(found) >= len(text) - 1
        whole = view.record(found, sites=names)
        ours = gram["ffn_out"][:, row][:, gram.mask[row]]
        np.testing.assert_allclose(ours, whole["ffn_out"][:, 0], rtol=1e-3, atol=1e-4)
        pattern = gram["pattern"][:, row][:, :, gram.mask[row]][..., : len(found)]
        np.testing.assert_allclose(pattern, whole["pattern"][:, 0], rtol=1e-3, atol=1e-4)


def test_a_folder_holds_what_memory_would(tmp_path):
    view = view_of("rwkv4")
    rows = [ids_of(1, n, seed=n)[0].tolist() for n in (3, 7, 2, 5, 4)]
    folder = view.record(rows, sites=["ffn_out", "z"], to=tmp_path / "grams", shard_size=2)
    assert folder.complete and len(folder) == 3
    whole = view.record(rows, sites=["ffn_out", "z"])
    for shard, gram in enumerate(folder):
        for i in range(len(gram.tokens)):
            row = 2 * shard + i
            ours = gram["ffn_out"][:, i][:, gram.mask[i]]
            np.testing.assert_allclose(
                ours, whole["ffn_out"][:, row][:, whole.mask[row]], rtol=1e-4, atol=1e-6
            )
    again = view.record(rows, sites=["ffn_out", "z"], to=str(tmp_path / "grams"), shard_size=2)
    assert not again.pending()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sites": []}, SiteError, "no site was named"),
        ({"sites": "nose"}, SiteError, "'nose' does not exist; there are"),
        ({"layers": 9}, SiteError, "layer 9 does not exist"),
        ({"layers": []}, ConfigError, "layers is empty"),
        ({"phase": "new"}, ConfigError, "new_tokens"),
        ({"grad": lambda x: x}, ConfigError, "one number"),
        ({"sites": "state"}, SiteError, "has no site 'state'; it has resid_pre"),
    ],
)
def test_what_cannot_be_recorded_is_said(options, error, message):
    with pytest.raises(error, match=message):
        view_of("llama").record([1, 2], **options)


def test_a_layer_that_runs_twice_is_recorded_twice():
    view = view_of("llama").using(plan="0, 1, 1, 2")
    gram = view.record([1, 2, 3], sites="ffn_out", layers=1)
    assert gram.steps == (1, 2) and gram.layer(1) == [1, 2]
    assert abs(gram["ffn_out", 1] - gram["ffn_out", 2]).max() > 0


def test_the_manifest_says_under_what_conditions():
    view = view_of("rwkv7").using(plan="0, 2", edits=edits.zero("ffn_out", layers=2))
    facts = view.record([1, 2], sites=["ffn_out", "pattern"]).manifest
    assert facts["plan"] == "0, 2" and "zero('ffn_out'" in facts["edits"][0]
    assert facts["precision"] == "float32" and len(facts["weights_hash"]) == 32
    assert facts["reference_paths"] == ["pattern"]
    other = view_of("rwkv7", seed=1).record([1, 2]).manifest
    assert other["weights_hash"] != facts["weights_hash"]


@pytest.mark.parametrize("kind", KINDS)
def test_measuring_counts_real_tokens_only_and_agrees_with_the_recording(kind):
    view = view_of(kind)
    rows = [ids_of(1, n, seed=n)[0].tolist() for n in (3, 9, 1, 6)]
    measured = view.measure(rows, ["moments", "topk"], sites="ffn_out", batch_size=3)
    gram = view.record(rows, sites="ffn_out")
    for step in gram.steps:
        values = gram["ffn_out", step][gram.mask].astype(np.float64)
        result = measured["moments", "ffn_out", step].result()
        assert (result["count"] == len(values)).all()
        np.testing.assert_allclose(result["mean"], values.mean(0), rtol=1e-4, atol=1e-5)
        top = measured["topk", "ffn_out", step].result()
        document, position, channel = (int(top[k][0]) for k in ("document", "position", "channel"))
        largest = gram["ffn_out", step][document, position, channel]
        assert abs(largest) == pytest.approx(abs(values).max(), rel=1e-5)


def test_stack_sites_are_filed_under_their_own_step():
    gram = view_of("llama").record([1, 2], sites=["embed", "logits"])
    assert gram.steps == (STACK_STEP,) and gram["logits"].shape == (1, 1, 2, 50)


def test_the_manifest_says_which_rows_begin_with_bos_and_what_was_drawn():
    view = view_of("llama")
    assert view.record([1, 2]).manifest["bos"] is None  # this model names none
    view.stack.config = replace(view.config, bos_token_id=1)
    assert view.record([1, 2]).manifest["bos"] is True
    assert view.record([2, 1]).manifest["bos"] is False
    assert view.record([[1, 2], [2, 1]]).manifest["bos"] == [True, False]
    drawn = view.record([1, 2], new_tokens=3, phase="new", temperature=1.0, seed=7).manifest
    assert drawn["seeds"] == [7] and drawn["bos"] is True
    assert view.record([1, 2], new_tokens=3).manifest["seeds"] is None


def test_a_folder_is_of_one_request_and_of_one_model(tmp_path):
    view, rows = view_of("llama"), [[1, 2], [3]]
    with pytest.raises(SiteError, match="layer 9"):
        view.record(rows, layers=9, to=tmp_path / "grams")
    assert not (tmp_path / "grams").exists()
    view.record(rows, to=tmp_path / "grams")
    with torch.no_grad():
        view.stack.layers[0].ffn.up.weight.mul_(2)
    with pytest.raises(StoreError, match="weights is"):
        view.record(rows, to=tmp_path / "grams")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        view.record(rows, to=tmp_path / "file")
    with pytest.raises(ConfigError, match="into memory"):
        view.record(rows, to=tmp_path / "more", grad=lambda logits: logits.sum())
    typed = view_of("bert").tokens([[1, 2]], types=torch.tensor([[0, 1]]))
    with pytest.raises(TokenError, match="token types"):
        view_of("bert").record(typed, to=tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_options_that_nothing_reads_are_refused():
    with pytest.raises(ConfigError, match="layer: options of `generate`"):
        view_of("llama").record([1, 2], layer=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_gram_holds_zero_at_pads_and_gradients_of_real_tokens_alone(kind):
    view = view_of(kind)
    tokens = torch.tensor([[0, 0, 5, 6], [1, 2, 3, 4]])
    mask = torch.tensor([[False, False, True, True], [True] * 4])
    names = ["ffn_out", "pattern", "logits"]
    gram = view.record(tokens, sites=names, mask=mask, grad=lambda logits: logits.square().sum())
    alone = view.record(tokens[:1, 2:], sites=names, grad=lambda logits: logits.square().sum())
    for found, expected in ((gram, alone), (gram.grad, alone.grad)):
        assert (found["ffn_out"][:, ~mask.numpy()] == 0).all()
        np.testing.assert_allclose(
            found["ffn_out"][:, 0, 2:], expected["ffn_out"][:, 0], rtol=1e-3, atol=1e-4
        )
    assert (gram["pattern"][:, 0, :, :, :2] == 0).all()
    assert (gram["pattern"][:, 0, :, :2] == 0).all()


def test_batches_one_after_another_equal_each_alone():
    view = view_of("llama")
    ids = ids_of(5, 7)
    grams = list(view.recordings(ids, ["ffn_out", "final"], batch_size=2))
    assert len(grams) == 3
    for start, gram in zip((0, 2, 4), grams, strict=True):
        alone = view.record(ids[start : start + 2], ["ffn_out", "final"])
        assert set(gram) == set(alone)
        for key in gram:
            np.testing.assert_array_equal(gram[key], alone[key])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=7), st.integers(1, 4))
def test_batches_of_mixed_lengths_equal_each_alone(lengths, batch_size):
    view, names = view_of("llama"), ["ffn_out", "pattern", "logits"]
    texts = [ids_of(1, length, seed)[0].tolist() for seed, length in enumerate(lengths)]
    grams = list(view.recordings(texts, names, batch_size=batch_size))
    assert len(grams) == -(-len(texts) // batch_size)
    for number, gram in enumerate(grams):
        alone = view.record(texts[number * batch_size : (number + 1) * batch_size], names)
        assert set(gram) == set(alone)
        np.testing.assert_array_equal(gram.mask, alone.mask)
        np.testing.assert_array_equal(gram.tokens, alone.tokens)
        for key in gram:
            np.testing.assert_array_equal(gram[key], alone[key])
        del gram.manifest["date"], alone.manifest["date"]
        assert gram.manifest == alone.manifest


def test_an_edit_that_some_batches_lack_is_judged_over_all():
    view = view_of("llama").using(edits=[edits.zero("ffn_out", layers=1, positions=[4])])
    grams = list(view.recordings([[1, 2], [1, 2, 3, 4, 5]], batch_size=1))
    assert [gram.manifest["effects"][0]["selected"] > 0 for gram in grams] == [False, True]


def test_an_edit_that_no_batch_meets_is_an_error_at_the_end():
    view = view_of("llama").using(edits=[edits.zero("ffn_out", positions=[50])])
    with pytest.raises(EditError, match="selected nothing"):
        list(view.recordings(ids_of(3, 6), batch_size=2))


def test_a_recorder_hands_its_tensors_over(monkeypatch):
    """It and its program know each other, so what it kept would outlive the gram."""
    made = []

    class Watched(recorder.Recorder):
        def __init__(self, *given, **options):
            super().__init__(*given, **options)
            made.append(self)

    for module in (recording, recorder):
        monkeypatch.setattr(module, "Recorder", Watched)
    gram = view_of("llama").record([[1, 2, 3]], sites=["ffn_out"])
    assert len(gram) > 0 and len(made) == 1
    assert not made[0].chunks
