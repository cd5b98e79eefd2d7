"""What a stack is, as plain data.

Every choice that a family makes is a field here, resolved for each layer when the checkpoint is
opened: the forward never asks which family it runs, nor at which place in the order a layer stands.
Field names follow the Hugging Face configuration keys where one exists. What a layer is made of
stands in `parts`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from laminogram.errors import ConfigError
from laminogram.stack.parts import (
    AttentionConfig,
    AttnConfig,
    ChannelMix4Config,
    ChannelMix6Config,
    ChannelMix7Config,
    FfnConfig,
    LatentAttentionConfig,
    MLPConfig,
    MoEConfig,
    NormConfig,
    RopeConfig,
    RopeKind,
    TimeMix4Config,
    TimeMix5Config,
    TimeMix6Config,
    TimeMix7Config,
)

__all__ = [
    "AttentionConfig",
    "AttnConfig",
    "Block",
    "ChannelMix4Config",
    "ChannelMix6Config",
    "ChannelMix7Config",
    "EmbeddingConfig",
    "FfnConfig",
    "HeadConfig",
    "LatentAttentionConfig",
    "LayerConfig",
    "MLPConfig",
    "MoEConfig",
    "NormConfig",
    "RopeConfig",
    "RopeKind",
    "ScoreConfig",
    "StackConfig",
    "TimeMix4Config",
    "TimeMix5Config",
    "TimeMix6Config",
    "TimeMix7Config",
    "WrappedConfig",
    "WrappedLayerConfig",
]

Block = Literal["pre", "post", "sandwich", "parallel"]


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One layer: a token mixer and a channel mixer around the residual, joined by a block equation.

    `pre`       x += attn(norm(x)); x += ffn(norm(x))
    `post`      x = norm(x + attn(x)); x = norm(x + ffn(x))
    `sandwich`  x += norm(attn(norm(x))); x += norm(ffn(norm(x)))
    `parallel`  x += attn(norm_a(x)) + ffn(norm_f(x))
    """

    block: Block
    attn: AttnConfig
    ffn: FfnConfig
    norm: NormConfig


@dataclass(frozen=True, kw_only=True)
class WrappedConfig:
    """Half a layer that another library runs: of what lies inside, only `sites` have names.

    `cache_width` numbers join the cache with each token; its width inside is not known.
    """

    sites: tuple[str, ...] = ()
    causal: bool = True
    cache_width: int = 0
    intermediate_size: int = 0
    kind: Literal["wrapped"] = "wrapped"


_INSIDE = NormConfig(kind="layer")


@dataclass(frozen=True, kw_only=True)
class WrappedLayerConfig(LayerConfig):
    """A layer that another library runs: its norms lie inside, and are never made from here."""

    attn: WrappedConfig  # type: ignore[assignment]
    ffn: WrappedConfig  # type: ignore[assignment]
    norm: NormConfig = _INSIDE

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that the layer offers."""
        return self.attn.sites + self.ffn.sites

    @property
    def halves(self) -> bool:
        """Whether either half can be run without the other."""
        return self.block != "post" and {"attn_out", "ffn_out"} <= set(self.sites)


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Token embedding, with learned absolute positions, token types and a norm where given.

    `positions` rows are for texts: the table holds `position_offset` more before them. `scale`
    multiplies the token's vector, in the precision of the table.
    """

    positions: int | None = None
    position_offset: int = 0
    scale: float = 1.0
    types: int | None = None
    norm: NormConfig | None = None


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """From the last residual to logits; `transform` is BERT's dense + activation + norm.

    `normalised` brings every row of the head's weight to length one.
    """

    tied: bool = False
    bias: bool = False
    normalised: bool = False
    transform: str | None = None
    norm: NormConfig | None = None
    pooler: bool = False
    present: bool = True


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """A reward or classifier head: `labels` numbers for each text, from one of its tokens.

    `token` is the one that is read: the first, or the last real one. `through` is the square
    product with a tanh that it passes before: the stack's `pooler`, a `dense` of the head's own, or
    none.
    """

    labels: int = 1
    token: Literal["first", "last"] = "last"
    through: Literal["pooler", "dense"] | None = None
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """A whole model as data. `source` keeps the configuration it was read from, untouched.

    `limits` says, a line each, what a model cannot give that another library runs.
    """

    family: str
    hidden_size: int
    vocab_size: int
    layers: tuple[LayerConfig, ...]
    embedding: EmbeddingConfig = EmbeddingConfig()
    final_norm: NormConfig | None = None
    head: HeadConfig = HeadConfig()
    score: ScoreConfig | None = None
    max_position_embeddings: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    limits: tuple[str, ...] = ()

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def causal(self) -> bool:
        """False for an encoder: its attention looks both ways, so it has no cache."""
        return all(getattr(layer.attn, "causal", True) for layer in self.layers)

    @property
    def recurrent(self) -> bool:
        """True where no layer keeps keys and values: the state has one size for any length."""
        keeping = ("attention", "latent", "wrapped")
        return all(layer.attn.kind not in keeping for layer in self.layers)

    @property
    def longest_text(self) -> int | None:
        """The most tokens that the model was made for; None where no such number holds: it names
        none, remembers in a state, or has slopes (ALiBi) or a stretched rotary for longer texts."""
        free = self.recurrent or any(_reads_on(layer.attn) for layer in self.layers)
        return None if free else self.max_position_embeddings

    def to_dict(self) -> dict[str, Any]:
        """A plain dictionary that `from_dict` reads back, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StackConfig:
        """The inverse of `to_dict`; ConfigError where a mixer's kind is unknown."""
        fields = dict(data)
        fields["layers"] = tuple(_layer(layer) for layer in data["layers"])
        embedding = dict(data["embedding"])
        embedding["norm"] = _norm(embedding.get("norm"))
        fields["embedding"] = EmbeddingConfig(**embedding)
        head = dict(data["head"])
        head["norm"] = _norm(head.get("norm"))
        fields["head"] = HeadConfig(**head)
        fields["final_norm"] = _norm(data.get("final_norm"))
        score = data.get("score")
        fields["score"] = None if score is None else ScoreConfig(**score)
        fields["eos_token_ids"] = tuple(data.get("eos_token_ids", ()))
        fields["limits"] = tuple(data.get("limits", ()))
        return cls(**fields)


def _reads_on(attn: Any) -> bool:
    rope = getattr(attn, "rope", None)
    return getattr(attn, "alibi", False) or (rope is not None and rope.kind in _STRETCHED)


_STRETCHED = ("linear", "dynamic", "dynamic_log2", "yarn")
"""Kinds of rotary beside which checkpoints give the length before it was stretched, or may."""

_MIXERS: dict[str, type] = {
    "attention": AttentionConfig,
    "latent": LatentAttentionConfig,
    "rwkv4_time": TimeMix4Config,
    "rwkv5_time": TimeMix5Config,
    "rwkv6_time": TimeMix6Config,
    "rwkv7_time": TimeMix7Config,
    "mlp": MLPConfig,
    "moe": MoEConfig,
    "rwkv4_channel": ChannelMix4Config,
    "rwkv6_channel": ChannelMix6Config,
    "rwkv7_channel": ChannelMix7Config,
    "wrapped": WrappedConfig,
}


def _norm(data: Mapping[str, Any] | None) -> NormConfig | None:
    return None if data is None else NormConfig(**data)


def _mixer(data: Mapping[str, Any]) -> Any:
    kind = data.get("kind")
    if kind not in _MIXERS:
        raise ConfigError(f"mixer kind {kind!r} is unknown; there are {', '.join(_MIXERS)}")
    fields = dict(data)
    if fields.get("rope") is not None:
        fields["rope"] = RopeConfig(**fields["rope"])
    for name in ("qk_norm", "norm"):
        if name in fields:
            fields[name] = _norm(fields[name])
    if "sites" in fields:
        fields["sites"] = tuple(fields["sites"])
    return _MIXERS[kind](**fields)


def _layer(data: Mapping[str, Any]) -> LayerConfig:
    made = WrappedLayerConfig if data["attn"].get("kind") == "wrapped" else LayerConfig
    return made(
        block=data["block"],
        attn=_mixer(data["attn"]),
        ffn=_mixer(data["ffn"]),
        norm=NormConfig(**data["norm"]),
    )
