"""What a configuration says of a stack: the inverse of reading one, as data.

A layout that can be written from another family's model lists the fields of its configuration by
their Hugging Face names. What a field cannot say is not decided here: the configuration is read
back, and what comes out otherwise than it went in is what the family cannot express.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from laminogram.errors import ConfigError
from laminogram.stack.config import AttentionConfig, RopeConfig, StackConfig

Value = Callable[[StackConfig], Any]
KINDS = {
    "attention": "softmax attention",
    "latent": "multi-head latent attention",
    "mlp": "a dense feed-forward network",
    "moe": "a mixture of experts",
    **{f"rwkv{n}_time": f"the time mixing of RWKV-{n}" for n in (4, 5, 6, 7)},
    **{f"rwkv{n}_channel": f"the channel mixing of RWKV-{n}" for n in (4, 6, 7)},
}
"""What a mixer's kind is called."""


@dataclass(frozen=True)
class Target:
    """How a stack is told in a layout's configuration.

    architecture: the class that opens it. fields: names of `VALUES`. special: fields with a value
    of their own. opened_by: the program that reads the result. standalone: a single `.pth` file
    without a configuration, which tells its sizes by its tensors.
    """

    architecture: str = ""
    fields: tuple[str, ...] = ()
    special: Mapping[str, Value] = field(default_factory=dict)
    opened_by: str = "transformers"
    standalone: bool = False

    def source(
        self, config: StackConfig, model_type: str, names: Mapping[str, str]
    ) -> dict[str, Any]:
        """The contents of config.json; ConfigError where the stack has no such parts at all."""
        values = {name: VALUES[name](config) for name in self.fields}
        values |= {name: value(config) for name, value in self.special.items()}
        architecture = self.architecture
        if config.score is not None:
            architecture = architecture.replace("ForCausalLM", "ForSequenceClassification")
            values["num_labels"] = config.score.labels
        eos = list(config.eos_token_ids)
        said = {names.get(name, name): value for name, value in values.items()}
        return {
            "architectures": [architecture],
            "model_type": model_type,
            **said,
            "bos_token_id": config.bos_token_id,
            "eos_token_id": eos[0] if len(eos) == 1 else eos or None,
            "pad_token_id": _token(config.source.get("pad_token_id")),
        }


def attention(config: StackConfig) -> AttentionConfig:
    """The softmax attention of the first layer; ConfigError where it mixes tokens otherwise."""
    mixer = config.layers[0].attn
    if not isinstance(mixer, AttentionConfig):
        raise ConfigError(f"it has {KINDS[mixer.kind]}")
    return mixer


def rope(config: StackConfig) -> RopeConfig:
    """The rotary embedding of the first layer; ConfigError where there is none."""
    found = attention(config).rope
    if found is None:
        learned = config.embedding.positions is not None
        instead = "learned positions" if learned else "slopes (ALiBi)"
        raise ConfigError(f"it has {instead} and no rotary embedding")
    return found


def _rope_parameters(config: StackConfig) -> dict[str, Any]:
    turned, head = rope(config), attention(config).head_dim
    partial = turned.rotary_dims != head
    return {
        "rope_type": turned.kind,
        "rope_theta": turned.theta,
        **turned.parameters,
        **({"partial_rotary_factor": turned.rotary_dims / head} if partial else {}),
    }


def rope_with_share(config: StackConfig) -> dict[str, Any]:
    """The same for a family that turns a part of each head, and says so."""
    if rope(config).kind == "proportional":
        raise ConfigError("its rotary embedding is a proportion of whole heads")
    share = rope(config).rotary_dims / attention(config).head_dim
    return {"partial_rotary_factor": share} | _rope_parameters(config)


def _old_rope_scaling(config: StackConfig) -> dict[str, Any] | None:
    """As the first programs read it, which know two kinds."""
    turned = rope(config)
    if turned.kind not in ("default", "linear", "dynamic"):
        raise ConfigError(f"its rotary embedding is of the kind {turned.kind!r}")
    return None if turned.kind == "default" else {"type": turned.kind, **turned.parameters}


def _trained_length(config: StackConfig) -> int | None:
    length = rope(config).parameters.get("original_max_position_embeddings")
    return config.max_position_embeddings if length is None else int(length)


def _windows(config: StackConfig) -> list[int | None]:
    return [getattr(layer.attn, "window", None) for layer in config.layers]


def _layer_types(config: StackConfig) -> list[str] | None:
    windows = _windows(config)
    if not any(windows):
        return None
    return ["full_attention" if width is None else "sliding_attention" for width in windows]


def _width(config: StackConfig) -> Any:
    return _of(config.layers[0].ffn, "intermediate_size")


def _of(part: Any, name: str) -> Any:
    """A field of a mixer; ConfigError for a mixer of another kind."""
    if not hasattr(part, name):
        raise ConfigError(f"it has {KINDS[part.kind]}")
    return getattr(part, name)


def _in_attention(name: str) -> Value:
    return lambda config: getattr(attention(config), name)


def in_mix(name: str) -> Value:
    """A field of the last layer's token mixer (an RWKV-7's first one has a rank of its own)."""
    return lambda config: _of(config.layers[-1].attn, name)


def _in_ffn(name: str) -> Value:
    return lambda config: _of(config.layers[0].ffn, name)


def _token(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


VALUES: dict[str, Value] = {
    "vocab_size": lambda config: config.vocab_size,
    "hidden_size": lambda config: config.hidden_size,
    "num_hidden_layers": lambda config: config.num_layers,
    "intermediate_size": _width,
    "max_position_embeddings": lambda config: config.max_position_embeddings,
    "tie_word_embeddings": lambda config: config.head.tied,
    "num_attention_heads": _in_attention("num_attention_heads"),
    "num_key_value_heads": _in_attention("num_key_value_heads"),
    "head_dim": _in_attention("head_dim"),
    "attention_bias": _in_attention("qkv_bias"),
    "mlp_bias": _in_ffn("bias"),
    "hidden_act": _in_ffn("activation"),
    "rms_norm_eps": lambda config: config.layers[0].norm.eps,
    "rope_theta": lambda config: rope(config).theta,
    "rope_parameters": _rope_parameters,
    "rope_scaling": _old_rope_scaling,
    "original_max_position_embeddings": _trained_length,
    "sliding_window": lambda config: next(filter(None, _windows(config)), None),
    "use_sliding_window": lambda config: any(_windows(config)),
    "layer_types": _layer_types,
    # RWKV
    "attention_hidden_size": lambda config: _inner(config),
    "head_size": in_mix("head_dim"),
    "num_heads": in_mix("num_attention_heads"),
    "group_norm_eps": in_mix("group_norm_eps"),
    "layer_norm_epsilon": lambda config: config.layers[0].norm.eps,
    "norm_eps": lambda config: config.layers[0].norm.eps,
}


def _inner(config: StackConfig) -> int:
    """How wide an RWKV's time mixing is."""
    mixer = config.layers[0].attn
    if hasattr(mixer, "attention_size"):
        return int(mixer.attention_size)
    return int(_of(mixer, "num_attention_heads")) * int(_of(mixer, "head_dim"))


SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "intermediate_size",
    "tie_word_embeddings",
)
GROUPED = (
    *SIZES,
    "max_position_embeddings",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "rms_norm_eps",
)
"""What a decoder of Llama's form says beside its rotary embedding."""
TURNED = (*GROUPED, "head_dim", "rope_parameters")
"""The same with the rotary embedding, as current programs state it."""
PTH = Target(standalone=True, opened_by="the rwkv package")
