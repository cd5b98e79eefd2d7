"""Mixtral, Qwen3-MoE, DeepSeek-V2 and V3 against transformers, in the sizes of `hf_models`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.families import reference as ref
from tests.families.hf_models import WIDE, Case
from torch import Tensor, nn
from transformers import (
    DeepseekV2Config,
    DeepseekV2ForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from laminogram.checkpoint.load import describe
from laminogram.checkpoint.loading import load_into
from laminogram.checkpoint.reading import open_checkpoint
from laminogram.checkpoint.write import export
from laminogram.stack.batch import Batch
from laminogram.stack.config import LatentAttentionConfig, MoEConfig, StackConfig
from laminogram.stack.stack import Stack
from laminogram.view import View

BF16_TOLERANCE = 0.05
"""Of the largest logit, for the median token: rounding sends some to another expert. The same model
in transformers, rounded in the same way, is as far from its own fp32 logits."""

YARN = {
    "rope_type": "yarn",
    "rope_theta": 100.0,
    "factor": 4.0,
    "original_max_position_embeddings": 8,
    "mscale": 0.6,
    "mscale_all_dim": 1.5,
}
LATENT: dict[str, Any] = WIDE | {
    "num_key_value_heads": ref.HEADS,
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
    "rms_norm_eps": 0.3,
    "num_experts_per_tok": 3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0},
}
GROUPS = {"n_group": 4, "topk_group": 2}


def _mixtral(**fields: Any) -> Case:
    config = WIDE | {"num_local_experts": 6, "num_key_value_heads": 2} | fields
    return Case(MixtralForCausalLM, MixtralConfig(**config))


def _qwen(**fields: Any) -> Case:
    config = WIDE | {
        "num_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 16,
        "num_key_value_heads": 2,
        "head_dim": 10,
    }
    return Case(Qwen3MoeForCausalLM, Qwen3MoeConfig(**config | fields))


def _v2(**fields: Any) -> Case:
    config = LATENT | {"n_routed_experts": 8, "n_shared_experts": 2} | fields
    return Case(DeepseekV2ForCausalLM, DeepseekV2Config(**config))


def _v3(**fields: Any) -> Case:
    config = LATENT | GROUPS | {"n_routed_experts": 12, "n_shared_experts": 1} | fields
    return Case(DeepseekV3ForCausalLM, DeepseekV3Config(**config))


CASES = {
    "mixtral": _mixtral(),
    "mixtral-window": _mixtral(sliding_window=7),
    "qwen3_moe": _qwen(norm_topk_prob=True),
    "qwen3_moe-raw": _qwen(attention_bias=True, rms_norm_eps=0.3),
    "qwen3_moe-dense": _qwen(decoder_sparse_step=2, num_hidden_layers=4, mlp_only_layers=[3]),
    "v2-lite": _v2(q_lora_rank=None, attention_bias=True),
    "v2": _v2(
        topk_method="group_limited_greedy",
        routed_scaling_factor=3.0,
        rope_parameters=YARN,
        **GROUPS,
    ),
    "v3": _v3(routed_scaling_factor=2.5, rope_parameters=YARN),
    "v3-one-group": _v3(n_group=1, topk_group=1, norm_topk_prob=False, q_lora_rank=None),
}


class Pair:
    """A case's model, its folder, its tokens and its logits."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.folder, self.model = folder, ref.draw(case.model(case.config))
        generator = torch.Generator().manual_seed(5)
        for name, bias in self.model.named_buffers():
            if name.endswith("e_score_correction_bias"):  # wide against scores between 0 and 1
                bias.copy_(torch.randn(bias.shape, generator=generator) * 0.6)
        self.model.save_pretrained(folder)
        self.x = ref.tokens(2, case.length)
        with torch.no_grad():
            out = self.model(self.x, output_hidden_states=True)
        self.logits, self.hidden = out.logits, out.hidden_states


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def pair(name: str) -> Pair:
        if name not in made:
            made[name] = Pair(CASES[name], tmp_path_factory.mktemp(name))
        return made[name]

    return pair


def _view(stack: Stack) -> View:
    return View(stack, None, stack.config.family, stack.full_plan())


@pytest.mark.parametrize("name", CASES)
def test_logits_and_every_layer(pairs: Callable[[str], Pair], name: str) -> None:
    pair = pairs(name)
    with torch.no_grad():
        states, logits = ref.hidden_states(ref.load(pair.folder), pair.x)
    assert ref.error(logits, pair.logits) <= ref.TOLERANCE
    for mine, want in zip(states, pair.hidden[1:-1], strict=False):
        assert ref.error(mine, want) <= ref.TOLERANCE


@pytest.mark.parametrize("name", ["mixtral-window", "qwen3_moe", "v2", "v3"])
def test_bf16(pairs: Callable[[str], Pair], name: str) -> None:
    pair = pairs(name)
    described = describe(pair.folder)
    stack = Stack(described.config, device="meta")
    load_into(
        stack,
        described.checkpoint,
        described.layout,
        config=described.config,
        dtype=torch.bfloat16,
    )
    model = pair.model.__class__.from_pretrained(pair.folder, dtype=torch.bfloat16).eval()
    for key, parameter in stack.named_parameters():
        wide = torch.float32 if key.endswith("correction") else torch.bfloat16
        assert parameter.dtype == wide, key
    with torch.no_grad():
        rounded, theirs = stack(pair.x).float(), model(pair.x).logits.float()
        want = model.float()(pair.x).logits
    far, usual = (_median_error(logits, want) for logits in (rounded, theirs))
    assert far <= BF16_TOLERANCE
    assert far <= 1.5 * usual


def _median_error(found: Tensor, want: Tensor) -> float:
    return float(((found - want).abs().amax(-1) / want.abs().max()).median())


@pytest.mark.parametrize("name", CASES)
def test_padding_and_a_cache_change_nothing(pairs: Callable[[str], Pair], name: str) -> None:
    pair = pairs(name)
    view = _view(ref.load(pair.folder))
    x, lengths = pair.x, (23, 9)
    mask = torch.arange(23) >= torch.tensor([[0], [23 - 9]])  # padded on the left
    rows = torch.where(mask, torch.stack([x[0], x[1].roll(23 - 9)]), 0)
    with torch.no_grad():
        batch = Batch.of(rows, mask, None, vocab_size=ref.VOCAB)
        padded = batch.restore(view.run(batch))
        short = view.stack(x[1:, :9])
        assert ref.error(padded[1, 23 - 9 :], short[0]) <= ref.TOLERANCE
        cache, parts = view.new_cache(2), []
        for at in (
            slice(0, 6),
            slice(6, 7),
            slice(7, 12),
            *(slice(i, i + 1) for i in range(12, 23)),
        ):
            parts.append(view.run(view.tokens(x[:, at]), cache=cache))
    assert ref.error(torch.cat(parts, 1), pair.logits) <= ref.TOLERANCE
    assert lengths == batch.lengths


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe-dense", "v2", "v3"])
def test_greedy_text(pairs: Callable[[str], Pair], name: str) -> None:
    """Token for token, wherever the best token leads by more than ten tolerances."""
    pair = pairs(name)
    view, x = _view(ref.load(pair.folder)), pair.x[:1, :6]
    theirs = pair.model.generate(
        x,
        attention_mask=torch.ones_like(x),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=ref.VOCAB,
        pad_token_id=0,
    )
    cache, compared = view.new_cache(1), 0
    with torch.no_grad():
        logits = view.run(view.tokens(x), cache=cache, logits="last")[0, -1]
        for place in range(6, theirs.shape[1]):
            best = logits.topk(2).values
            if best[0] - best[1] > 10 * ref.TOLERANCE * logits.abs().max():
                compared += 1
                assert int(logits.argmax()) == int(theirs[0, place])
            logits = view.run(view.tokens(theirs[:, place : place + 1]), cache=cache)[0, -1]
    assert compared >= 8


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_back_is_what_was_read(
    pairs: Callable[[str], Pair], name: str, tmp_path: Path
) -> None:
    pair = pairs(name)
    stack = ref.load(pair.folder)
    export(stack, stack.config, tmp_path / "out")
    before, after = open_checkpoint(pair.folder), open_checkpoint(tmp_path / "out")
    assert before.shapes == after.shapes
    assert all(torch.equal(before.get(key), after.get(key)) for key in before.tensors)


def test_the_layer_that_predicts_a_second_token_is_left_out(
    pairs: Callable[[str], Pair], tmp_path: Path
) -> None:
    pair = pairs("v3")
    from safetensors.torch import load_file, save_file

    weights = load_file(pair.folder / "model.safetensors")
    more = {
        f"model.layers.{ref.LAYERS}.{key.removeprefix('model.layers.2.')}": x.clone()
        for key, x in weights.items()
        if key.startswith("model.layers.2.")
    }
    more[f"model.layers.{ref.LAYERS}.eh_proj.weight"] = torch.ones(ref.HIDDEN, 2 * ref.HIDDEN)
    save_file(weights | more, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((pair.folder / "config.json").read_text())
    with torch.no_grad():
        found, plain = ref.load(tmp_path)(pair.x), ref.load(pair.folder)(pair.x)
    assert ref.error(found, plain) <= ref.TOLERANCE  # a weight's place in memory can tell in a bit


Change = Callable[[StackConfig], StackConfig]


def _part(name: str, kind: type, **fields: Any) -> Change:
    """Other fields in the mixers of one kind."""

    def change(config: StackConfig) -> StackConfig:
        return replace(
            config,
            layers=tuple(
                replace(layer, **{name: replace(getattr(layer, name), **fields)})
                if isinstance(getattr(layer, name), kind)
                else layer
                for layer in config.layers
            ),
        )

    return change


def _moe(**fields: Any) -> Change:
    return _part("ffn", MoEConfig, **fields)


def _latent(**fields: Any) -> Change:
    return _part("attn", LatentAttentionConfig, **fields)


def _attn(**fields: Any) -> Change:
    return lambda config: ref.in_mixer(config, "attn", **fields)


def _same(config: StackConfig) -> StackConfig:
    return config


def _keep(stack: Stack) -> None: ...


def _filled(value: float, *endings: str) -> Callable[[Stack], None]:
    def change(stack: Stack) -> None:
        for key, p in stack.named_parameters():
            if key.endswith(endings):
                nn.init.constant_(p, value)

    return change


def _swapped(stack: Stack) -> None:
    """Gate and up of every expert taken for each other."""
    for layer in stack.layers:
        for expert in layer.ffn.experts:
            expert.gate, expert.up = expert.up, expert.gate


def _one_expert_off(stack: Stack) -> None:
    """Experts under their neighbours' numbers."""
    for layer in stack.layers:
        if isinstance(layer.ffn.config, MoEConfig):
            layer.ffn.experts = nn.ModuleList([*layer.ffn.experts[1:], layer.ffn.experts[0]])


def _interleaved(stack: Stack) -> None:
    """The turned rows of the queries and of the shared key as they are on disk."""
    attn = stack.layers[0].attn.config
    turned = attn.qk_rope_head_dim
    order = torch.arange(turned).view(2, -1).t().flatten()
    for layer in stack.layers:
        mixer = layer.attn
        query = mixer.q if attn.q_lora_rank is None else mixer.q_b
        with torch.no_grad():
            rows = mixer.kv_a.weight[-turned:]
            rows.copy_(rows[order])
            heads = query.weight.view(attn.num_attention_heads, attn.qk_head_dim, -1)
            heads[:, -turned:] = heads[:, -turned:][:, order]


MUTATIONS: dict[str, tuple[str, Change, Callable[[Stack], None]]] = {
    "window": ("mixtral-window", _attn(window=None), _keep),
    "two experts": ("mixtral", _moe(num_experts_per_tok=3), _keep),
    "mixtral's weights sum to one": ("mixtral", _moe(norm_topk_prob=False), _keep),
    "w1 is the gate": ("mixtral", _same, _swapped),
    "numbers of the experts": ("mixtral", _same, _one_expert_off),
    "norms of q and k": ("qwen3_moe", _same, _filled(1.0, "q_norm.weight", "k_norm.weight")),
    "weights sum to one": ("qwen3_moe", _moe(norm_topk_prob=False), _keep),
    "weights do not": ("qwen3_moe-raw", _moe(norm_topk_prob=True), _keep),
    "biases": ("qwen3_moe-raw", _same, _filled(0.0, "q.bias", "o.bias")),
    "rotary rows, v2-lite": ("v2-lite", _same, _interleaved),
    "rotary rows, v3": ("v3", _same, _interleaved),
    "biases of the latents": ("v2-lite", _same, _filled(0.0, "kv_a.bias")),
    "norm of the queries' latent": ("v3", _same, _filled(1.0, "q_a_norm.weight")),
    "norm of the latent": ("v2", _same, _filled(1.0, "kv_a_norm.weight")),
    "epsilon of the latents": ("v2", lambda c: _latent(norm=c.layers[0].norm)(c), _keep),
    "mscale_all_dim in the scale": ("v2", _latent(scale=None), _keep),
    "mscale_all_dim in the scale, v3": ("v3", _latent(scale=None), _keep),
    "yarn": (
        "v3",
        lambda c: _latent(rope=replace(c.layers[0].attn.rope, kind="default", parameters={}))(c),
        _keep,
    ),
    "scaling factor": ("v2", _moe(routed_scaling_factor=1.0), _keep),
    "v2's groups": ("v2", _moe(n_group=1, topk_group=1), _keep),
    "a group's best": ("v2", _moe(best_of_group=2), _keep),
    "shared experts": ("v2", _same, _filled(0.0, "shared.down.weight")),
    "sigmoid": ("v3", _moe(scoring="softmax"), _keep),
    "correction": ("v3", _same, _filled(0.0, "correction")),
    "v3's groups": ("v3", _moe(n_group=1, topk_group=1), _keep),
    "a group's best two": ("v3", _moe(best_of_group=1), _keep),
    "v3's scaling factor": ("v3", _moe(routed_scaling_factor=1.0), _keep),
    "v3's sum": ("v3", _moe(norm_topk_prob=False), _keep),
    "v3 without the sum": ("v3-one-group", _moe(norm_topk_prob=True), _keep),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_quirk_counts(pairs: Callable[[str], Pair], name: str) -> None:
    """Switched off, parity fails by more than a hundred times its tolerance."""
    case, config, change = MUTATIONS[name]
    pair = pairs(case)
    stack = ref.load(pair.folder, config)
    change(stack)
    with torch.no_grad():
        assert ref.error(stack(pair.x), pair.logits) > 100 * ref.TOLERANCE


def test_the_correction_does_not_weigh(pairs: Callable[[str], Pair]) -> None:
    """The same shift of all experts changes no choice, and so nothing at all."""
    pair = pairs("v3")
    stack = ref.load(pair.folder)
    with torch.no_grad():
        for layer in stack.layers[1:]:
            layer.ffn.correction.add_(3)
        assert ref.error(stack(pair.x), pair.logits) <= ref.TOLERANCE


def test_layers_with_and_without_experts(pairs: Callable[[str], Pair]) -> None:
    kinds = [layer.ffn.kind for layer in describe(pairs("qwen3_moe-dense").folder).config.layers]
    assert kinds == ["mlp", "moe", "mlp", "mlp"]
    kinds = [layer.ffn.kind for layer in describe(pairs("v2").folder).config.layers]
    assert kinds == ["mlp", "moe", "moe"]
