"""Quantised weights and inputs: one small file a format, all behind `linear`.

    view.using(precision="int4-g128")
    Scheme.parse("bf16+llm.int8")

`Packed` stands where a dense weight stood, and every product with it decodes some rows at a time,
so that no whole weight is ever dense. Formats round to nearest, without calibration.
"""

from __future__ import annotations

from laminogram.stack.quantise.base import Format
from laminogram.stack.quantise.packed import Packed
from laminogram.stack.quantise.scheme import DTYPES, Scheme, grammar
from laminogram.stack.quantise.stack import (
    Quantised,
    described,
    packed_weights,
    place,
    quantised,
    weights_of,
)

__all__ = [
    "DTYPES",
    "Format",
    "Packed",
    "Quantised",
    "Scheme",
    "described",
    "grammar",
    "packed_weights",
    "place",
    "quantised",
    "weights_of",
]
