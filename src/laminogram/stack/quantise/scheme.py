"""A precision as a value and as text: the dtype of all, the format of weights, the rounding of
inputs.

    int8                    weights int8 per output, inputs as they are
    w8a8                    the same, and inputs int8 per token
    llm.int8                the same, and large input features kept in fp16
    bf16+int4-g64-asym      weights int4 in groups of 64, all else in bf16
    fp8-blocks-a8+head      fp8 weights and inputs, the head's weight too
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from laminogram.errors import ConfigError
from laminogram.stack.quantise.activations import Activations, KeptOutliers, Rounded
from laminogram.stack.quantise.base import Format
from laminogram.stack.quantise.fp8 import Fp8
from laminogram.stack.quantise.int4 import Int4
from laminogram.stack.quantise.int8 import Int8
from laminogram.stack.quantise.mxfp4 import MXFP4

DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
"""The precisions that are a dtype and nothing else, by name."""

FORMATS: tuple[type[Format], ...] = (Int8, Int4, Fp8, MXFP4)
_ALIASES = {
    "w8a8": "int8-a8",
    "w8a8-per-tensor": "int8-per-tensor-a8-per-tensor",
    "w4a8": "int4-g128-a8",
}
_INPUTS = re.compile(r"(?P<weights>.+?)-a8(?:-per-(?P<per>token|tensor))?")
_OUTLIERS = re.compile(r"llm\.int8(?:-t(?P<threshold>\d+(?:\.\d*)?|inf))?(?P<token>-per-token)?")
_OPTIONS = ("head", "embeddings")


@dataclass(frozen=True)
class Scheme:
    """What is stored how.

    weights: the format of the layers' products; activations: what happens to their inputs, None for
    nothing; dtype: of everything else, None for what the stack has; head: the head's products as
    well; embeddings: the token table as well (its rounded values, stored densely).
    """

    weights: Format
    activations: Activations | None = None
    dtype: torch.dtype | None = None
    head: bool = False
    embeddings: bool = False

    @classmethod
    def parse(cls, text: str) -> Scheme:
        """The scheme of a text; ConfigError names what exists."""
        first, *rest = text.strip().lower().split("+")
        dtype = DTYPES.get(first)
        if dtype is not None and rest:
            first, *rest = rest
        unknown = [option for option in rest if option not in _OPTIONS]
        if unknown:
            raise ConfigError(
                f"precision {text!r}: {unknown[0]!r} is no option; there are {', '.join(_OPTIONS)}"
            )
        weights, activations = _of_products(first, text)
        return cls(weights, activations, dtype, "head" in rest, "embeddings" in rest)

    @property
    def name(self) -> str:
        """The format alone, without dtype and options."""
        if isinstance(self.activations, KeptOutliers):
            return f"llm.{self.weights}{self.activations}"
        return f"{self.weights}{self.activations or ''}"

    def __str__(self) -> str:
        short = {dtype: name for name, dtype in DTYPES.items()} | {torch.float64: "fp64"}
        before = [] if self.dtype is None else [short[self.dtype]]
        return "+".join([*before, self.name, *(one for one in _OPTIONS if getattr(self, one))])


def grammar() -> str:
    """The names of precisions beyond dtypes, for people."""
    forms = ", ".join(form.grammar for form in FORMATS)
    return (
        f"{forms}, each also with -a8[-per-token|-per-tensor] for its inputs; "
        f"llm.int8[-t6][-per-token]; {', '.join(_ALIASES)}; before them a dtype (bf16+int8), after "
        "them +head, +embeddings"
    )


def _of_products(name: str, text: str) -> tuple[Format, Activations | None]:
    name = _ALIASES.get(name, name)
    outliers = _OUTLIERS.fullmatch(name)
    if outliers:
        of = "token" if outliers["token"] else "call"
        return Int8(), KeptOutliers(float(outliers["threshold"] or 6), of)  # type: ignore[arg-type]
    inputs = _INPUTS.fullmatch(name)
    form = _format(inputs["weights"] if inputs else name, text)
    if not inputs:
        return form, None
    kind = "fp8" if isinstance(form, Fp8 | MXFP4) else "int8"
    return form, Rounded(kind, inputs["per"] or "token")  # type: ignore[arg-type]


def _format(name: str, text: str) -> Format:
    for form in FORMATS:
        match = form.pattern.fullmatch(name)
        if match:
            return form.named(match)
    raise ConfigError(f"precision {text!r} is unknown; there are {', '.join(DTYPES)}; {grammar()}")
