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

RopeKind = Literal[
    "default", "linear", "dynamic", "dynamic_log2", "llama3", "yarn", "longrope", "proportional"
]
Block = Literal["pre", "post", "sandwich", "parallel"]


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
    """A normalisation: `rms` (no mean) or `layer` (mean and variance), over the last axis.

    `offset` is added to the stored weight: 1.0 where a model learned its distance from one.
    """

    kind: Literal["rms", "layer"]
    eps: float = 1e-5
    bias: bool = False
    offset: float = 0.0


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """Softmax attention with grouped keys: `num_key_value_heads` heads of `k` and `v`.

    `qk_norm` acts on each head of q and k before the rotary turn. `alibi` lowers a score by the
    head's slope for each position between query and key. `log_n` multiplies a query beyond that
    many tokens by the logarithm of its place to that base. `scale` None is 1 / sqrt(head_dim).
    """

    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    qkv_bias: bool = False
    o_bias: bool = False
    rope: RopeConfig | None = None
    causal: bool = True
    window: int | None = None
    scale: float | None = None
    qk_norm: NormConfig | None = None
    alibi: bool = False
    log_n: int | None = None
    kind: Literal["attention"] = "attention"


@dataclass(frozen=True, kw_only=True)
class LatentAttentionConfig:
    """Multi-head latent attention: the keys and values of all heads from one narrow latent.

    A head's key is `qk_nope_head_dim` channels of its own from the latent and `qk_rope_head_dim`
    turned ones that all heads share. Queries pass through a latent of their own where
    `q_lora_rank` is given. `norm` is that of both latents; `scale` None is
    1 / sqrt(qk_nope_head_dim + qk_rope_head_dim).
    """

    num_attention_heads: int
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int
    rope: RopeConfig
    norm: NormConfig
    q_lora_rank: int | None = None
    bias: bool = False
    scale: float | None = None
    kind: Literal["latent"] = "latent"

    @property
    def qk_head_dim(self) -> int:
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_size(self) -> int:
        """What the cache keeps of a token, for all heads together."""
        return self.kv_lora_rank + self.qk_rope_head_dim


@dataclass(frozen=True, kw_only=True)
class TimeMix4Config:
    """RWKV-4 time mixing, `attention_size` channels wide."""

    attention_size: int
    kind: Literal["rwkv4_time"] = "rwkv4_time"


@dataclass(frozen=True, kw_only=True)
class TimeMix5Config:
    """RWKV-5 time mixing: heads with a matrix state each, and a decay that is learned.

    `per_channel` false: one decay and one bonus for a whole head (5.0, 5.1). `log_bonus`: the bonus
    is held as its logarithm (`time_first`). `initial_state`: the state before the first token was
    tuned.
    """

    num_attention_heads: int
    head_dim: int
    gate: bool = True
    per_channel: bool = True
    log_bonus: bool = False
    group_norm_eps: float = 64e-5
    initial_state: bool = False
    kind: Literal["rwkv5_time"] = "rwkv5_time"


@dataclass(frozen=True, kw_only=True)
class TimeMix6Config:
    """RWKV-6 time mixing: decay and token shift depend on the input, through low-rank products.

    `mix_rank` is that of each of the five token shifts; `initial_state` as in RWKV-5.
    """

    num_attention_heads: int
    head_dim: int
    mix_rank: int
    decay_rank: int
    group_norm_eps: float = 64e-5
    initial_state: bool = False
    kind: Literal["rwkv6_time"] = "rwkv6_time"


@dataclass(frozen=True, kw_only=True)
class TimeMix7Config:
    """RWKV-7 time mixing. The ranks are those of its low-rank products, read from their shapes.

    `initial_state`: the state before the first token was tuned.
    """

    num_attention_heads: int
    head_dim: int
    decay_rank: int
    a_rank: int
    v_rank: int
    gate_rank: int
    group_norm_eps: float = 64e-5
    provides_v_first: bool = False
    initial_state: bool = False
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
class MoEConfig:
    """A mixture of gated feed-forward networks, of which each token meets a few.

    `scoring` makes scores of the router's product, in fp32; `router_fp32` forms the product itself
    there. The `num_experts_per_tok` best are chosen: with `correction_bias` by score + bias, and
    with more than one group (`n_group` neighbouring runs of experts) among the `topk_group` best
    groups, a group counting by its best expert or the sum of its `best_of_group` best. What weighs
    is the score, without the bias, divided by the sum of the chosen (`norm_topk_prob`), times
    `routed_scaling_factor`. `shared_intermediate_size` is the width of a network that every token
    meets besides, `shared_gate` its sigmoid gate.
    """

    num_experts: int
    num_experts_per_tok: int
    intermediate_size: int
    activation: str
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    router_fp32: bool = False
    norm_topk_prob: bool = False
    routed_scaling_factor: float = 1.0
    correction_bias: bool = False
    n_group: int = 1
    topk_group: int = 1
    best_of_group: int = 1
    shared_intermediate_size: int | None = None
    shared_gate: bool = False
    kind: Literal["moe"] = "moe"


@dataclass(frozen=True, kw_only=True)
class ChannelMix4Config:
    """RWKV-4 channel mixing: squared ReLU behind a token shift, with a sigmoid receptance."""

    intermediate_size: int
    kind: Literal["rwkv4_channel"] = "rwkv4_channel"


@dataclass(frozen=True, kw_only=True)
class ChannelMix6Config:
    """RWKV-6 channel mixing: RWKV-4's, with the token shift the other way round."""

    intermediate_size: int
    kind: Literal["rwkv6_channel"] = "rwkv6_channel"


@dataclass(frozen=True, kw_only=True)
class ChannelMix7Config:
    """RWKV-7 channel mixing: squared ReLU behind a token shift, no receptance."""

    intermediate_size: int
    kind: Literal["rwkv7_channel"] = "rwkv7_channel"


AttnConfig = (
    AttentionConfig
    | LatentAttentionConfig
    | TimeMix4Config
    | TimeMix5Config
    | TimeMix6Config
    | TimeMix7Config
)
FfnConfig = MLPConfig | MoEConfig | ChannelMix4Config | ChannelMix6Config | ChannelMix7Config


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


@dataclass(frozen=True, kw_only=True)
class WrappedLayerConfig(LayerConfig):
    """A layer that another library runs: its norms lie inside, and are never made from here."""

    attn: WrappedConfig  # type: ignore[assignment]
    ffn: WrappedConfig  # type: ignore[assignment]
    norm: NormConfig = NormConfig(kind="layer")

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
