"""BERT: a post-norm encoder with learned positions and token types, masked-LM head and pooler."""

from __future__ import annotations

from laminogram.families.base import Family, Fields, Layout, Rename, Shapes, heads, named
from laminogram.stack.config import (
    AttentionConfig,
    EmbeddingConfig,
    HeadConfig,
    LayerConfig,
    MLPConfig,
    NormConfig,
    StackConfig,
)

_WITH_HEAD = ("BertForMaskedLM", "BertForPreTraining")
_WITH_POOLER = ("BertModel", "BertForPreTraining")


def _head(fields: Fields, shapes: Shapes | None, norm: NormConfig) -> HeadConfig:
    """The parts that the tensors have; without tensors, those that the class's name promises."""
    names = fields.raw("architectures", ["BertForMaskedLM"])
    if shapes is not None:
        present = any(key.startswith("cls.predictions.") for key in shapes)
        pooler = any(key.endswith("pooler.dense.weight") for key in shapes)
    else:
        present = any(name in _WITH_HEAD for name in names)
        pooler = any(name in _WITH_POOLER for name in names)
    if not present:
        return HeadConfig(tied=False, present=False, pooler=pooler)
    return HeadConfig(
        tied=fields.flag("tie_word_embeddings", True),
        bias=True,
        transform=fields.activation("hidden_act", "gelu"),
        norm=norm,
        pooler=pooler,
    )


def _configure(fields: Fields, shapes: Shapes | None) -> StackConfig:
    fields.only("position_embedding_type", "absolute")
    fields.only("is_decoder", False)
    fields.flag("tie_word_embeddings", True)
    count, head_dim = heads(fields)
    norm = NormConfig(kind="layer", eps=fields.number("layer_norm_eps", 1e-12), bias=True)
    positions = fields.integer("max_position_embeddings", 512)
    layer = LayerConfig(
        block="post",
        norm=norm,
        attn=AttentionConfig(
            num_attention_heads=count,
            num_key_value_heads=count,
            head_dim=head_dim,
            qkv_bias=True,
            o_bias=True,
            causal=False,
        ),
        ffn=MLPConfig(
            intermediate_size=fields.integer("intermediate_size"),
            activation=fields.activation("hidden_act", "gelu"),
            bias=True,
        ),
    )
    return StackConfig(
        family="bert",
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        layers=(layer,) * fields.integer("num_hidden_layers"),
        embedding=EmbeddingConfig(
            positions=positions, types=fields.integer("type_vocab_size", 2), norm=norm
        ),
        head=_head(fields, shapes, norm),
        max_position_embeddings=positions,
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


def _layout(name: str, prefix: str) -> Layout:
    layer, ours = prefix + "encoder.layer.{i}", "layers.{i}"
    embeddings, predictions = f"{prefix}embeddings", "cls.predictions"
    return Layout(
        name=name,
        marks=(f"{layer}.attention.self.query.weight",),
        rules=(
            Rename(f"{embeddings}.word_embeddings.weight", "embed.tokens.weight"),
            Rename(f"{embeddings}.position_embeddings.weight", "embed.positions.weight"),
            Rename(f"{embeddings}.token_type_embeddings.weight", "embed.types.weight"),
            *named(f"{embeddings}.LayerNorm", "embed.norm"),
            *named(f"{layer}.attention.self.query", f"{ours}.attn.q"),
            *named(f"{layer}.attention.self.key", f"{ours}.attn.k"),
            *named(f"{layer}.attention.self.value", f"{ours}.attn.v"),
            *named(f"{layer}.attention.output.dense", f"{ours}.attn.o"),
            *named(f"{layer}.attention.output.LayerNorm", f"{ours}.attn_norm"),
            *named(f"{layer}.intermediate.dense", f"{ours}.ffn.up"),
            *named(f"{layer}.output.dense", f"{ours}.ffn.down"),
            *named(f"{layer}.output.LayerNorm", f"{ours}.ffn_norm"),
            *named(f"{prefix}pooler.dense", "pooler"),
            *named(f"{predictions}.transform.dense", "head.transform"),
            *named(f"{predictions}.transform.LayerNorm", "head.norm"),
            Rename(f"{predictions}.bias", "head.bias"),
            Rename(f"{predictions}.decoder.weight", "head.weight"),
        ),
        # The next-sentence classifier belongs to pre-training; nothing here computes it.
        ignore=(f"{embeddings}.position_ids", "cls.seq_relationship.*"),
        duplicates=(
            (f"{predictions}.decoder.weight", f"{embeddings}.word_embeddings.weight"),
            (f"{predictions}.decoder.bias", f"{predictions}.bias"),
        ),
        aliases=((".LayerNorm.gamma", ".LayerNorm.weight"), (".LayerNorm.beta", ".LayerNorm.bias")),
    )


FAMILY = Family(
    name="bert",
    summary="post-norm encoder, learned positions, token types, masked-LM head, pooler",
    model_types=("bert",),
    architectures=("BertForMaskedLM", "BertModel", "BertForPreTraining"),
    configure=_configure,
    harmless=(
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ),
    layouts=(_layout("hf", "bert."), _layout("hf-base", "")),
)
