"""The transformers models that parity is held against, one tiny random model for each case, and
how a stack is compared with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tests.families import reference as ref
from torch import nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    RwkvConfig,
    RwkvForCausalLM,
)

from laminogram.checkpoint.load import describe
from laminogram.checkpoint.loading import bind

GRADIENT_TOLERANCE = 1e-3  # sharp attention multiplies the rounding of the forward
SIZES: dict[str, Any] = {
    "vocab_size": ref.VOCAB,
    "hidden_size": ref.HIDDEN,
    "num_hidden_layers": ref.LAYERS,
}
WIDE: dict[str, Any] = SIZES | {
    "intermediate_size": 48,
    "num_attention_heads": ref.HEADS,
    "max_position_embeddings": 32,
}
FACTORS = {"short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [2.0, 3.0, 4.0, 6.0]}
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"factor": 3.0},
    "dynamic": {"factor": 4.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 8},
    "longrope": {"original_max_position_embeddings": 20, **FACTORS},
    "proportional": {"partial_rotary_factor": 0.5},
}


class Case(NamedTuple):
    """A model class, its configuration, and how many tokens to run."""

    model: Callable[[Any], nn.Module]
    config: Any
    length: int = 23


def _llama(length: int = 23, **fields: Any) -> Case:
    return Case(LlamaForCausalLM, LlamaConfig(**WIDE | fields), length)


def _rope(kind: str, length: int = 23, **fields: Any) -> Case:
    parameters = {"rope_type": kind, "rope_theta": 100.0, **ROPES[kind]}
    return _llama(length, rope_parameters=parameters, **fields)


def cases() -> dict[str, Case]:
    neox = WIDE | {"intermediate_size": 64}
    return {
        "llama": _llama(),
        "llama-gqa": _llama(num_key_value_heads=2, rms_norm_eps=0.3),
        "llama-mqa": _llama(num_key_value_heads=1),
        "llama-biases": _llama(attention_bias=True, mlp_bias=True),
        "llama-tied": _llama(tie_word_embeddings=True),
        "llama-head-dim": _llama(head_dim=12, num_key_value_heads=2),
        "llama-gelu": _llama(hidden_act="gelu_pytorch_tanh"),
        **{f"rope-{kind}": _rope(kind) for kind in ROPES},
        "rope-dynamic-beyond": _rope("dynamic", 47),
        "rope-longrope-within": _rope("longrope", 12),
        "neox": Case(GPTNeoXForCausalLM, GPTNeoXConfig(**neox, layer_norm_eps=0.3)),
        "neox-sequential": Case(
            GPTNeoXForCausalLM, GPTNeoXConfig(**neox, use_parallel_residual=False)
        ),
        "neox-half-rotary": Case(
            GPTNeoXForCausalLM,
            GPTNeoXConfig(
                **neox,
                rope_parameters={
                    "rope_type": "default",
                    "partial_rotary_factor": 0.5,
                    "rope_theta": 500.0,
                },
                hidden_act="gelu_new",
            ),
        ),
        "neox-no-attention-bias": Case(
            GPTNeoXForCausalLM, GPTNeoXConfig(**neox, attention_bias=False)
        ),
        "neox-tied": Case(GPTNeoXForCausalLM, GPTNeoXConfig(**neox, tie_word_embeddings=True)),
        "bert": Case(BertForMaskedLM, BertConfig(**WIDE, layer_norm_eps=0.3)),
        "bert-untied": Case(BertForMaskedLM, BertConfig(**WIDE, tie_word_embeddings=False)),
        "rwkv": Case(RwkvForCausalLM, RwkvConfig(**SIZES, rescale_every=0)),
        "rwkv-wide": Case(
            RwkvForCausalLM,
            RwkvConfig(
                **SIZES,
                attention_hidden_size=48,
                intermediate_size=80,
                rescale_every=0,
                layer_norm_epsilon=0.3,
                use_cache=False,  # its cache has the hidden size, whatever the attention's
            ),
        ),
    }


def bert_base() -> nn.Module:
    """A BertModel: pooler, no masked-LM head, names without `bert.`."""
    return ref.draw(BertModel(BertConfig(**WIDE)))


def build(case: Case, folder: Path) -> nn.Module:
    """The model with its random weights, also saved in `folder` before it ran once."""
    model = ref.draw(case.model(case.config))
    if case.model is BertForMaskedLM:  # an untied head of transformers has its bias twice
        with torch.no_grad():
            head = model.cls.predictions
            head.decoder.bias.copy_(head.bias)
    model.save_pretrained(folder)
    return model


class Pair:
    """A case's model, its folder, its tokens and its logits; made once."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.folder, self.model = folder, build(case, folder)
        self.x = ref.tokens(2, case.length)
        with torch.no_grad():
            out = self.model(self.x, output_hidden_states=True)
        self.logits, self.hidden = out.logits, out.hidden_states


def check_logits_and_layers(pair: Pair) -> None:
    """Logits, and what every layer but the last leaves in the residual stream."""
    with torch.no_grad():
        states, logits = ref.hidden_states(ref.load(pair.folder), pair.x)
    assert ref.error(logits, pair.logits) <= ref.TOLERANCE
    # transformers puts the embedding first, but for RWKV, and the final norm into the last entry.
    first = 0 if isinstance(pair.model, RwkvForCausalLM) else 1
    for mine, want in zip(states, pair.hidden[first:-1], strict=False):
        assert ref.error(mine, want) <= ref.TOLERANCE


def check_gradients(pair: Pair) -> None:
    """Every parameter's gradient, theirs brought into our layout by the family's own mapping."""
    described = describe(pair.folder)
    stack = ref.fill(described, described.config)
    weights = torch.randn(pair.logits.shape, generator=torch.Generator().manual_seed(3))
    (stack(pair.x) * weights).sum().backward()
    pair.model.train()  # RWKV scales its weights back; no dropout is on
    for module in pair.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    pair.model.zero_grad()
    (pair.model(pair.x).logits * weights).sum().backward()
    pair.model.eval()
    grads = {key: p.grad for key, p in pair.model.named_parameters()}
    if "embed_out.weight" in described.checkpoint.tensors:  # called otherwise in memory
        grads["embed_out.weight"] = pair.model.get_output_embeddings().weight.grad
    mapping = bind(described.checkpoint, described.layout, described.config)
    # A key bias without rotary has no gradient but rounding: judged on the scale of the others.
    floor = 1e-3 * max(float(grad.abs().max()) for grad in grads.values() if grad is not None)
    for key, p in stack.named_parameters():
        bound = mapping.ours(key)
        assert bound is not None
        assert p.grad is not None, key
        want = bound.read(lambda theirs: grads[theirs])
        scale = max(float(want.abs().max()), floor)
        assert float((p.grad - want).abs().max()) <= GRADIENT_TOLERANCE * scale, key
