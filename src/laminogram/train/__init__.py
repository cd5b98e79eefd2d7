"""Training: a small loop, its data, schedule, optimiser and initialisation, and its yardstick.

`data` streams token ids and mixes their sources, `schedule` says how high the learning rate stands,
`optimiser` which parameter gets how much of it, `initialise` draws the weights, `loop` joins them
and survives being killed, `bits` measures bits per byte on held-out text, `answers` how often a
question is answered exactly, `sample` writes a little text, `heads` gives a model a score or more
tokens.
"""

from __future__ import annotations

from laminogram.train.answers import Answered, Question, answered
from laminogram.train.bits import BitsPerByte, Document, bits_per_byte
from laminogram.train.data import Blocks, Mixture, TokenStream
from laminogram.train.heads import add_score_head, extend_vocabulary
from laminogram.train.initialise import initialise
from laminogram.train.loop import TrainConfig, Trainer, TrainResult
from laminogram.train.optimiser import OptimiserConfig, build_optimiser
from laminogram.train.sample import sample
from laminogram.train.schedule import Schedule

__all__ = [
    "Answered",
    "BitsPerByte",
    "Blocks",
    "Document",
    "Mixture",
    "OptimiserConfig",
    "Question",
    "Schedule",
    "TokenStream",
    "TrainConfig",
    "TrainResult",
    "Trainer",
    "add_score_head",
    "answered",
    "bits_per_byte",
    "build_optimiser",
    "extend_vocabulary",
    "initialise",
    "sample",
]
