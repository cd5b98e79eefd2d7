"""What a stack is, as plain data.

Every choice that a family makes is a field here, resolved for each layer when the checkpoint is
opened: the forward never asks which family it runs, nor at which place in the order a layer stands.
Field names follow the Hugging Face configuration keys where one exists.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from laminogram.errors import ConfigError

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope", "proportional"]
Block = Literal["pre", "post", "parallel"]


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding of one attention layer.

    `rotary_dims` is how many of a head's channels turn (the first ones); `parameters` holds what
    the kind needs beyond theta, under the Hugging Face names (`factor`, `low_freq_factor`, ...).
    """

    theta: float
    rotary_dims: int
    kind: RopeKind = "default"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    max_position_embeddings: int = 2048


@dataclass(frozen=True, kw_only=True)
class NormConfig:
    """A normalisation: `rms` (no mean) or `layer` (mean and variance), over the last axis."""

    kind: Literal["rms", "layer"]
    eps: float = 1e-5
    bias: bool = False


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Softmax attention with grouped keys: `num_key_value_heads` heads of `k` and `v`."""

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qkv_bias: bool = False
    o_bias: bool = False
    rope: RopeConfig | None = None
    causal: bool = True
    window: int | None = None
    scale: float | None = None
    kind: Literal["attention"] = "attention"


@dataclass(frozen=True, kw_only=True)
class TimeMix4Config:
    """RWKV-4 time mixing, `attention_size` channels wide."""

    attention_size: int
    kind: Literal["rwkv4_time"] = "rwkv4_time"


@dataclass(frozen=True, kw_only=True)
class TimeMix7Config:
    """RWKV-7 time mixing. The ranks are those of its low-rank products, read from their shapes."""

    num_attention_heads: int
    head_dim: int
    decay_rank: int
    a_rank: int
    v_rank: int
    gate_rank: int
    group_norm_eps: float = 64e-5
    provides_v_first: bool = False
    kind: Literal["rwkv7_time"] = "rwkv7_time"


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """A feed-forward network; `gated` multiplies the activated gate with a second projection."""

    intermediate_size: int
    activation: str
    gated: bool = False
    bias: bool = False
    kind: Literal["mlp"] = "mlp"


@dataclass(frozen=True, kw_only=True)
class ChannelMix4Config:
    """RWKV-4 channel mixing: squared ReLU behind a token shift, with a sigmoid receptance."""

    intermediate_size: int
    kind: Literal["rwkv4_channel"] = "rwkv4_channel"


@dataclass(frozen=True, kw_only=True)
class ChannelMix7Config:
    """RWKV-7 channel mixing: squared ReLU behind a token shift, no receptance."""

    intermediate_size: int
    kind: Literal["rwkv7_channel"] = "rwkv7_channel"


AttnConfig = AttentionConfig | TimeMix4Config | TimeMix7Config
FfnConfig = MLPConfig | ChannelMix4Config | ChannelMix7Config


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """One layer: a token mixer and a channel mixer around the residual, joined by a block equation.

    `pre`       x += attn(norm(x)); x += ffn(norm(x))
    `post`      x = norm(x + attn(x)); x = norm(x + ffn(x))
    `parallel`  x += attn(norm_a(x)) + ffn(norm_f(x))
    """

    block: Block
    attn: AttnConfig
    ffn: FfnConfig
    norm: NormConfig


@dataclass(frozen=True, kw_only=True)
class EmbeddingConfig:
    """Token embedding, with learned absolute positions, token types and a norm where given."""

    positions: int | None = None
    types: int | None = None
    norm: NormConfig | None = None


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """From the last residual to logits; `transform` is BERT's dense + activation + norm."""

    tied: bool = False
    bias: bool = False
    transform: str | None = None
    norm: NormConfig | None = None
    pooler: bool = False
    present: bool = True


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """A whole model as data. `source` keeps the configuration it was read from, untouched."""

    family: str
    hidden_size: int
    vocab_size: int
    layers: tuple[LayerConfig, ...]
    embedding: EmbeddingConfig = EmbeddingConfig()
    final_norm: NormConfig | None = None
    head: HeadConfig = HeadConfig()
    max_position_embeddings: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

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
        return all(layer.attn.kind != "attention" for layer in self.layers)

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
        fields["eos_token_ids"] = tuple(data.get("eos_token_ids", ()))
        return cls(**fields)


_MIXERS: dict[str, type] = {
    "attention": AttentionConfig,
    "rwkv4_time": TimeMix4Config,
    "rwkv7_time": TimeMix7Config,
    "mlp": MLPConfig,
    "rwkv4_channel": ChannelMix4Config,
    "rwkv7_channel": ChannelMix7Config,
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
    return _MIXERS[kind](**fields)


def _layer(data: Mapping[str, Any]) -> LayerConfig:
    return LayerConfig(
        block=data["block"],
        attn=_mixer(data["attn"]),
        ffn=_mixer(data["ffn"]),
        norm=NormConfig(**data["norm"]),
    )
