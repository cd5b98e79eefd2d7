"""Training: a small loop, its data, schedule, optimiser and initialisation, and its yardstick.

`data` streams token ids, `schedule` says how high the learning rate stands, `optimiser` which
parameter gets how much of it, `initialise` draws the weights, `loop` joins them and survives being
killed, `bits` measures bits per byte on held-out text, `sample` writes a little text.
"""

from __future__ import annotations

from laminogram.train.bits import BitsPerByte, Document, bits_per_byte
from laminogram.train.data import Blocks, TokenStream
from laminogram.train.initialise import initialise
from laminogram.train.loop import TrainConfig, Trainer, TrainResult
from laminogram.train.optimiser import OptimiserConfig, build_optimiser
from laminogram.train.sample import sample
from laminogram.train.schedule import Schedule

__all__ = [
    "BitsPerByte",
    "Blocks",
    "Document",
    "OptimiserConfig",
    "Schedule",
    "TokenStream",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "bits_per_byte",
    "build_optimiser",
    "initialise",
    "sample",
]
