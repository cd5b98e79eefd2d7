"""What is to be written: how a model is cut, how its tensors are called, which rows pad it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from laminogram.checkpoint.megatron.naming import Norms
from laminogram.checkpoint.megatron.splits import Padding, padded_size
from laminogram.checkpoint.megatron.stages import Stages, split_layers
from laminogram.checkpoint.reading import TensorInfo
from laminogram.errors import ConfigError

_LAYOUTS = ("legacy", "torch_dist")


@dataclass(frozen=True, kw_only=True)
class Target:
    """The form of a written checkpoint.

    tp, pp, vpp: tensor-parallel ranks, pipeline stages, chunks of each stage. stages: layers of
    every chunk in the order in which they run (`split_layers` makes Megatron's other ways), None
    for equal ones. layout: "legacy" writes `mp_rank_*`, "torch_dist" one distributed checkpoint,
    which any tp and pp can load. norms: "te" for Transformer Engine's names, "local" for the plain
    ones (legacy alone; the other layout has one spelling). vocab_padding: rows that pad the
    vocabulary to a multiple of vocab_divisible_by * tp are "zero" or copies of the "last".
    common: torch_dist's other state in a "file" (common.pt) or "inside" as since 2026.
    iteration: None writes a release.
    """

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    stages: Sequence[int] | Stages | None = None
    layout: Literal["legacy", "torch_dist"] = "legacy"
    norms: Norms = "te"
    vocab_padding: Padding = "zero"
    vocab_divisible_by: int = 128
    common: Literal["file", "inside"] = "file"
    iteration: int | None = None

    def __post_init__(self) -> None:
        choices = (
            ("layout", _LAYOUTS),
            ("norms", ("te", "local")),
            ("vocab_padding", ("zero", "last")),
            ("common", ("file", "inside")),
        )
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {known}")
        for name in ("tp", "pp", "vpp", "vocab_divisible_by"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} is {value!r}; expected a positive whole number")

    @property
    def folder(self) -> str:
        """The name of the iteration's folder."""
        return "release" if self.iteration is None else f"iter_{self.iteration:07d}"

    @property
    def tracker(self) -> str:
        """What the root says of its latest iteration."""
        return "release" if self.iteration is None else str(self.iteration)


@dataclass(frozen=True)
class Model:
    """A model to write: whole tensors by global name, made when they are asked for."""

    infos: Mapping[str, TensorInfo]
    get: Callable[[str], Tensor]
    arguments: Mapping[str, Any]
    target: Target
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of an earlier run that stay as they are."""

    @cached_property
    def stages(self) -> Stages:
        """The layers of every stage; ConfigError where the target's do not fit the model."""
        target, layers = self.target, int(self.arguments["num_layers"])
        counts = target.stages
        if isinstance(counts, Stages):
            counts = counts.counts
        return split_layers(layers, target.pp, target.vpp, counts=counts)

    @property
    def vocabulary(self) -> int:
        """Rows of the padded vocabulary."""
        size = int(self.arguments["vocab_size"])
        return padded_size(size, self.target.vocab_divisible_by, self.target.tp)

    @property
    def tied(self) -> bool:
        """True where the head is the embedding."""
        return not self.arguments["untie_embeddings_and_output_weights"]

    def check(self) -> None:
        """ConfigError where attention cannot be shared by that many ranks."""
        tp = self.target.tp
        heads = int(self.arguments["num_attention_heads"])
        groups = int(self.arguments["num_query_groups"])
        if heads % tp or (groups % tp and tp % groups):
            raise ConfigError(
                f"{heads} heads with {groups} groups of keys cannot be shared by {tp} "
                "tensor-parallel ranks: the heads must divide evenly, and the groups or the ranks "
                "be a multiple of the other"
            )

    @property
    def state(self) -> dict[str, Any]:
        """What stands in the files beside the tensors."""
        target, stages = self.target, self.stages
        arguments = {
            **self.kept,
            **self.arguments,
            "tensor_model_parallel_size": target.tp,
            "pipeline_model_parallel_size": target.pp,
            "expert_model_parallel_size": 1,
            "context_parallel_size": 1,
            "virtual_pipeline_model_parallel_size": target.vpp if target.vpp > 1 else None,
            "num_layers_per_virtual_pipeline_stage": None,
            **_pipeline(stages),
            "make_vocab_size_divisible_by": target.vocab_divisible_by,
            "padded_vocab_size": self.vocabulary,
            "transformer_impl": "transformer_engine" if target.norms == "te" else "local",
            "ckpt_format": "torch" if target.layout == "legacy" else "torch_dist",
            "iteration": target.iteration or 0,
            "consumed_train_samples": 0,
            "consumed_valid_samples": 0,
        }
        return {
            "args": argparse.Namespace(**arguments),
            "checkpoint_version": 3.0,
            "iteration": target.iteration or 0,
        }


def _pipeline(stages: Stages) -> dict[str, Any]:
    """The arguments that say how layers are shared, where they are not shared evenly."""
    if len(set(stages.counts)) <= 1:
        return {}
    row = [sum(stages.counts[stage :: stages.pp]) for stage in range(stages.pp)]
    for first, last in ((row[0], None), (None, row[-1]), (row[0], row[-1])):
        if 0 in (first, last):
            continue
        sizes = (stages.num_layers, stages.pp, stages.vpp)
        try:
            same = split_layers(*sizes, first=first, last=last) == stages
        except ConfigError:
            continue
        if same:
            return {
                "num_layers_in_first_pipeline_stage": first,
                "num_layers_in_last_pipeline_stage": last,
            }
    chunks = ["t" * count for count in stages.counts]
    chunks[0], chunks[-1] = f"E{chunks[0]}", f"{chunks[-1]}L"
    return {"pipeline_model_parallel_layout": "|".join(chunks)}
