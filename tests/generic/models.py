"""Tiny random models of `transformers` whose families are not native, weights drawn wide enough
that what a layer does shows."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from torch import Tensor, nn

from laminogram.generic.opening import wrap
from laminogram.view import View

VOCABULARY, WIDTH, LAYERS, LONGEST = 61, 32, 3, 64
_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_WIDE = _SIZES | {"intermediate_size": 48, "max_position_embeddings": LONGEST}
_GROUPED = _WIDE | {"num_key_value_heads": 2}
_WINDOW = _GROUPED | {"head_dim": 8, "sliding_window": 4}
_OPT = _SIZES | {"ffn_dim": 48, "max_position_embeddings": LONGEST}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


def _bloom() -> Any:
    return tf.BloomConfig(vocab_size=VOCABULARY, hidden_size=WIDTH, n_layer=LAYERS, n_head=4)


def _distilbert() -> Any:
    sizes = {"dim": WIDTH, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48}
    return tf.DistilBertConfig(vocab_size=VOCABULARY, max_position_embeddings=LONGEST, **sizes)


CONFIGS: dict[str, Any] = {
    "opt": lambda: tf.OPTConfig(**_OPT, word_embed_proj_dim=16),
    "opt-post": lambda: tf.OPTConfig(**_OPT, word_embed_proj_dim=WIDTH, do_layer_norm_before=False),
    "falcon": lambda: tf.FalconConfig(**_SIZES),
    "falcon-alibi": lambda: tf.FalconConfig(**_SIZES, alibi=True, parallel_attn=False),
    "bloom": _bloom,
    "stablelm": lambda: tf.StableLmConfig(**_GROUPED),
    "olmo2": lambda: tf.Olmo2Config(**_GROUPED),
    "gemma2": lambda: tf.Gemma2Config(**_WINDOW),
    "gemma3": lambda: tf.Gemma3TextConfig(**_WINDOW),
    "granite": lambda: tf.GraniteConfig(
        **_GROUPED, residual_multiplier=0.22, embedding_multiplier=3.0, logits_scaling=2.0
    ),
    "phi": lambda: tf.PhiConfig(**_WIDE),
    "olmoe": lambda: tf.OlmoeConfig(**_WIDE, **_EXPERTS),
    "mamba": lambda: tf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=4
    ),
    "distilbert": _distilbert,
    "xlm-roberta": lambda: tf.XLMRobertaConfig(**_WIDE),
}
ENCODERS = ("distilbert", "xlm-roberta")
CACHELESS = ("mamba",)
CAUSAL = tuple(name for name in CONFIGS if name not in ENCODERS)
CACHED = tuple(name for name in CAUSAL if name not in CACHELESS)


def draw(model: nn.Module, seed: int = 1) -> Any:
    """The model with its weights drawn: matrices of 0.3, vectors that far from where they were."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            noise = 0.3 * torch.randn(weight.shape, generator=generator)
            weight.copy_(noise if weight.dim() > 1 else weight + noise)
    return model.eval()


def fresh(name: str) -> Any:
    """A model of its own, which a test may change."""
    kind = tf.AutoModelForMaskedLM if name in ENCODERS else tf.AutoModelForCausalLM
    with torch.random.fork_rng():
        torch.manual_seed(0)  # some vectors are drawn around random places
        return draw(kind.from_config(CONFIGS[name]()))


@cache
def model_of(name: str) -> Any:
    """One model for all tests; not to be changed."""
    return fresh(name)


def view_of(model: Any, *, causal: bool = True) -> View:
    stack = wrap(model, causal=causal)
    return View(stack, None, model.config.model_type, stack.full_plan())


@cache
def wrapped(name: str) -> View:
    """The view of `model_of(name)`: of the same modules."""
    return view_of(model_of(name), causal=name not in ENCODERS)


def ids_of(rows: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=generator)


@torch.no_grad()
def logits_of(model: Any, ids: Tensor, **more: Any) -> Tensor:
    """What the model of transformers says itself."""
    return model(input_ids=ids, use_cache=False, **more).logits


def apart(found: Tensor, expected: Tensor) -> float:
    """max|a - b| / max|b|."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def saved(name: str, folder: Path) -> Path:
    model_of(name).save_pretrained(folder)
    return folder
