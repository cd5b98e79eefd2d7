"""What the BERT-like encoders share: post-norm layers, learned positions, names of the tensors."""

from __future__ import annotations

from laminogram.families.base import Fields, Rename, Rule, Shapes, heads, named
from laminogram.stack.config import (
    AttentionConfig,
    EmbeddingConfig,
    HeadConfig,
    LayerConfig,
    MLPConfig,
    NormConfig,
    ScoreConfig,
    StackConfig,
)


def configure_encoder(
    fields: Fields,
    *,
    head: HeadConfig,
    score: ScoreConfig | None = None,
    position_offset: int = 0,
) -> StackConfig:
    """The stack of a BERT-like configuration. Of its table of positions the first
    `position_offset` rows belong to no text."""
    fields.only("position_embedding_type", "absolute")
    fields.only("is_decoder", False)
    fields.flag("tie_word_embeddings", True)
    count, head_dim = heads(fields)
    norm = encoder_norm(fields)
    positions = fields.integer("max_position_embeddings", 512) - position_offset
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
        family=fields.family,
        hidden_size=fields.integer("hidden_size"),
        vocab_size=fields.integer("vocab_size"),
        layers=(layer,) * fields.integer("num_hidden_layers"),
        embedding=EmbeddingConfig(
            positions=positions,
            position_offset=position_offset,
            types=fields.integer("type_vocab_size", 2),
            norm=norm,
        ),
        head=head,
        score=score,
        max_position_embeddings=positions,
        bos_token_id=fields.token("bos_token_id"),
        eos_token_ids=fields.tokens("eos_token_id"),
    )


def encoder_norm(fields: Fields) -> NormConfig:
    """The one kind of norm that an encoder of this configuration has."""
    return NormConfig(kind="layer", eps=fields.number("layer_norm_eps", 1e-12), bias=True)


def has(fields: Fields, shapes: Shapes | None, ending: str, *classes: str) -> bool:
    """Whether a part is there: by its tensors; without tensors, by the class's name."""
    if shapes is not None:
        return any(key.endswith(ending) for key in shapes)
    return any(name in classes for name in fields.listed("architectures"))


def encoder_rules(prefix: str) -> tuple[Rule, ...]:
    """Embeddings, layers and pooler under the names that BERT gave them."""
    layer, ours, embeddings = prefix + "encoder.layer.{i}", "layers.{i}", f"{prefix}embeddings"
    return (
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
    )
