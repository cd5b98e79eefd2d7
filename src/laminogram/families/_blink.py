"""BlinkDL's `.pth` files, whatever the RWKV generation: telling them apart by their tensors."""

from __future__ import annotations

from laminogram.errors import CheckpointError, FamilyError
from laminogram.families.base import Rename, Shapes, match

LAYER = "blocks.{i}"
STATE = Rename(f"{LAYER}.att.time_state", "layers.{i}.attn.initial_state")
"""A tuned state lies in every generation as (H, D values, D keys), which is our own order; the
`rwkv` package turns that of RWKV-5 and 6 for its transposed states."""
# Published experiments on top of a generation; their tensors change the computation.
_VARIANTS = {
    "att.qq.weight": "tiny attention (v4a)",
    "att.time_mix_qq": "tiny attention (v4a)",
    "ffnPre.key.weight": "a feed-forward in place of layer 0's time mixing",
    "head_q.weight": "the copying head",
    "pos_emb_x": "learned positions",
    "ffn.s_emb.weight": "DeepEmbed (v7a)",
    "qkv.q.weight": "DeepEmbed attention (v7b)",
    "key.weight_mx": "int8 weights of the rwkv package",
}


def generation(shapes: Shapes) -> int | None:
    """4, 5, 6 or 7 for the tensors of a BlinkDL file, None for anything else.

    FamilyError names a published variant whose extra tensors change the computation.
    """
    if "emb.weight" not in shapes or not any(key.startswith("blocks.0.att.") for key in shapes):
        return None
    for ending, what in _VARIANTS.items():
        found = next((key for key in shapes if key.endswith(ending)), None)
        if found is not None:
            raise FamilyError(f"the checkpoint has {found}: {what}, which is not supported")
    if "blocks.0.att.r_k" in shapes:
        return 7
    if any(".time_maa_" in key for key in shapes):
        return 6
    return 5 if any(".ln_x." in key for key in shapes) else 4


def refuse_converted(shapes: Shapes) -> None:
    """FamilyError for a file in the `rwkv` package's own form: it holds the embedding after ln0,
    and decays that are ready for use."""
    if "blocks.0.ln0.weight" not in shapes:
        raise FamilyError(
            f"the checkpoint is an RWKV-{generation(shapes)} file without blocks.0.ln0.weight, as "
            "the rwkv package converts them; such files are read for RWKV-4 only: give the "
            "original .pth"
        )


def has_tuned_state(shapes: Shapes | None, layer: int) -> bool:
    """Whether the file holds a tuned initial state for this layer."""
    return f"{LAYER.format(i=layer)}.att.time_state" in (shapes or {})


def layer_count(shapes: Shapes, template: str) -> int:
    """How many layers have the tensor `template`; CheckpointError where one is left out."""
    found = {index["i"] for key in shapes if (index := match(template, key)) is not None}
    missing = sorted(set(range(max(found, default=-1) + 1)) - found)
    if missing or not found:
        names = ", ".join(template.format(i=i) for i in missing[:4]) or template.format(i=0)
        raise CheckpointError(f"the checkpoint lacks {names}; its layers should be numbered from 0")
    return len(found)


def size(shapes: Shapes, name: str, axis: int) -> int:
    """One axis of a tensor that must be there; CheckpointError names what was found."""
    shape = shapes.get(name)
    if shape is None or not -len(shape) <= axis < len(shape):
        what = "is missing" if shape is None else f"has shape {shape}"
        raise CheckpointError(f"{name} {what}; the model's sizes are read from it")
    return shape[axis]
