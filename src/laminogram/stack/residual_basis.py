"""The same function in another basis of the residual stream.

Where every mixer reads the stream through a norm without a mean and without gains of its own, a
rotation of the stream changes nothing but its coordinates: what writes to it is rotated, what reads
it is rotated back, and the root mean square stays. So gains (and the mean that a LayerNorm takes
off, and its bias) are folded into the weights beside it first. Source: SliceGPT (Ashkboos et al.,
arXiv 2401.15024) and QuaRot (arXiv 2404.00456).

Axes: C channels of the stream, O outputs of a product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from laminogram.errors import EditError
from laminogram.stack.config import (
    AttentionConfig,
    LatentAttentionConfig,
    LayerConfig,
    MLPConfig,
    MoEConfig,
    NormConfig,
    StackConfig,
)

Weights = dict[str, Tensor]


def random_rotation(size: int, seed: int) -> Tensor:
    """An orthogonal matrix (C, C) in fp64, drawn uniformly (Mezzadri, arXiv math-ph/0609050)."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(size, size, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(drawn)
    return q * r.diagonal().sign()


def rotated(
    config: StackConfig, weights: Mapping[str, Tensor], matrix: Tensor
) -> tuple[StackConfig, Weights]:
    """A configuration and weights of the same function whose stream is `x @ matrix`.

    Products are formed in fp64 and rounded once. A LayerNorm becomes an RMSNorm, a tied head one
    of its own. EditError says what in the model stands in the way.
    """
    check_rotatable(config)
    basis = _Basis(config, weights, matrix)
    if config.head.tied:  # a head of its own, made of the table as it was
        basis.weights["head.weight"] = basis.weights["embed.tokens.weight"]
    basis.read("final_norm", config.final_norm, _final_readers(config))
    for number, layer in enumerate(config.layers):
        for norm, readers, writers in _around(layer):
            here = f"layers.{number}."
            basis.read(here + norm, layer.norm, [here + name for name in readers])
            for name in writers:
                basis.write(here + name, layer.norm)
    for table in ("tokens", "positions", "types"):
        if f"embed.{table}.weight" in weights:
            basis.table(f"embed.{table}.weight")
    return _folded(config), basis.weights


def check_rotatable(config: StackConfig) -> None:
    """EditError, naming what stands in the way, unless the stream of this model can be rotated."""
    for number, layer in enumerate(config.layers):
        reason = _obstacle(layer)
        if reason:
            raise EditError(
                f"the residual of {config.family} cannot be rotated: layer {number} {reason}"
            )
    norms: set[str] = {layer.norm.kind for layer in config.layers}
    norms.add(config.final_norm.kind if config.final_norm else "none")
    for there, reason in (
        (len(norms) > 1 and "layer" in norms, "only some of its norms take the mean off"),
        (config.embedding.norm, "a norm after the embedding is part of the stream"),
        (config.head.normalised, "its head brings the rows of its weight to length one"),
        (config.head.norm or config.head.transform, "its head has a norm of its own"),
    ):
        if there:
            raise EditError(f"the residual of {config.family} cannot be rotated: {reason}")


def _obstacle(layer: LayerConfig) -> str | None:
    if layer.block not in ("pre", "parallel"):
        return f"is a {layer.block}-norm block, whose norms act on the stream channel by channel"
    for mixer in (layer.attn, layer.ffn):
        if not isinstance(mixer, AttentionConfig | LatentAttentionConfig | MLPConfig | MoEConfig):
            return f"has {mixer.kind}, whose token shift acts on each channel by itself"
        if layer.norm.bias and not isinstance(mixer, AttentionConfig | MLPConfig):
            return f"has no bias in its {mixer.kind} mixer to take that of the norm"
    return None


def _around(layer: LayerConfig) -> Iterator[tuple[str, list[str], list[str]]]:
    """For each mixer: its norm, the products that read it, those that write to the stream."""
    attn, ffn = layer.attn, layer.ffn
    queries = ["attn.q", "attn.k", "attn.v"]
    if isinstance(attn, LatentAttentionConfig):
        queries = ["attn.q" if attn.q_lora_rank is None else "attn.q_a", "attn.kv_a"]
    yield "attn_norm", queries, ["attn.o"]
    if not isinstance(ffn, MoEConfig):
        gated = isinstance(ffn, MLPConfig) and ffn.gated
        yield "ffn_norm", ["ffn.up", *(["ffn.gate"] if gated else [])], ["ffn.down"]
        return
    experts = [f"ffn.experts.{number}" for number in range(ffn.num_experts)]
    experts += ["ffn.shared"] if ffn.shared_intermediate_size is not None else []
    readers = ["ffn.router", *(["ffn.shared_gate"] if ffn.shared_gate else [])]
    readers += [f"{expert}.{name}" for expert in experts for name in ("up", "gate")]
    yield "ffn_norm", readers, [f"{expert}.down" for expert in experts]


def _final_readers(config: StackConfig) -> list[str]:
    """What reads the stream after its end."""
    found = ["head"] if config.head.present else []
    found += ["pooler"] if config.head.pooler else []
    if config.score is not None and config.score.through != "pooler":
        found.append("score.dense" if config.score.through == "dense" else "score.out")
    return found


def _folded(config: StackConfig) -> StackConfig:
    """The configuration after folding: norms without bias and mean, biases where they went."""
    layers = []
    for layer in config.layers:
        attn, ffn = layer.attn, layer.ffn
        if layer.norm.bias and isinstance(attn, AttentionConfig) and isinstance(ffn, MLPConfig):
            attn, ffn = replace(attn, qkv_bias=True), replace(ffn, bias=True)
        layers.append(replace(layer, norm=_without_mean(layer.norm), attn=attn, ffn=ffn))
    final = config.final_norm
    folded = replace(config, layers=tuple(layers), head=replace(config.head, tied=False))
    if final is None:
        return folded
    head = replace(folded.head, bias=folded.head.present and (folded.head.bias or final.bias))
    score = folded.score
    if score is not None and score.through is None:
        score = replace(score, bias=score.bias or final.bias)
    return replace(folded, final_norm=_without_mean(final), head=head, score=score)


def _without_mean(norm: NormConfig) -> NormConfig:
    return replace(norm, kind="rms", bias=False)


class _Basis:
    """Weights on their way into the new basis; what is not touched stays the very tensor."""

    def __init__(self, config: StackConfig, weights: Mapping[str, Tensor], matrix: Tensor) -> None:
        self.config, self.weights = config, dict(weights)
        self.matrix = matrix.to(torch.float64)
        # A stream whose mean is always zero has the same LayerNorm and RMSNorm.
        self.centred = any(layer.norm.kind == "layer" for layer in config.layers)

    def table(self, path: str) -> None:
        """Vectors (rows, C) that begin the stream."""
        self._put(path, self._turned(self._wide(path)))

    def write(self, path: str, norm: NormConfig) -> None:
        """A product (C, O) and its bias, added to the stream."""
        weight, bias = f"{path}.weight", f"{path}.bias"
        self._put(weight, self._turned(self._wide(weight).T).T)
        if bias in self.weights:
            self._put(bias, self._turned(self._wide(bias)))
        elif norm.bias and path.endswith("ffn.down"):  # the biases of a network come together
            self.weights[bias] = self.weights[weight].new_zeros(self.weights[weight].shape[0])

    def read(self, norm: str, config: NormConfig | None, paths: Sequence[str]) -> None:
        """Products (O, C) that read the stream through a norm, which loses its gain and bias."""
        size = self.matrix.shape[0]
        gain, shift = torch.ones(size, dtype=torch.float64), None
        if config is not None:
            like = self.weights[f"{norm}.weight"]
            gain = self._wide(f"{norm}.weight") + config.offset
            shift = self._wide(f"{norm}.bias") if config.bias else None
            self.weights[f"{norm}.weight"] = torch.full_like(like, 1 - config.offset)
            self.weights.pop(f"{norm}.bias", None)
        for path in paths:
            weight, bias = self._wide(f"{path}.weight"), f"{path}.bias"
            if shift is not None:
                known = self._wide(bias) if bias in self.weights else 0
                self._put(bias, known + weight @ shift.to(weight.device), like=f"{path}.weight")
            self._put(f"{path}.weight", (weight * gain.to(weight.device)) @ self._matrix(weight))

    def _turned(self, x: Tensor) -> Tensor:
        """What is added to the stream (..., C), in the new basis."""
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        return centred @ self._matrix(x)

    def _matrix(self, like: Tensor) -> Tensor:
        return self.matrix.to(like.device)

    def _wide(self, path: str) -> Tensor:
        return self.weights[path].detach().to(torch.float64)

    def _put(self, path: str, wide: Tensor, like: str | None = None) -> None:
        self.weights[path] = wide.to(self.weights[like or path].dtype).contiguous()
