"""Sites of a wrapped model against hooks that a test sets by the modules' own names, and edits
against models changed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.generic.models import (
    CONFIGS,
    LAYERS,
    WIDTH,
    apart,
    fresh,
    ids_of,
    logits_of,
    model_of,
    view_of,
    wrapped,
)
from torch import Tensor, nn

from laminogram import edits
from laminogram.errors import EditError, SiteError
from laminogram.stack.config import StackConfig

# Where each model adds to its residual: the module, and the number it multiplies its answer with.
ADDED: dict[str, tuple[tuple[str, float], tuple[str, float] | None]] = {
    "opt": (("model.decoder.layers.{}.self_attn", 1), ("model.decoder.layers.{}.fc2", 1)),
    "opt-post": (("model.decoder.layers.{}.self_attn", 1), ("model.decoder.layers.{}.fc2", 1)),
    "falcon": (("transformer.h.{}.self_attention", 1), ("transformer.h.{}.mlp", 1)),
    "falcon-alibi": (("transformer.h.{}.self_attention", 1), ("transformer.h.{}.mlp", 1)),
    "bloom": (
        ("transformer.h.{}.self_attention.dense", 1),
        ("transformer.h.{}.mlp.dense_4h_to_h", 1),
    ),
    "stablelm": (("model.layers.{}.self_attn", 1), ("model.layers.{}.mlp", 1)),
    "olmo2": (
        ("model.layers.{}.post_attention_layernorm", 1),
        ("model.layers.{}.post_feedforward_layernorm", 1),
    ),
    "gemma2": (
        ("model.layers.{}.post_attention_layernorm", 1),
        ("model.layers.{}.post_feedforward_layernorm", 1),
    ),
    "gemma3": (
        ("model.layers.{}.post_attention_layernorm", 1),
        ("model.layers.{}.post_feedforward_layernorm", 1),
    ),
    "granite": (("model.layers.{}.self_attn", 0.22), ("model.layers.{}.mlp", 0.22)),
    "phi": (("model.layers.{}.self_attn", 1), ("model.layers.{}.mlp", 1)),
    "olmoe": (("model.layers.{}.self_attn", 1), ("model.layers.{}.mlp", 1)),
    "mamba": (("backbone.layers.{}.mixer", 1), None),
    "distilbert": (
        ("distilbert.transformer.layer.{}.attention", 1),
        ("distilbert.transformer.layer.{}.ffn", 1),
    ),
    "xlm-roberta": (
        ("roberta.encoder.layer.{}.attention.output.dense", 1),
        ("roberta.encoder.layer.{}.output.dense", 1),
    ),
}
BLOCKS = {"falcon": "parallel", "phi": "parallel", "opt-post": "post", "distilbert": "post",
          "xlm-roberta": "post"}  # fmt: skip


def hooked(model: Any, paths: dict[str, float], ids: Tensor) -> list[Tensor]:
    """What modules answer, by hooks of the test's own."""
    held: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            answer = output[0] if isinstance(output, tuple) else output
            # A copy: Falcon goes on in place in what its feed-forward answers.
            held[path] = answer.detach().reshape(*ids.shape, -1) * paths[path]

        return hook

    handles = [model.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    logits_of(model, ids)
    for handle in handles:
        handle.remove()
    return [held[path] for path in paths]


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_added_is_what_the_modules_answer(name: str) -> None:
    ids, view = ids_of(2, 8), wrapped(name)
    for site, at in zip(("attn_out", "ffn_out"), ADDED[name], strict=True):
        if at is None:
            continue
        gram = view.record(ids, sites=site)
        paths = {at[0].format(layer): float(at[1]) for layer in range(LAYERS)}
        for layer, expected in enumerate(hooked(model_of(name), paths, ids)):
            assert torch.equal(gram.tensor(site, layer), expected)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_block_equation_holds(name: str) -> None:
    view, block = wrapped(name), BLOCKS.get(name, "pre")
    assert {layer.block for layer in view.config.layers} == {block}
    if block == "post":
        return
    names = ["resid_pre", "attn_out", "resid_post"]
    names += ["ffn_out"] * (name != "mamba") + ["resid_mid"] * (block == "pre" and name != "mamba")
    gram = view.record(ids_of(2, 8), sites=names)
    for layer in range(LAYERS):
        at = {site: gram.tensor(site, layer) for site in names}
        assert apart(at["resid_pre"] + at["attn_out"] + at.get("ffn_out", 0), at["resid_post"]) < (
            1e-6
        )
        if "resid_mid" in at:
            assert torch.equal(at["resid_mid"], at["resid_pre"] + at["attn_out"])


# Edits


@pytest.mark.parametrize("name", CONFIGS)
def test_an_edit_that_changes_nothing_changes_no_bit(name: str) -> None:
    view, ids = wrapped(name), ids_of(2, 8)
    plain = view.logits(ids)
    for site in view.config.layers[0].sites:  # type: ignore[attr-defined]
        program = view.using(edits=edits.add(site, 0.0)).program()
        assert torch.equal(view.run(view.tokens(ids), observer=program), plain), site


def silenced(name: str, weights: dict[str, tuple[str, ...]]) -> Any:
    """A model in which some weights of layer 1 are 0."""
    model = fresh(name)
    with torch.no_grad():
        for path, kinds in weights.items():
            for kind in kinds:
                getattr(model.get_submodule(path), kind).zero_()
    return model


BOTH = ("weight", "bias")
SILENT: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "opt": {
        "attn_out": {"model.decoder.layers.1.self_attn.out_proj": BOTH},
        "ffn_out": {"model.decoder.layers.1.fc2": BOTH},
    },
    "opt-post": {"attn_out": {"model.decoder.layers.1.self_attn.out_proj": BOTH}},
    "falcon": {
        "attn_out": {"transformer.h.1.self_attention.dense": ("weight",)},
        "ffn_out": {"transformer.h.1.mlp.dense_4h_to_h": ("weight",)},
    },
    "bloom": {
        "attn_out": {"transformer.h.1.self_attention.dense": BOTH},
        "ffn_out": {"transformer.h.1.mlp.dense_4h_to_h": BOTH},
    },
    "olmo2": {"attn_out": {"model.layers.1.post_attention_layernorm": ("weight",)}},
    "granite": {
        "attn_out": {"model.layers.1.self_attn.o_proj": ("weight",)},
        "ffn_out": {"model.layers.1.mlp.down_proj": ("weight",)},
    },
    "phi": {
        "attn_out": {"model.layers.1.self_attn.dense": BOTH},
        "ffn_out": {"model.layers.1.mlp.fc2": BOTH},
    },
    "mamba": {"attn_out": {"backbone.layers.1.mixer.out_proj": ("weight",)}},
    "distilbert": {"ffn_out": {"distilbert.transformer.layer.1.ffn.lin2": BOTH}},
}


@pytest.mark.parametrize(
    ("name", "site"), [(name, site) for name, sites in SILENT.items() for site in sites]
)
def test_a_silenced_half_is_a_model_without_its_output_weights(name: str, site: str) -> None:
    ids = ids_of(2, 8)
    found = wrapped(name).using(edits=edits.zero(site, layers=1)).logits(ids)
    expected = logits_of(silenced(name, SILENT[name][site]), ids)
    assert torch.equal(found, expected)
    assert apart(wrapped(name).logits(ids), expected) > 1e-4


@pytest.mark.parametrize("name", ["granite", "gemma2", "bloom", "phi"])
def test_scaling_a_half_is_scaling_what_it_answers(name: str) -> None:
    """Against a hook of the test's own on the module that the model adds."""
    ids, model = ids_of(1, 7), model_of(name)
    at = ADDED[name][1]
    assert at is not None

    def double(module: nn.Module, args: Any, output: Any) -> Any:
        return output * 2.0

    handle = model.get_submodule(at[0].format(2)).register_forward_hook(double)
    expected = logits_of(model, ids)
    handle.remove()
    found = wrapped(name).using(edits=edits.scale("ffn_out", 2.0, layers=2)).logits(ids)
    assert apart(found, expected) < 1e-6


@pytest.mark.parametrize("name", ["granite", "gemma2", "opt", "distilbert"])
def test_the_stream_between_the_halves_can_be_set(name: str) -> None:
    """An edit of resid_mid is what the second half reads and what goes on beside it."""
    view, ids = wrapped(name), ids_of(1, 7)
    edit = edits.set_to("resid_mid", 0.5, layers=1, channels=[3, 17])
    gram = view.using(edits=edit).record(ids, sites=["resid_mid", "ffn_out", "resid_post"])
    mid = gram.tensor("resid_mid", 1)
    assert torch.equal(mid[..., [3, 17]], torch.full_like(mid[..., [3, 17]], 0.5))
    if name != "distilbert":
        whole = mid + gram.tensor("ffn_out", 1)
        assert apart(gram.tensor("resid_post", 1), whole) < 1e-6
    plain = view.record(ids, sites=["resid_mid", "ffn_out"])
    assert apart(gram.tensor("ffn_out", 1), plain.tensor("ffn_out", 1)) > 1e-4
    same = torch.ones(WIDTH, dtype=torch.bool)
    same[[3, 17]] = False
    assert torch.equal(mid[..., same], plain.tensor("resid_mid", 1)[..., same])


def test_a_patch_from_itself_changes_nothing_and_from_another_text_does() -> None:
    view, ids, other = wrapped("granite"), ids_of(2, 8), ids_of(2, 8, seed=3)
    own = edits.patch("attn_out", view.record(ids, sites="attn_out"), layers=[1])
    program = view.using(edits=own).program()
    assert torch.equal(view.run(view.tokens(ids), observer=program), view.logits(ids))
    foreign = edits.patch("attn_out", view.record(other, sites="attn_out"), layers=[1])
    assert apart(view.using(edits=foreign).logits(ids), view.logits(ids)) > 1e-4


def test_hooks_of_others_stay_and_ours_go() -> None:
    model = fresh("gemma2")
    view, seen = view_of(model), []
    target = model.model.layers[1].post_attention_layernorm
    handle = target.register_forward_hook(lambda *_: seen.append("theirs"))
    before = {path: dict(one._forward_hooks) for path, one in model.named_modules()}
    view.using(edits=edits.zero("attn_out", layers=1)).record(ids_of(1, 5), sites="ffn_out")
    assert seen == ["theirs"]
    with pytest.raises(EditError):
        view.using(edits=edits.zero("attn_out", positions=40)).loss(ids_of(1, 5))
    assert {path: dict(one._forward_hooks) for path, one in model.named_modules()} == before
    handle.remove()
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in model.modules())


def test_our_hooks_go_when_a_layer_fails() -> None:
    model = fresh("granite")
    view = view_of(model)

    def fail(*_: Any) -> None:
        raise RuntimeError("broken on purpose")

    handle = model.model.layers[1].mlp.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="on purpose"):
        view.record(ids_of(1, 5), sites=["attn_out", "ffn_out"])
    handle.remove()
    assert not any(one._forward_hooks for one in model.modules())


def test_what_lies_inside_has_no_site() -> None:
    for site in ("q", "pattern", "ffn_act", "head_out", "z"):
        with pytest.raises(SiteError, match=r"run by transformers.*attn_out"):
            wrapped("gemma2").record(ids_of(1, 5), sites=site)
    with pytest.raises(SiteError, match="resid_pre, attn_out, ffn_out, resid_post"):
        wrapped("phi").record(ids_of(1, 5), sites="resid_mid")


def test_the_configuration_survives_json() -> None:
    config = wrapped("gemma2").config
    assert StackConfig.from_dict(config.to_dict()).layers == config.layers
