"""Llama, GPT-NeoX, BERT and RWKV-4 against transformers: logits, layers, gradients, greedy text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.families import reference as ref
from tests.families.hf_models import (
    Case,
    Pair,
    bert_base,
    cases,
    check_gradients,
    check_logits_and_layers,
)
from torch import Tensor, nn

from laminogram.checkpoint.load import describe
from laminogram.stack import forward
from laminogram.stack.batch import Batch
from laminogram.stack.config import StackConfig
from laminogram.stack.stack import Stack

CASES = cases()


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pair]:
    made: dict[str, Pair] = {}

    def pair(name: str) -> Pair:
        if name not in made:
            made[name] = Pair(CASES[name], tmp_path_factory.mktemp(name))
        return made[name]

    return pair


@pytest.mark.parametrize("name", CASES)
def test_logits_and_every_layer(pairs: Callable[[str], Pair], name: str) -> None:
    check_logits_and_layers(pairs(name))


@pytest.mark.parametrize(
    "name", ["llama-gqa", "llama-biases", "llama-tied", "neox", "neox-sequential", "bert", "rwkv"]
)
def test_gradients(pairs: Callable[[str], Pair], name: str) -> None:
    check_gradients(pairs(name))


@pytest.mark.parametrize("name", ["llama-gqa", "rope-dynamic", "neox", "rwkv"])
def test_greedy_text(pairs: Callable[[str], Pair], name: str) -> None:
    """Token for token, wherever the best token leads by more than ten tolerances."""
    pair = pairs(name)
    stack, x = ref.load(pair.folder), pair.x[:1, :6]
    end = int(pair.model.config.eos_token_id or 0)
    theirs = pair.model.generate(
        x,
        attention_mask=torch.ones_like(x),
        max_new_tokens=16,
        do_sample=False,
        eos_token_id=ref.VOCAB,
        pad_token_id=end,
    )
    compared = 0
    for place in range(x.shape[1], theirs.shape[1]):
        with torch.no_grad():
            logits = stack(theirs[:, :place])[0, -1]
        best = logits.topk(2).values
        if best[0] - best[1] <= 10 * ref.TOLERANCE * logits.abs().max():
            continue
        compared += 1
        assert int(logits.argmax()) == int(theirs[0, place])
    assert compared >= 8


def run(stack: Stack, x: Tensor, mask: Tensor | None = None, types: Tensor | None = None) -> Tensor:
    batch = Batch.of(x, mask, types, vocab_size=ref.VOCAB)
    return forward.run(stack, batch, stack.full_plan())


def bert_inputs() -> tuple[Tensor, Tensor, Tensor]:
    x = ref.tokens(3, 17)
    types = (torch.arange(17) > 8).long().expand(3, -1)
    mask = torch.arange(17) < torch.tensor([[17], [11], [5]])
    return x, mask, types


def test_bert_with_token_types_and_padding(pairs: Callable[[str], Pair]) -> None:
    pair = pairs("bert")
    x, mask, types = bert_inputs()
    with torch.no_grad():
        want = pair.model(x, attention_mask=mask.long(), token_type_ids=types).logits
        got = run(ref.load(pair.folder), x, mask, types)
        plain = run(ref.load(pair.folder), x, mask)
    assert ref.error(got[mask], want[mask]) <= ref.TOLERANCE
    assert ref.error(plain[mask], want[mask]) > 100 * ref.TOLERANCE


def test_bert_without_a_head(tmp_path: Path) -> None:
    model = bert_base()
    model.save_pretrained(tmp_path)
    described = describe(tmp_path)
    assert described.layout.name == "hf-base"
    assert not described.config.head.present
    assert described.config.head.pooler
    stack = ref.fill(described, described.config)
    x, mask, types = bert_inputs()
    with torch.no_grad():
        out = model(x, attention_mask=mask.long(), token_type_ids=types)
        final = run(stack, x, mask, types)
        pooled = torch.tanh(stack.pooler(final[:, 0]))
    assert ref.error(final[mask], out.last_hidden_state[mask]) <= ref.TOLERANCE
    assert ref.error(pooled, out.pooler_output) <= ref.TOLERANCE


@pytest.mark.parametrize("every", [1, 2])
def test_rwkv_rescaled(pairs: Callable[[str], Pair], tmp_path: Path, every: int) -> None:
    """transformers halves the stream every few layers; LayerNorm's epsilon is all that tells."""
    case = CASES["rwkv"]
    config = type(case.config)(**case.config.to_dict() | {"rescale_every": every})
    pair = Pair(replace_config(case, config), tmp_path / "fresh")
    with torch.no_grad():
        states, logits = ref.hidden_states(ref.load(pair.folder), pair.x)
    assert ref.error(logits, pair.logits) <= 10 * ref.TOLERANCE
    for i, state in enumerate(states):
        assert ref.error(state / 2 ** ((i + 1) // every), pair.hidden[i]) <= 10 * ref.TOLERANCE
    pair.model.save_pretrained(tmp_path / "halved")
    with torch.no_grad():
        told = ref.load(tmp_path / "halved", options={"rescaled": every})(pair.x)
        untold = ref.load(tmp_path / "halved")(pair.x)
    assert torch.equal(told, logits)
    assert ref.error(untold, logits) > 100 * ref.TOLERANCE


def replace_config(case: Case, config: object) -> Case:
    return case._replace(config=config)


Change = Callable[[StackConfig], StackConfig]


def _attn(**fields: object) -> Change:
    return lambda config: ref.in_mixer(config, "attn", **fields)


def _rope(**fields: object) -> Change:
    def change(config: StackConfig) -> StackConfig:
        rope = replace(config.layers[0].attn.rope, **fields)
        return ref.in_mixer(config, "attn", rope=rope)

    return change


def _eps(config: StackConfig) -> StackConfig:
    changed = ref.in_mixer(config, "norm", eps=1e-6)
    final = changed.final_norm and replace(changed.final_norm, eps=1e-6)
    return replace(changed, final_norm=final)


def _block(block: str) -> Change:
    return lambda config: ref.every_layer(config, lambda layer: replace(layer, block=block))


def _same(config: StackConfig) -> StackConfig:
    return config


def _keep(stack: Stack) -> None: ...


def _zero(*endings: str) -> Callable[[Stack], None]:
    def change(stack: Stack) -> None:
        with torch.no_grad():
            for key, p in stack.named_parameters():
                if key.endswith(endings):
                    p.zero_()

    return change


def _regroup(stack: Stack) -> None:
    """Key heads dealt out in turn (0 1 0 1) instead of in runs (0 0 1 1)."""
    order = torch.tensor([0, 2, 1, 3])
    with torch.no_grad():
        for layer in stack.layers:
            q, o = layer.attn.q.weight, layer.attn.o.weight
            q.copy_(q.view(4, 8, -1)[order].reshape(q.shape))
            o.copy_(o.view(-1, 4, 8)[:, order].reshape(o.shape))


def _neox_rows(stack: Stack) -> None:
    """Query, key and value rows read as three blocks instead of head by head."""
    with torch.no_grad():
        for layer in stack.layers:
            parts = [layer.attn.q.weight, layer.attn.k.weight, layer.attn.v.weight]
            rows = torch.stack([p.view(4, 8, -1) for p in parts], 1).reshape(96, -1)
            for p, block in zip(parts, rows.split(32), strict=True):
                p.copy_(block)


def _no_embedding_norm(stack: Stack) -> None:
    stack.embed.norm = nn.Identity()


_DEFAULT = {"kind": "default", "parameters": {}}
MUTATIONS: dict[str, tuple[str, Change, Callable[[Stack], None]]] = {
    "rope": ("llama", _attn(rope=None), _keep),
    "rope theta": ("llama", _rope(theta=50.0), _keep),
    **{
        f"rope {kind}": (f"rope-{kind}", _rope(**_DEFAULT), _keep)
        for kind in ("linear", "llama3", "yarn", "longrope", "proportional")
    },
    "rope dynamic": ("rope-dynamic-beyond", _rope(**_DEFAULT), _keep),
    "longrope's short list": ("rope-longrope-within", _rope(**_DEFAULT), _keep),
    "causality": ("llama", _attn(causal=False), _keep),
    "scale": ("llama", _attn(scale=1.0), _keep),
    "grouping of heads": ("llama-gqa", _same, _regroup),
    "rms epsilon": ("llama-gqa", _eps, _keep),
    "query, key, value biases": ("llama-biases", _same, _zero("q.bias", "k.bias", "v.bias")),
    "output bias": ("llama-biases", _same, _zero("attn.o.bias")),
    "mlp biases": ("llama-biases", _same, _zero("gate.bias", "up.bias", "down.bias")),
    "gate's activation": (
        "llama-gelu",
        lambda config: ref.in_mixer(config, "ffn", activation="silu"),
        _keep,
    ),
    "partial rotary": ("neox", _rope(rotary_dims=8), _keep),
    "parallel residual": ("neox", _block("pre"), _keep),
    "sequential residual": ("neox-sequential", _block("parallel"), _keep),
    "fused rows by head": ("neox", _same, _neox_rows),
    "neox epsilon": ("neox", _eps, _keep),
    "neox biases": ("neox", _same, _zero("attn.q.bias", "attn.v.bias", "up.bias")),
    "neox activation": (
        "neox",
        lambda config: ref.in_mixer(config, "ffn", activation="relu"),
        _keep,
    ),
    "bert activation": (
        "bert",
        lambda config: ref.in_mixer(config, "ffn", activation="relu"),
        _keep,
    ),
    "norm biases": ("neox", _same, _zero("norm.bias")),
    "post-norm": ("bert", _block("pre"), _keep),
    "encoder looks both ways": ("bert", _attn(causal=True), _keep),
    "positions": ("bert", _same, _zero("positions.weight")),
    "token type 0": ("bert", _same, _zero("types.weight")),
    "embedding norm": ("bert", _same, _no_embedding_norm),
    "bert epsilon": ("bert", _eps, _keep),
    "head's transform bias": ("bert", _same, _zero("head.transform.bias")),
    "head's bias": ("bert", _same, _zero("head.bias")),
    "head's norm": ("bert", _same, _zero("head.norm.bias")),
    "bert's query, key, value biases": ("bert", _same, _zero("q.bias", "v.bias")),
    "bert's norm biases": ("bert", _same, _zero("attn_norm.bias", "ffn_norm.bias")),
    "rwkv ln0": ("rwkv", _same, _no_embedding_norm),
    **{
        f"rwkv {name}": ("rwkv", _same, _zero(name))
        for name in (
            "attn.mix_k",
            "attn.mix_v",
            "attn.mix_r",
            "attn.bonus",
            "attn.decay",
            "attn.r.weight",
            "ffn.mix_k",
            "ffn.mix_r",
            "ffn.r.weight",
        )
    },
    "rwkv epsilon": ("rwkv-wide", _eps, _keep),
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
