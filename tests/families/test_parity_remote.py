"""Qwen 1, Baichuan, InternLM 2 and ChatGLM against restatements of their published code.

No installed package has these architectures: `tests/families/remote` computes their logits in fp64
from the raw tensors. ChatGLM is also held against transformers' `GlmForCausalLM`, whose mathematics
are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tests.families import reference as ref
from tests.families.remote.checkpoints import CASES, Case, draw, save
from torch import Tensor

from laminogram.checkpoint.load import describe
from laminogram.stack.config import StackConfig
from laminogram.stack.norms import Norm
from laminogram.stack.stack import Stack
from laminogram.view import View

# Of the root mean square: bf16 keeps 8 bits and attention is sharp; 0.036 is the largest found.
BF16_TOLERANCE = 0.05
GRADIENT_TOLERANCE = 1e-3  # sharp attention multiplies the rounding of the forward


class Published:
    """A case's tensors, its folder, its tokens and its restated logits; made once."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case, self.tensors = case, draw(case.shapes)
        self.folder = save(self.tensors, case.config, folder)
        self.x = ref.tokens(2, case.length)
        self.logits = self.restated(self.x)

    def restated(self, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """The restatement's logits for tensors that were rounded to `dtype`."""
        wide = {name: tensor.to(dtype).double() for name, tensor in self.tensors.items()}
        return self.case.logits(wide, self.case.config, x)

    @property
    def view(self) -> View:
        stack = ref.load(self.folder)
        return View(stack, None, "published", stack.full_plan())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Published]:
    made: dict[str, Published] = {}

    def one(name: str) -> Published:
        if name not in made:
            made[name] = Published(CASES[name], tmp_path_factory.mktemp(name))
        return made[name]

    return one


@pytest.mark.parametrize("name", CASES)
def test_logits(published: Callable[[str], Published], name: str) -> None:
    case = published(name)
    with torch.no_grad():
        assert ref.error(ref.load(case.folder)(case.x), case.logits) <= ref.TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_gradients(published: Callable[[str], Published], name: str) -> None:
    """Every parameter's gradient; the restatement's, by the mapping of its tensors."""
    case, described = published(name), describe(published(name).folder)
    stack = ref.fill(described, described.config)
    wanted = {name: x.double().requires_grad_() for name, x in case.tensors.items()}
    weights = torch.randn(case.logits.shape, generator=torch.Generator().manual_seed(3)).double()
    (case.case.logits(wanted, case.case.config, case.x) * weights).sum().backward()
    (stack(case.x) * weights).sum().backward()
    mapping = described.layout.bind(described.config)
    grads = {name: x.grad for name, x in wanted.items()}
    # A key bias may have no gradient but rounding: judged on the scale of the others.
    floor = 1e-3 * max(float(grad.abs().max()) for grad in grads.values() if grad is not None)
    for key, p in stack.named_parameters():
        bound = mapping.ours(key)
        assert bound is not None
        assert p.grad is not None, key
        want = bound.read(grads.__getitem__)
        scale = max(float(want.abs().max()), floor)
        assert float((p.grad - want).abs().max()) <= GRADIENT_TOLERANCE * scale, key


@pytest.mark.parametrize("name", CASES)
def test_logits_in_bf16(published: Callable[[str], Published], name: str) -> None:
    case = published(name)
    stack = ref.load(case.folder).to(torch.bfloat16)
    with torch.no_grad():
        found = stack(case.x).double()
    want = case.restated(case.x, torch.bfloat16)
    assert float((found - want).norm() / want.norm()) <= BF16_TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_a_cache_changes_nothing(published: Callable[[str], Published], name: str) -> None:
    """Token by token after a prompt, and in pieces, with the whole length planned."""
    case, view = published(name), published(name).view
    width = case.x.shape[1]
    for edges in ((0, 7, *range(8, width + 1)), (0, 1, 9, 14, width)):
        cache = view.new_cache(2, planned=width)
        with torch.no_grad():
            pieces = [
                view.run(view.tokens(case.x[:, a:b]), cache=cache)
                for a, b in itertools.pairwise(edges)
            ]
        assert ref.error(torch.cat(pieces, 1), case.logits) <= ref.TOLERANCE


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", CASES)
def test_padding_changes_nothing(
    published: Callable[[str], Published], name: str, side: str
) -> None:
    """Rows of several lengths, on both sides of the trained length, each as if it were alone."""
    case, lengths = published(name), (23, 5, 12, 1)
    x = ref.tokens(4, 23, seed=2)
    mask = torch.arange(23) < torch.tensor(lengths)[:, None]
    mask = mask.flip(1) if side == "left" else mask
    found = case.view.logits(torch.where(mask, x, 0), mask=mask)
    for row, ids, real in zip(found, x, mask, strict=True):
        assert ref.error(row[real], case.restated(ids[real][None])[0]) <= ref.TOLERANCE


@pytest.mark.parametrize("name", ["qwen-beyond", "baichuan2-13b", "internlm2-beyond", "chatglm"])
def test_greedy_text(published: Callable[[str], Published], name: str) -> None:
    """Past every change of the frequencies, wherever the best token leads by ten tolerances."""
    case = published(name)
    new = case.view.generate(case.x[0, :6].tolist(), max_new_tokens=17).tokens
    ids, compared = case.x[:1, :6], 0
    for token in new:
        logits = case.restated(ids)[0, -1]
        best = logits.topk(2).values
        if best[0] - best[1] > 10 * ref.TOLERANCE * logits.abs().max():
            assert token == int(logits.argmax())
            compared += 1
        ids = torch.cat((ids, torch.tensor([[token]])), 1)
    assert compared >= 12


@pytest.mark.parametrize("name", CASES)
def test_tensors_there_and_back(published: Callable[[str], Published], name: str) -> None:
    """Published tensors through our layout and back keep every bit, and none is left over."""
    case = published(name)
    described = describe(case.folder)
    ours = dict(ref.fill(described, described.config).named_parameters())
    mapping = described.layout.bind(described.config)
    names = mapping.names_of_theirs(list(ours))
    assert set(case.tensors) - set(names) <= {"transformer.rotary_pos_emb.inv_freq"}
    for theirs in names:
        bound = mapping.theirs(theirs)
        assert bound is not None
        assert torch.equal(bound.write(ours.__getitem__), case.tensors[theirs]), theirs


def test_chatglm_is_what_transformers_calls_glm(tmp_path: Path) -> None:
    from transformers import GlmConfig, GlmForCausalLM

    case = CASES["chatglm"]
    config = GlmConfig(
        vocab_size=ref.VOCAB,
        hidden_size=ref.HIDDEN,
        intermediate_size=case.config["ffn_hidden_size"],
        num_hidden_layers=ref.LAYERS,
        num_attention_heads=ref.HEADS,
        num_key_value_heads=2,
        head_dim=8,
        attention_bias=True,
        rms_norm_eps=1e-5,
        pad_token_id=0,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "partial_rotary_factor": 0.5,
        },
    )
    model = ref.draw(GlmForCausalLM(config))
    stack = ref.load(save(_as_chatglm(model.state_dict()), case.config, tmp_path))
    x = ref.tokens(2, 23)
    with torch.no_grad():
        assert ref.error(stack(x), model(x).logits) <= ref.TOLERANCE


def _as_chatglm(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `GlmForCausalLM` under the names that were published first."""
    out = {
        "transformer.embedding.word_embeddings.weight": theirs["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": theirs["model.norm.weight"],
        "transformer.output_layer.weight": theirs["lm_head.weight"],
    }
    renamed = {
        "input_layernorm": "input_layernorm",
        "post_attention_layernorm": "post_attention_layernorm",
        "self_attn.o_proj": "self_attention.dense",
        "mlp.gate_up_proj": "mlp.dense_h_to_4h",
        "mlp.down_proj": "mlp.dense_4h_to_h",
    }
    for i in range(ref.LAYERS):
        old, new = f"model.layers.{i}", f"transformer.encoder.layers.{i}"
        for part in ("weight", "bias"):
            rows = [theirs[f"{old}.self_attn.{name}_proj.{part}"] for name in "qkv"]
            out[f"{new}.self_attention.query_key_value.{part}"] = torch.cat(rows)
        out |= {
            f"{new}.{b}.weight": theirs[f"{old}.{a}.weight"].clone() for a, b in renamed.items()
        }
    return out


Change = Callable[[StackConfig], StackConfig]


def _attn(**fields: object) -> Change:
    return lambda config: ref.in_mixer(config, "attn", **fields)


def _rope(**fields: object) -> Change:
    def change(config: StackConfig) -> StackConfig:
        rope = replace(config.layers[0].attn.rope, **fields)
        return ref.in_mixer(config, "attn", rope=rope)

    return change


def _eps(config: StackConfig) -> StackConfig:
    changed = ref.in_mixer(config, "norm", eps=1e-5)
    return replace(changed, final_norm=replace(config.final_norm, eps=1e-5))


def _head(**fields: object) -> Change:
    return lambda config: replace(config, head=replace(config.head, **fields))


def _same(config: StackConfig) -> StackConfig:
    return config


def _keep(stack: Stack) -> None: ...


@torch.no_grad()
def _zero(*endings: str, stack: Stack) -> None:
    for key, p in stack.named_parameters():
        if key.endswith(endings):
            p.zero_()


@torch.no_grad()
def _swap_gate_and_up(stack: Stack) -> None:
    for layer in stack.layers:
        gate, up = layer.ffn.gate.weight, layer.ffn.up.weight
        first = gate.clone()
        gate.copy_(up)
        up.copy_(first)


@torch.no_grad()
def _by_head(stack: Stack) -> None:
    """Fused rows read head by head instead of part after part."""
    for layer in stack.layers:
        parts = [layer.attn.q.weight, layer.attn.k.weight, layer.attn.v.weight]
        heads = layer.attn.config.num_attention_heads
        fused = torch.cat(parts).unflatten(0, (heads, 3, -1))
        for place, p in enumerate(parts):
            p.copy_(fused[:, place].reshape(p.shape))


@torch.no_grad()
def _by_part(stack: Stack) -> None:
    """Rows fused group by group read part after part."""
    for layer in stack.layers:
        parts = [layer.attn.q.weight, layer.attn.k.weight, layer.attn.v.weight]
        keys = layer.attn.config.num_key_value_heads
        fused = torch.cat([p.unflatten(0, (keys, -1)) for p in parts], 1).flatten(0, 1)
        for p, rows in zip(parts, fused.split([len(p) for p in parts]), strict=True):
            p.copy_(rows)


@torch.no_grad()
def _interleaved(stack: Stack) -> None:
    """The turned rows of q and k left as published, neighbours in a pair."""
    for layer in stack.layers:
        turned = layer.attn.config.rope.rotary_dims
        order = torch.arange(turned).view(2, -1).t().flatten()
        for linear in (layer.attn.q, layer.attn.k):
            for p in (linear.weight, linear.bias):
                heads = p.unflatten(0, (-1, layer.attn.config.head_dim))
                heads[:, :turned] = heads[:, order].clone()


def _no_mean(stack: Stack) -> None:
    for module in stack.modules():
        if isinstance(module, Norm):
            module.kind = "rms"


def _no_final_norm(stack: Stack) -> None:
    stack.config = replace(stack.config, final_norm=None)


_PLAIN = {"kind": "default", "parameters": {}}
MUTATIONS: dict[str, tuple[str, Change, Callable[[Stack], None]]] = {
    "qwen: part after part": ("qwen", _same, _by_head),
    "qwen: bias of q, k, v": (
        "qwen",
        _same,
        partial(_zero, "attn.q.bias", "attn.k.bias", "attn.v.bias"),
    ),
    "qwen: w2 is the gate": ("qwen", _same, _swap_gate_and_up),
    "qwen: rotary base": ("qwen", _rope(theta=10_000.0), _keep),
    "qwen: log-n": ("qwen-beyond", _attn(log_n=None), _keep),
    "qwen: growing rotary": ("qwen-beyond", _rope(**_PLAIN), _keep),
    "qwen: no log-n where it is off": ("qwen-beyond-plain", _attn(log_n=8), _keep),
    "qwen: output bias": ("qwen-biases", _same, partial(_zero, "attn.o.bias")),
    "qwen: mlp biases": ("qwen-biases", _same, partial(_zero, "gate.bias", "up.bias", "down.bias")),
    "qwen: epsilon": ("qwen-biases", _eps, _keep),
    "qwen: partial rotary": ("qwen-partial", _rope(rotary_dims=8), _keep),
    "baichuan: part after part": ("baichuan-7b", _same, _by_head),
    "baichuan: rotary": ("baichuan-7b", _attn(rope=None), _keep),
    "baichuan: no slopes beside rotary": ("baichuan-7b", _attn(alibi=True), _keep),
    "baichuan: gate": ("baichuan-7b", _same, _swap_gate_and_up),
    "baichuan: slopes": ("baichuan-13b", _attn(alibi=False), _keep),
    "baichuan: normalised head": ("baichuan2-7b", _head(normalised=False), _keep),
    "baichuan: plain head of 1": ("baichuan-13b", _head(normalised=True), _keep),
    "baichuan: slopes of 2": ("baichuan2-13b", _attn(alibi=False), _keep),
    "baichuan: epsilon": ("baichuan2-13b", _eps, _keep),
    "internlm2: group after group": ("internlm2", _same, _by_part),
    "internlm2: w1 is the gate": ("internlm2", _same, _swap_gate_and_up),
    "internlm2: rotary base": ("internlm2", _rope(theta=10_000.0), _keep),
    "internlm2: biases": (
        "internlm2-biases",
        _same,
        partial(_zero, "attn.q.bias", "attn.v.bias", "attn.o.bias"),
    ),
    "internlm2: epsilon": ("internlm2-biases", _eps, _keep),
    "internlm2: growing rotary": ("internlm2-beyond", _rope(**_PLAIN), _keep),
    "chatglm: neighbours in a pair": ("chatglm", _same, _interleaved),
    "chatglm: half of a head": ("chatglm", _rope(rotary_dims=8), _keep),
    "chatglm: bias of q, k, v": ("chatglm", _same, partial(_zero, "q.bias", "k.bias", "v.bias")),
    "chatglm: gate before up": ("chatglm", _same, _swap_gate_and_up),
    "chatglm: rope ratio": ("chatglm-long", _rope(theta=10_000.0), _keep),
    "chatglm: interpolated positions": (
        "chatglm2-32k",
        _rope(theta=40_000.0, **_PLAIN),
        _keep,
    ),
    "chatglm: biases": ("chatglm-biases", _same, partial(_zero, "o.bias", "up.bias", "down.bias")),
    "chatglm: LayerNorm's bias": ("chatglm-biases", _same, partial(_zero, "norm.bias")),
    "chatglm: epsilon": ("chatglm-biases", _eps, _keep),
    "chatglm: LayerNorm's mean": ("chatglm-biases", _same, _no_mean),
    "chatglm: final norm": ("chatglm", _same, _no_final_norm),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_quirk_counts(published: Callable[[str], Published], name: str) -> None:
    """Switched off, parity fails by more than a hundred times its tolerance."""
    case, config, change = MUTATIONS[name]
    stack = ref.load(published(case).folder, config)
    change(stack=stack)
    with torch.no_grad():
        found = stack(published(case).x)
    assert ref.error(found, published(case).logits) > 100 * ref.TOLERANCE
