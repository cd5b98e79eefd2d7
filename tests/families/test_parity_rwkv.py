"""RWKV-4 and RWKV-7 against the `rwkv` package; every quirk switched off in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.families import reference as ref
from torch import Tensor

from laminogram import load
from laminogram.checkpoint.load import describe
from laminogram.stack.config import StackConfig
from laminogram.stack.stack import Stack

Golden = dict[int, tuple[Path, Tensor]]
ROWS = ref.tokens(2, 19)


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Golden:
    folder = tmp_path_factory.mktemp("rwkv")
    found: Golden = {}
    for generation in (4, 7):
        path = folder / f"v{generation}.pth"
        torch.save(ref.blink(generation), path)
        logits = ref.run_rwkv(path, ROWS, folder / f"v{generation}.out", generation=generation)
        assert logits is not None
        found[generation] = (path, logits)
    return found


@pytest.mark.parametrize("generation", [4, 7])
def test_logits_equal_the_package(golden: Golden, generation: int) -> None:
    path, want = golden[generation]
    stack = ref.load(path)
    with torch.no_grad():
        assert ref.error(stack(ROWS), want) <= ref.TOLERANCE


def test_sizes_are_read_from_shapes(golden: Golden) -> None:
    four, seven = (describe(golden[generation][0]).config for generation in (4, 7))
    assert (four.hidden_size, four.num_layers, four.vocab_size) == (
        ref.HIDDEN,
        ref.LAYERS,
        ref.VOCAB,
    )
    assert four.layers[0].ffn.intermediate_size == 2 * ref.HIDDEN
    assert four.layers[0].attn.attention_size == ref.HIDDEN
    mixes = [layer.attn for layer in seven.layers]
    assert [mix.v_rank for mix in mixes] == [0, 4, 5]
    assert {(m.decay_rank, m.a_rank, m.gate_rank) for m in mixes} == {(6, 5, 7)}
    assert [mix.provides_v_first for mix in mixes] == [True, False, False]
    assert {mix.group_norm_eps for mix in mixes} == {64e-5}
    assert (mixes[0].num_attention_heads, mixes[0].head_dim) == (2, 16)


def test_a_converted_file_is_read_as_the_true_model(golden: Golden, tmp_path: Path) -> None:
    """Divided weights, transposes, the folded embedding and the stored decay are all undone."""
    path, want = golden[4]
    converted = tmp_path / "converted.pth"
    ref.run_rwkv(path, ROWS, tmp_path / "x", generation=4, convert=converted, every=1)
    described = describe(converted)
    assert described.layout.name == "rwkv-converted"
    assert described.checkpoint.extras["_rescale_layer"] == 1
    assert described.config.embedding.norm is None
    stack, true = ref.fill(described, described.config), ref.load(path)
    mine = dict(stack.named_parameters())
    for name, p in true.named_parameters():
        if name not in ("embed.tokens.weight", "embed.norm.weight", "embed.norm.bias"):
            assert torch.allclose(mine[name], p, rtol=1e-6, atol=1e-6), name
    with torch.no_grad():
        assert ref.error(stack(ROWS), want) <= ref.TOLERANCE


def _set(name: str, value: float) -> Callable[[Stack], None]:
    def change(stack: Stack) -> None:
        with torch.no_grad():
            for key, p in stack.named_parameters():
                if key.endswith(name):
                    p.fill_(value)

    return change


def _keep(stack: Stack) -> None: ...


def _no_embedding_norm(config: StackConfig) -> StackConfig:
    return config


def _config(**fields: object) -> Callable[[StackConfig], StackConfig]:
    return lambda config: ref.in_mixer(config, "attn", **fields)


def _norm(eps: float) -> Callable[[StackConfig], StackConfig]:
    return lambda config: ref.in_mixer(config, "norm", eps=eps)


def _same(config: StackConfig) -> StackConfig:
    return config


def _bypass_ln0(stack: Stack) -> None:
    stack.embed.norm = torch.nn.Identity()


MUTATIONS: dict[str, tuple[int, Callable[[StackConfig], StackConfig], Callable[[Stack], None]]] = {
    "v4 ln0": (4, _same, _bypass_ln0),
    "v4 token shift of time mixing": (4, _same, _set("attn.mix_k", 1.0)),
    "v4 token shift of values": (4, _same, _set("attn.mix_v", 1.0)),
    "v4 token shift of receptance": (4, _same, _set("attn.mix_r", 1.0)),
    "v4 token shift of channel mixing": (4, _same, _set("ffn.mix_k", 1.0)),
    "v4 token shift of its receptance": (4, _same, _set("ffn.mix_r", 1.0)),
    "v4 bonus": (4, _same, _set("attn.bonus", 0.0)),
    "v4 decay": (4, _same, _set("attn.decay", 0.0)),
    "v4 receptance": (4, _same, _set("attn.r.weight", 0.0)),
    "v4 channel receptance": (4, _same, _set("ffn.r.weight", 0.0)),
    "v4 norm epsilon": (4, _norm(0.3), _keep),
    "v7 ln0": (7, _same, _bypass_ln0),
    **{f"v7 token shift of {name}": (7, _same, _set(f"attn.mix_{name}", 0.0)) for name in "rwkvag"},
    "v7 token shift of channel mixing": (7, _same, _set("ffn.mix_k", 0.0)),
    "v7 v_first mix": (7, _same, _set("v0", -60.0)),
    "v7 v_first low rank": (7, _same, _set("v2", 0.0)),
    "v7 decay": (7, _same, _set("w0", 0.0)),
    "v7 decay low rank": (7, _same, _set("w2", 0.0)),
    "v7 rate": (7, _same, _set("a0", 0.0)),
    "v7 rate low rank": (7, _same, _set("a2", 0.0)),
    "v7 k_k": (7, _same, _set("k_k", 1.0)),
    "v7 k_a": (7, _same, _set("k_a", 0.0)),
    "v7 r_k bonus": (7, _same, _set("r_k", 0.0)),
    "v7 gate": (7, _same, _set("g2", 0.5)),
    "v7 out norm": (7, _same, _set("out_norm.bias", 0.0)),
    "v7 group norm epsilon": (7, _config(group_norm_eps=1e-5), _keep),
    "v7 norm epsilon": (7, _norm(0.3), _keep),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_quirk_counts(golden: Golden, name: str) -> None:
    """Switched off, parity fails by more than a hundred times its tolerance."""
    generation, config, change = MUTATIONS[name]
    path, want = golden[generation]
    stack = ref.load(path, config)
    change(stack)
    with torch.no_grad():
        assert ref.error(stack(ROWS), want) > 100 * ref.TOLERANCE


def test_group_norm_epsilon_is_a_setting(golden: Golden) -> None:
    config = describe(golden[7][0], {"group_norm_eps": 1e-5}).config
    assert {layer.attn.group_norm_eps for layer in config.layers} == {1e-5}


def test_layer_0_may_carry_unused_value_ranks_or_not(golden: Golden, tmp_path: Path) -> None:
    path, want = golden[7]
    weights = {
        name: value
        for name, value in torch.load(path, weights_only=True).items()
        if not name.startswith("blocks.0.att.v")  # value.weight goes too, and is put back
    }
    weights["blocks.0.att.value.weight"] = torch.load(path, weights_only=True)[
        "blocks.0.att.value.weight"
    ]
    torch.save(weights, tmp_path / "short.pth")
    with torch.no_grad():
        assert ref.error(ref.load(tmp_path / "short.pth")(ROWS), want) <= ref.TOLERANCE


def test_embedding_norm_may_be_folded(golden: Golden) -> None:
    """ln0 applied to the table by hand, and left out of the forward, changes nothing."""
    path, want = golden[7]
    stack = ref.load(path)
    with torch.no_grad():
        table = stack.embed.norm(stack.embed.tokens.weight)
    config = replace(stack.config, embedding=replace(stack.config.embedding, norm=None))
    folded = Stack(config)
    values = {k: v for k, v in stack.state_dict().items() if not k.startswith("embed.norm")}
    folded.load_state_dict(values | {"embed.tokens.weight": table})
    with torch.no_grad():
        assert ref.error(folded(ROWS), want) <= ref.TOLERANCE


@pytest.mark.parametrize("generation", [4, 7])
def test_greedy_text(golden: Golden, tmp_path: Path, generation: int) -> None:
    """Theirs reads our continuation: at every clear place its choice is the token that follows."""
    path, start, new = golden[generation][0], 6, 24
    ids = ROWS[:1, :start]
    made = load(path, dtype="fp32").generate(ids, max_new_tokens=new, stop_at_eos=False)
    whole = torch.cat([ids, torch.tensor([made[0].tokens])], 1)
    theirs = ref.run_rwkv(path, whole, tmp_path / "out", generation=generation)
    assert theirs is not None
    compared = 0
    for token, scores in zip(made[0].tokens, theirs[0, start - 1 : -1], strict=True):
        best = scores.topk(2)
        if best.values[0] - best.values[1] > 10 * ref.TOLERANCE * scores.abs().max():
            assert int(best.indices[0]) == token
            compared += 1
    assert compared >= new // 2
