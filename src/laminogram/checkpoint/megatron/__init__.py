"""Megatron-LM checkpoints, read and written without Megatron.

Both of its layouts, for any tensor and pipeline split. Nothing of Megatron, CUDA or Transformer
Engine is imported, and no pickle is executed.
"""

from laminogram.checkpoint.megatron.opening import is_megatron, read_megatron
from laminogram.checkpoint.megatron.stages import Stages, split_layers
from laminogram.checkpoint.megatron.target import Target
from laminogram.checkpoint.megatron.writing import reshard, write_megatron

__all__ = [
    "Stages",
    "Target",
    "is_megatron",
    "read_megatron",
    "reshard",
    "split_layers",
    "write_megatron",
]
