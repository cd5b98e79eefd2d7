"""Rotary position embedding: the frequencies of every published scaling kind, and the turn itself.

Channel j of the first half of the turned channels is paired with channel j of their second half;
the pair turns by position * frequency[j]. The kinds differ in the frequencies, and some in a factor
on cos and sin (`yarn`, `longrope`). Frequencies are computed in fp32 with the operations in the
order that published models were trained and served with: at position 30,000 another rounding of
the frequency already moves the angle by thousandths of a radian.

Sources: linear (Chen et al., arXiv 2306.15595), dynamic NTK and YaRN (Peng et al., 2309.00071),
LongRoPE (Ding et al., 2402.13753), llama3 (Llama 3.1 release), dynamic_log2 (Qwen release);
parameter names as in Hugging Face configurations.

Axes: B batch, T tokens, H heads, D head size, R turned channels (`rotary_dims`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch

from laminogram.errors import ConfigError
from laminogram.stack.config import RopeConfig

Frequencies = tuple[torch.Tensor, float]


def inverse_frequencies(rope: RopeConfig, length: int) -> Frequencies:
    """The frequencies (R/2,) in fp32 for `length` tokens, and the factor on cos and sin.

    `length` matters for `dynamic` (beyond the trained maximum) and `longrope` (short or long list);
    `regime` says which lengths share one answer. ConfigError where a parameter that the kind needs
    is missing, or the kind is unknown.
    """
    compute = _KINDS.get(rope.kind)
    if compute is None:
        raise ConfigError(f"rope kind {rope.kind!r} is unknown; there are {', '.join(_KINDS)}")
    if rope.rotary_dims < 2 or rope.rotary_dims % 2:
        raise ConfigError(f"rotary_dims is {rope.rotary_dims}; it must be even and at least 2")
    return compute(rope, length)


def regime(rope: RopeConfig, length: int) -> Hashable:
    """A value equal for two lengths exactly where their frequencies are equal; a cache carries it.

    None for the kinds that do not depend on the length, and for `dynamic` within its trained
    maximum; beyond it the length itself, for `dynamic_log2` the power of two that it is in. "short"
    or "long" for `longrope`.
    """
    if rope.kind == "dynamic_log2":
        stretch = _log2_stretch(rope, length)
        return None if stretch == 1 else stretch
    if rope.kind == "dynamic":
        return length if length > rope.max_position_embeddings else None
    if rope.kind == "longrope":
        return "long" if length > _original_length(rope) else "short"
    return None


def depends_on_length(rope: RopeConfig) -> bool:
    """True where a longer context turns earlier tokens anew, so that keys are cached unrotated."""
    return rope.kind in ("dynamic", "dynamic_log2", "longrope")


def tables(
    rope: RopeConfig, positions: torch.Tensor, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin (..., T, R/2) in fp32, scaled, for integer `positions` (..., T)."""
    frequencies, scaling = inverse_frequencies(rope, length)
    angles = positions[..., None].float() * frequencies.to(positions.device)
    return angles.cos() * scaling, angles.sin() * scaling


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turns the first R channels of x (B,T,H,D) by cos, sin (B,T,R/2) or (T,R/2).

    The product is formed in the wider of the two types and rounded once, to the type of x.
    """
    half = cos.shape[-1]
    cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    turned = turned.to(x.dtype)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def spread(cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables (..., R/2) laid out for `turn`: (..., 1, R), the sign of the sine in its table."""
    wide_cos, wide_sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
    return wide_cos.unsqueeze(-2), wide_sin.unsqueeze(-2)


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """`rotate` in a third of its operations, by tables (1|B,T,1,R) from `spread`: x (B,T,H,D).

    Rolled by half of R, every channel meets its partner; types as in `rotate`.
    """
    width = cos.shape[-1]
    part = x if width == x.shape[-1] else x[..., :width]
    turned = torch.addcmul(part * cos, part.roll(width // 2, -1), sin)
    turned = turned if turned.dtype == x.dtype else turned.to(x.dtype)
    return turned if part is x else torch.cat((turned, x[..., width:]), -1)


def _parameter(rope: RopeConfig, name: str) -> Any:
    value = rope.parameters.get(name)
    if value is None:
        found = ", ".join(rope.parameters) or "none"
        raise ConfigError(f"rope kind {rope.kind!r} needs the parameter {name!r}; found: {found}")
    return value


def _original_length(rope: RopeConfig) -> int:
    return int(_parameter(rope, "original_max_position_embeddings"))


def _plain(base: float, dims: int) -> torch.Tensor:
    exponents = torch.arange(0, dims, 2, dtype=torch.int64).float() / dims
    return 1.0 / (base**exponents)


def _default(rope: RopeConfig, length: int) -> Frequencies:
    return _plain(rope.theta, rope.rotary_dims), 1.0


def _linear(rope: RopeConfig, length: int) -> Frequencies:
    return _plain(rope.theta, rope.rotary_dims) / _parameter(rope, "factor"), 1.0


def _dynamic(rope: RopeConfig, length: int) -> Frequencies:
    # The base grows with the context so that the slowest pair turns as far as it did in training.
    factor, trained, dims = (
        _parameter(rope, "factor"),
        rope.max_position_embeddings,
        rope.rotary_dims,
    )
    if dims == 2:
        raise ConfigError("rope kind 'dynamic' needs rotary_dims of at least 4, found 2")
    stretch = factor * max(length, trained) / trained - (factor - 1)
    return _plain(rope.theta * stretch ** (dims / (dims - 2)), dims), 1.0


def _dynamic_log2(rope: RopeConfig, length: int) -> Frequencies:
    # As `dynamic`, in steps: the base changes where the length passes a doubling of the trained.
    dims, stretch = rope.rotary_dims, _log2_stretch(rope, length)
    if dims == 2:
        raise ConfigError("rope kind 'dynamic_log2' needs rotary_dims of at least 4, found 2")
    return _plain(rope.theta * stretch ** (dims / (dims - 2)), dims), 1.0


def _log2_stretch(rope: RopeConfig, length: int) -> int:
    doublings = math.log2(max(length, 1) / _original_length(rope)) + 1
    return max(2 ** math.ceil(doublings) - 1, 1)


def _proportional(rope: RopeConfig, length: int) -> Frequencies:
    # Exponents are spread over the whole head; the pairs beyond the proportion stand still.
    head = rope.rotary_dims
    turning = int(rope.parameters.get("partial_rotary_factor", 1.0) * head // 2)
    frequencies = torch.zeros(head // 2, dtype=torch.float32)
    frequencies[:turning] = _plain(rope.theta, head)[:turning]
    return frequencies / rope.parameters.get("factor", 1.0), 1.0


def _llama3(rope: RopeConfig, length: int) -> Frequencies:
    # Slow pairs are interpolated, fast ones kept, those between blended linearly in frequency.
    plain, factor = _plain(rope.theta, rope.rotary_dims), _parameter(rope, "factor")
    low, high = _parameter(rope, "low_freq_factor"), _parameter(rope, "high_freq_factor")
    trained = _original_length(rope)
    wavelength = 2 * math.pi / plain
    share = (trained / wavelength - low) / (high - low)
    blended = (1 - share) * plain / factor + share * plain
    outer = torch.where(wavelength > trained / low, plain / factor, plain)
    between = (wavelength >= trained / high) & (wavelength <= trained / low)
    return torch.where(between, blended, outer), 1.0


def _yarn(rope: RopeConfig, length: int) -> Frequencies:
    dims, trained = rope.rotary_dims, _original_length(rope)
    given = rope.parameters
    factor = given.get("factor") or rope.max_position_embeddings / trained
    exponents = torch.arange(0, dims, 2).float() / dims
    periods = rope.theta**exponents
    low = _yarn_dim(given.get("beta_fast") or 32, rope, trained)
    high = _yarn_dim(given.get("beta_slow") or 1, rope, trained)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    width = high - low or 0.001
    kept = 1 - ((torch.arange(dims // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    frequencies = 1.0 / (factor * periods) * (1 - kept) + 1.0 / periods * kept
    return frequencies, _yarn_scaling(given, factor)


def _yarn_dim(turns: float, rope: RopeConfig, trained: int) -> float:
    """The (fractional) pair that turns `turns` times over the trained length."""
    ratio = math.log(trained / (turns * 2 * math.pi))
    return rope.rotary_dims * ratio / (2 * math.log(rope.theta))


def _yarn_scaling(given: Mapping[str, Any], factor: float) -> float:
    def scale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    stated = given.get("attention_factor")
    if stated is not None:
        return float(stated)
    mscale, mscale_all = given.get("mscale"), given.get("mscale_all_dim")
    return scale(mscale) / scale(mscale_all) if mscale and mscale_all else scale(1)


def _longrope(rope: RopeConfig, length: int) -> Frequencies:
    trained, given = _original_length(rope), rope.parameters
    name = "long_factor" if length > trained else "short_factor"
    stretch = torch.tensor(_parameter(rope, name), dtype=torch.float32)
    if stretch.shape != (rope.rotary_dims // 2,):
        raise ConfigError(
            f"rope parameter {name!r} has {stretch.numel()} numbers; expected one for each of the "
            f"{rope.rotary_dims // 2} turned pairs"
        )
    exponents = torch.arange(0, rope.rotary_dims, 2, dtype=torch.int64).float() / rope.rotary_dims
    factor = given.get("factor") or rope.max_position_embeddings / trained
    scaling = given.get("attention_factor")
    if scaling is None:
        scaling = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(trained))
    return 1.0 / (stretch * rope.theta**exponents), float(scaling)


_KINDS: dict[str, Callable[[RopeConfig, int], Frequencies]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "dynamic_log2": _dynamic_log2,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
}
