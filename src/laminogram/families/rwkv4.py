"""RWKV-4: BlinkDL's names, Hugging Face's names, and the files that the `rwkv` package converts to.

Against fp16 overflow two programs store the output weights of layer i divided by 2 ** (i // n). The
converted files of the `rwkv` package say so themselves (`_rescale_layer`). A `transformers` model
saved after a forward pass in eval mode does not: its weights cannot be told from others, so the
caller says `rescaled=n` (transformers' `rescale_every`, 6 unless changed).
"""

from __future__ import annotations

from typing import Any

from laminogram.families._blink import LAYER, generation, layer_count, size
from laminogram.families._rwkv import BLINK, HF, OURS, SAID, letters, mixes, shared
from laminogram.families._text import RWKV
from laminogram.families.base import (
    PTH,
    Family,
    Fields,
    Halved,
    Layout,
    NegativeExponential,
    Rename,
    Shapes,
    Target,
    Transpose,
)
from laminogram.stack.config import (
    ChannelMix4Config,
    EmbeddingConfig,
    HeadConfig,
    LayerConfig,
    NormConfig,
    StackConfig,
    TimeMix4Config,
)


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.raw("rescale_every")  # how transformers runs the model, not what it computes
    hidden = fields.integer("hidden_size")
    norm = NormConfig(kind="layer", eps=fields.number("layer_norm_epsilon", 1e-5), bias=True)
    # The last norm does not read the configuration's epsilon in any published implementation.
    final = NormConfig(kind="layer", eps=1e-5, bias=True)
    layer = LayerConfig(
        block="pre",
        norm=norm,
        attn=TimeMix4Config(attention_size=fields.integer("attention_hidden_size", hidden)),
        ffn=ChannelMix4Config(
            intermediate_size=fields.integer("intermediate_size", 4 * hidden),
        ),
    )
    folded = shapes is not None and "emb.weight" in shapes and "blocks.0.ln0.weight" not in shapes
    return StackConfig(
        family="rwkv4",
        hidden_size=hidden,
        vocab_size=fields.integer("vocab_size"),
        layers=(layer,) * fields.integer("num_hidden_layers"),
        # A converted file holds the embedding after its norm.
        embedding=EmbeddingConfig(norm=None if folded else norm),
        final_norm=final,
        head=HeadConfig(tied=fields.flag("tie_word_embeddings", False)),
        max_position_embeddings=fields.optional("context_length"),
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


def _recognise(shapes: Shapes) -> dict[str, Any] | None:
    if generation(shapes) != 4:
        return None
    # Converted matrices are stored transposed, so the sizes come from what keeps its form.
    attention = size(shapes, "blocks.0.att.time_decay", -1)
    key = [size(shapes, "blocks.0.ffn.key.weight", axis) for axis in (0, 1)]
    vocabulary, hidden = (size(shapes, "emb.weight", axis) for axis in (0, 1))
    inner = key[1] if key[0] == hidden and key[1] != hidden else key[0]
    return {
        "model_type": "rwkv",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "attention_hidden_size": attention,
        "intermediate_size": inner,
        "num_hidden_layers": layer_count(shapes, f"{LAYER}.att.time_decay"),
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def _blink(name: str, *, converted: bool) -> Layout:
    turn = (Transpose(),) if converted else ()
    halved = (Halved("_rescale_layer"),) if converted else ()
    decay = (NegativeExponential(),) if converted else ()
    return Layout(
        name=name,
        marks=("emb.weight", f"{LAYER}.att.time_mix_k", *(("_strategy",) if converted else ())),
        rules=(
            *shared(BLINK, turn, halved, first_norm=not converted),
            Rename(f"{LAYER}.att.time_decay", f"{OURS}.attn.decay", *decay),
            Rename(f"{LAYER}.att.time_first", f"{OURS}.attn.bonus"),
            *mixes(f"{LAYER}.att.time_mix_", "attn", letters("kvr")),
            *mixes(f"{LAYER}.ffn.time_mix_", "ffn", letters("kr")),
        ),
        options=("_strategy", "_version", "_rescale_layer") if converted else (),
        target=None if converted else PTH,
    )


def _hf() -> Layout:
    return Layout(
        name="hf",
        marks=(HF.embedding, f"{HF.attention}.time_decay"),
        rules=(
            *shared(HF, (), (Halved("rescaled"),)),
            Rename(f"{HF.attention}.time_decay", f"{OURS}.attn.decay"),
            Rename(f"{HF.attention}.time_first", f"{OURS}.attn.bonus"),
            *mixes(
                f"{HF.attention}.time_mix_", "attn", {"key": "k", "value": "v", "receptance": "r"}
            ),
            *mixes(f"{HF.ffn}.time_mix_", "ffn", {"key": "k", "receptance": "r"}),
        ),
        duplicates=(("head.weight", HF.embedding),),
        options=("rescaled",),
        target=Target(
            "RwkvForCausalLM",
            SAID,
            # Nothing ends there: it is how long a text its CUDA kernel takes at once.
            {"context_length": lambda config: config.max_position_embeddings or 1024},
        ),
    )


FAMILY = Family(
    name="rwkv4",
    summary="recurrent: exponential-decay time mixing, squared-ReLU channel mixing",
    model_types=("rwkv",),
    architectures=("RwkvForCausalLM",),
    configure=_configure,
    layouts=(_hf(), _blink("rwkv-converted", converted=True), _blink("blink", converted=False)),
    recognise=_recognise,
    text=RWKV,
)
