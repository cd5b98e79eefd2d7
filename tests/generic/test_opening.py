"""From a directory to a wrapped view: what opens, what its card says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from tests.generic.models import (
    VOCABULARY,
    draw,
    ids_of,
    logits_of,
    model_of,
    saved,
    view_of,
    wrapped,
)

import laminogram
from laminogram.errors import CheckpointError, ConfigError, FamilyError, TokenError
from laminogram.generic.opening import wrap
from laminogram.studies.doctor import examine
from laminogram.view import View


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("granite", tmp_path_factory.mktemp("granite"))


def changed(folder: Path, target: Path, **fields: Any) -> Path:
    """A copy of a model's directory with other fields in its configuration."""
    config = json.loads((folder / "config.json").read_text()) | fields
    (target / "config.json").write_text(json.dumps(config))
    (target / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    return target


def test_a_directory_opens_as_a_view(folder: Path) -> None:
    view = laminogram.load(folder)
    ids = ids_of(1, 8)
    assert type(view) is View
    assert torch.equal(view.logits(ids), logits_of(model_of("granite"), ids))
    assert view.facts()["weights_hash"] == laminogram.load(folder).facts()["weights_hash"]
    assert laminogram.load(folder, dtype="bf16").dtype == torch.bfloat16


def test_settings_replace_fields_and_unknown_ones_are_named(folder: Path) -> None:
    loud = laminogram.load(folder, residual_multiplier=0.5)
    gap = loud.logits(ids_of(1, 8)) - laminogram.load(folder).logits(ids_of(1, 8))
    assert float(gap.abs().max()) > 1e-3
    with pytest.raises(ConfigError, match="no setting 'residual_multiplyer'; it has"):
        laminogram.load(folder, residual_multiplyer=0.5)


def test_the_card_counts_every_weight_and_says_what_is_missing(folder: Path) -> None:
    card = laminogram.load(folder).card()
    model = model_of("granite")
    assert card.parameter_total == sum(weight.numel() for weight in model.parameters())
    assert card.parameters["embedding"] == model.model.embed_tokens.weight.numel()
    attention = [layer.self_attn for layer in model.model.layers]
    assert card.parameters["attn"] == sum(w.numel() for one in attention for w in one.parameters())
    assert card.cache_bytes_per_token == 3 * 2 * 2 * 8 * 4
    assert "GraniteForCausalLM of transformers runs the layers" in str(card)
    assert "no conversion" in str(card)
    assert "no cache: MambaForCausalLM" in str(wrapped("mamba").card())


@pytest.mark.parametrize("name", ["granite", "gemma2", "phi", "bloom", "opt-post", "distilbert"])
def test_the_doctor_finds_them_well(name: str) -> None:
    report = examine(wrapped(name))
    assert report.ok, str(report)


def test_looking_works_as_on_any_view() -> None:
    view, ids = wrapped("gemma2"), ids_of(1, 6)
    gram = view.record(ids, sites=["resid_pre", "resid_post"])
    pre, post = gram.tensor("resid_pre", 1), gram.tensor("resid_post", 1)
    cosine = torch.cosine_similarity(pre.double(), post.double(), dim=-1)
    shown = view.show_cos_distance(1, ids)
    assert torch.allclose(torch.from_numpy(shown.cosine).double(), cosine, atol=1e-6)
    top = view.show_topk_token(2, ids, 3)  # after the last layer: what the model says
    assert top.ids[0].tolist() == view.logits(ids)[0].topk(3).indices.tolist()
    moments = view.measure(ids, "moments", ["attn_out"], progress=False)
    assert moments is not None


@pytest.mark.parametrize("kind", ["missing", "left over", "of another shape"])
def test_weights_that_do_not_fit_are_an_error(folder: Path, tmp_path: Path, kind: str) -> None:
    target = changed(folder, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    weight = tensors.pop(name)
    if kind == "left over":
        tensors |= {name: weight, "model.layers.1.mlp.side_proj.weight": weight.clone()}
    if kind == "of another shape":
        tensors[name] = weight[:-1].contiguous()
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp|mismatch"):
        laminogram.load(target)


def test_no_code_of_a_checkpoint_is_run(folder: Path, tmp_path: Path) -> None:
    target = changed(folder, tmp_path, model_type="unheard-of", auto_map={
        "AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})  # fmt: skip
    (target / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(FamilyError, match=r"no family answers to it.*Nor can transformers open it"):
        laminogram.load(target)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_no_kernel_that_a_checkpoint_names_is_fetched(
    folder: Path, tmp_path: Path, field: str
) -> None:
    """`owner/name` there has transformers fetch and run code from a hub."""
    view = laminogram.load(changed(folder, tmp_path, **{field: "nobody/kernel"}))
    ids = ids_of(1, 8)
    assert torch.equal(view.logits(ids), laminogram.load(folder).logits(ids))


def test_what_has_two_stacks_or_packed_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    quantised = changed(folder, tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(FamilyError, match="is quantised"):
        laminogram.load(quantised)
    other = changed(folder, tmp_path, model_type="bart", is_encoder_decoder=True)
    with pytest.raises(FamilyError, match="an encoder and a decoder"):
        laminogram.load(other)


def test_one_device_alone(folder: Path) -> None:
    with pytest.raises(ConfigError, match="one device"):
        laminogram.load(folder, device=["cpu", "cpu"])
    assert laminogram.load(folder, device=["cpu"]).device.type == "cpu"


def test_a_model_whose_layers_share_more_is_refused() -> None:
    """Gemma 3n keeps several streams at once."""
    sizes = {"vocab_size": VOCABULARY, "vocab_size_per_layer_input": VOCABULARY, "hidden_size": 32}
    config = tf.Gemma3nTextConfig(
        **sizes, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, hidden_size_per_layer_input=8, num_kv_shared_layers=1,
        altup_num_inputs=2, laurel_rank=4, layer_types=["full_attention"] * 3,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with pytest.raises(FamilyError, match="hidden state of shape"):
        wrap(draw(tf.Gemma3nForCausalLM(config)), causal=True)


def test_a_layer_that_reads_more_than_the_stream_is_found_out() -> None:
    """Numerically, not by name: here layer 2 is told which tokens are read."""
    model = draw(tf.AutoModelForCausalLM.from_config(model_of("granite").config))

    class Told(type(model.model.layers[2])):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return super().forward(hidden_states, **kwargs) + kwargs["told"]

    def tell(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        ids = kwargs.get("input_ids")
        return args, kwargs | {"told": 0.0 if ids is None else ids[..., None].float()}

    model.model.register_forward_pre_hook(tell, with_kwargs=True)
    model.model.layers[2].__class__ = Told
    with pytest.raises(FamilyError, match="cannot be run layer by layer"):
        wrap(model, causal=True)


def test_a_layer_that_writes_on_what_it_is_given_is_refused() -> None:
    model = draw(tf.AutoModelForCausalLM.from_config(model_of("granite").config))

    class Writing(type(model.model.layers[1])):  # type: ignore[misc]
        def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            out = super().forward(hidden_states, **kwargs)
            hidden_states.zero_()
            return out

    model.model.layers[1].__class__ = Writing
    with pytest.raises(FamilyError, match="Writing writes on the hidden state"):
        wrap(model, causal=True)


def test_positions_that_a_model_does_not_have_are_an_error() -> None:
    with pytest.raises(TokenError, match="up to 64 tokens"):
        wrapped("opt").loss(ids_of(1, 65))
    config = model_of("granite").config
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
    twin = type(config)(**(config.to_dict() | {"rope_parameters": rope}))
    view = view_of(draw(tf.GraniteForCausalLM(twin)))
    with pytest.raises(TokenError, match="turns earlier ones anew"):
        view.loss(ids_of(1, 65))
