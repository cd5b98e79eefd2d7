"""What a layer can be made of, as plain data: norms, rotary embeddings, mixers.

Field names follow the Hugging Face configuration keys where one exists. A new kind of mixer is a
class here with a `kind` of its own, and a place in one of the two unions at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

RopeKind = Literal[
    "default", "linear", "dynamic", "dynamic_log2", "llama3", "yarn", "longrope", "proportional"
]


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
