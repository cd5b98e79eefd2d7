"""The gram: what a recording gives back.

Axes of its arrays: B batch, T tokens, C channels, H heads, S key positions (as long as T), and
others that the sites name. A site of several steps is stacked with the step first.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from laminogram.errors import SiteError
from laminogram.probe.manifest import tokens_hash
from laminogram.probe.store import read_tensors, tensor_text, text_tensor, write_tensors

Address = tuple[str, int]
FORMAT = "laminogram-gram/1"
_TIME_AXES = ("T", "S")
# What numpy has a type for; the others (bfloat16, the 8-bit floats) are read as float32, exactly.
_NUMPY = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bool, torch.uint8}
    | {torch.int8, torch.int16, torch.int32, torch.int64}
)


class Gram:
    """A mapping (site, step) -> array, with its tokens, their mask and its manifest.

    `gram[site, step]` is one array, `gram[site]` all steps of a site stacked, `gram.tensor(...)`
    the torch tensor. Arrays of a single step share the gram's memory and are read-only; copy them
    to change them. `tokens` (B, T) int64 and `mask` (B, T) bool, true where a token is real, lie as
    the user padded them; `prompt_lengths` (B,) counts the tokens of each row that were given, the
    rest being generated. `step_layers` maps a step to its (layer, part), part being None for a
    whole layer. Sites of the stack itself (embed, logits) are filed under step -1. `axes` are those
    of a site, or of an address where the steps of a site differ in them.
    """

    def __init__(
        self,
        tensors: Mapping[Address, Tensor],
        axes: Mapping[Any, Sequence[str]],
        step_layers: Mapping[int, tuple[int, str | None]],
        tokens: Tensor | np.ndarray,
        mask: Tensor | np.ndarray,
        prompt_lengths: Sequence[int] | Tensor | np.ndarray | None = None,
        token_texts: Sequence[Sequence[str]] | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        self._tensors = {key: tensor.detach() for key, tensor in tensors.items()}
        self._axes = {
            key: tuple(axes[key] if key in axes else axes[key[0]]) for key in self._tensors
        }
        self.step_layers = dict(step_layers)
        self.tokens = _array(tokens, np.int64)
        self.mask = _array(mask, np.bool_)
        lengths = self.mask.sum(1) if prompt_lengths is None else prompt_lengths
        self.prompt_lengths = _array(lengths, np.int64)
        self.token_texts = None if token_texts is None else [list(row) for row in token_texts]
        self.manifest = dict(manifest or {})
        self.grad: Gram | None = None
        self._check()

    def _check(self) -> None:
        if self.tokens.ndim != 2 or self.mask.shape != self.tokens.shape:
            raise ValueError(
                f"tokens and mask must have one shape (B, T), not {self.tokens.shape} and "
                f"{self.mask.shape}"
            )
        sizes = {"B": self.tokens.shape[0], "T": self.tokens.shape[1]}
        for (site, step), tensor in self._tensors.items():
            axes = self._axes[site, step]
            fits = tensor.dim() == len(axes) and all(
                size == sizes.get(axis, size) for axis, size in zip(axes, tensor.shape, strict=True)
            )
            if not fits:
                raise ValueError(
                    f"{site} at step {step} has shape {tuple(tensor.shape)}, which does not fit "
                    f"its axes ({' '.join(axes)}) with {sizes['B']} rows of {sizes['T']} tokens"
                )

    @property
    def sites(self) -> tuple[str, ...]:
        """The recorded sites, in the order of recording."""
        return tuple(dict.fromkeys(site for site, _ in self._tensors))

    @property
    def steps(self) -> tuple[int, ...]:
        """The recorded steps, ascending."""
        return tuple(sorted({step for _, step in self._tensors}))

    @property
    def nbytes(self) -> int:
        """Bytes of the recorded tensors."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def axes(self, site: str, step: int | None = None) -> tuple[str, ...]:
        """The axes of one step's array, such as ("B", "T", "C"); by default of the first recorded
        one. Raises SiteError."""
        step = self._steps_of(site)[0] if step is None else step
        self.tensor(site, step)  # says where it was recorded, if not there
        return self._axes[site, step]

    def layer(self, layer: int) -> list[int]:
        """The recorded steps that ran a layer. Raises SiteError naming the layers there are."""
        found = [step for step in self.steps if self.step_layers.get(step, (None,))[0] == layer]
        if not found:
            there = {self.step_layers[step][0] for step in self.steps if step in self.step_layers}
            raise MissingError(
                f"no step of layer {layer} was recorded; there are steps of the layers "
                f"{runs(there) or 'of none'}"
            )
        return found

    def tensor(self, site: str, step: int) -> Tensor:
        """The recorded tensor itself, in its own dtype. Raises SiteError."""
        steps = self._steps_of(site)
        if step not in steps:
            raise MissingError(f"{site} was not recorded at step {step!r}; only at {runs(steps)}")
        return self._tensors[site, step]

    def __getitem__(self, key: str | Address) -> np.ndarray:
        if not isinstance(key, str):
            if not isinstance(key, tuple) or len(key) != 2:
                raise MissingError(
                    f"a gram is read as gram[site] or gram[site, step]; {key!r} is neither"
                )
            site, step = key
            return _numpy(self.tensor(site, step))
        arrays = [_numpy(self._tensors[key, step]) for step in self._steps_of(key)]
        shapes = sorted({array.shape for array in arrays})
        if len(shapes) > 1:
            raise MissingError(
                f"the steps of {key} differ in shape ({', '.join(map(str, shapes))}) and cannot be "
                f"stacked: ask for one with gram[{key!r}, step]"
            )
        return np.stack(arrays)

    def __contains__(self, key: object) -> bool:
        return key in self.sites if isinstance(key, str) else key in self._tensors

    def __iter__(self) -> Iterator[Address]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def items(self) -> Iterator[tuple[Address, np.ndarray]]:
        """Every ((site, step), array)."""
        return ((key, self[key]) for key in self)

    def _steps_of(self, site: str) -> list[int]:
        steps = sorted(step for name, step in self._tensors if name == site)
        if not steps:
            there = ", ".join(self.sites) or "no site at all"
            raise MissingError(f"site {site!r} was not recorded; this gram holds {there}")
        return steps

    def select(
        self,
        sites: str | Iterable[str] | None = None,
        steps: int | Iterable[int] | None = None,
    ) -> Gram:
        """The gram of some sites and steps; it shares the memory of this one. Raises SiteError."""
        names = _several(sites, self.sites)
        numbers = _several(steps, self.steps)
        for name in names:
            self._steps_of(name)
        for number in numbers:
            if number not in self.steps:
                raise MissingError(f"step {number} was not recorded; only {runs(self.steps)}")
        kept = {key: t for key, t in self._tensors.items() if key[0] in names and key[1] in numbers}
        if not kept:
            raise MissingError(
                f"none of the sites {', '.join(names)} was recorded at the steps {runs(numbers)}"
            )
        layers = {step: at for step, at in self.step_layers.items() if step in numbers}
        return self._like(kept, layers)

    def _like(self, tensors: dict[Address, Tensor], layers: dict[int, Any]) -> Gram:
        return Gram(
            tensors,
            self._axes,
            layers,
            self.tokens,
            self.mask,
            self.prompt_lengths,
            self.token_texts,
            self.manifest,
        )

    @staticmethod
    def concatenate(grams: Iterable[Gram]) -> Gram:
        """One gram of the rows of several, padded to the longest; T and S grow alike.

        Pads go to the left if a row that is padded lies at the right, else to the right. Raises
        ValueError unless all hold the same sites, steps and layers.
        """
        return _concatenate(list(grams))

    def save(self, path: str | PathLike[str], **metadata: str) -> None:
        """Write one safetensors file, whole or not at all; the manifest is in its header.

        metadata: further texts for the header.
        """
        tensors = {f"{site}.{step}": tensor for (site, step), tensor in self._tensors.items()}
        tensors["/tokens"] = torch.from_numpy(self.tokens)
        tensors["/mask"] = torch.from_numpy(self.mask)
        tensors["/prompt_lengths"] = torch.from_numpy(self.prompt_lengths)
        if self.token_texts is not None:
            tensors["/token_texts"] = text_tensor(self.token_texts)
        header = {
            "addresses": list(self._tensors),
            "axes": {site: self.axes(site) for site in self.sites},
            "own_axes": [
                [*key, axes] for key, axes in self._axes.items() if axes != self.axes(key[0])
            ],
            "step_layers": [[step, *at] for step, at in sorted(self.step_layers.items())],
        }
        texts = {"manifest": json.dumps(self.manifest), "gram": json.dumps(header)}
        write_tensors(path, FORMAT, tensors, {**metadata, **texts})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Gram:
        """Read what `save` wrote, bit for bit. Raises StoreError for any other file."""
        tensors, metadata = read_tensors(path, FORMAT)
        header = json.loads(metadata["gram"])
        texts = tensors.get("/token_texts")
        return cls(
            {(site, step): tensors[f"{site}.{step}"] for site, step in header["addresses"]},
            header["axes"] | {(site, at): own for site, at, own in header.get("own_axes", ())},
            {step: (layer, part) for step, layer, part in header["step_layers"]},
            tensors["/tokens"],
            tensors["/mask"],
            tensors["/prompt_lengths"],
            None if texts is None else tensor_text(texts),
            json.loads(metadata["manifest"]),
        )

    def _table(self) -> list[tuple[str, ...]]:
        """A head and one line a site: site, axes, shape, dtype, steps."""
        lines: list[tuple[str, ...]] = [("site", "axes", "shape", "dtype", "steps")]
        for site in self.sites:
            steps = self._steps_of(site)
            kinds = {" ".join(self._axes[site, step]) for step in steps}
            found = [self._tensors[site, step] for step in steps]
            shapes = {" ".join(map(str, tensor.shape)) for tensor in found}
            dtypes = {str(tensor.dtype).removeprefix("torch.") for tensor in found}
            shape = shapes.pop() if len(shapes) == 1 else "varies"
            dtype = dtypes.pop() if len(dtypes) == 1 else "varies"
            axes = kinds.pop() if len(kinds) == 1 else "vary"
            lines.append((site, axes, shape, dtype, runs(steps)))
        return lines

    def _title(self) -> str:
        rows, columns = self.tokens.shape
        return (
            f"Gram of {int(self.mask.sum())} tokens in {rows} x {columns}, "
            f"{len(self)} arrays, {self.nbytes / 2**20:.2f} MiB"
        )

    def __repr__(self) -> str:
        table = self._table()
        widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
        lines = [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
            for line in table
        ]
        return "\n".join([self._title(), *(line.rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        head, *body = [[html.escape(cell) for cell in line] for line in self._table()]
        rows = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in body)
        return (
            f"<table><caption>{html.escape(self._title())}</caption>"
            f"<tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr>{rows}</table>"
        )


class MissingError(SiteError, KeyError):
    """What was not recorded. A KeyError too, as the callers of a mapping expect."""

    __str__ = Exception.__str__  # KeyError would print the message in quotes


def runs(numbers: Iterable[int]) -> str:
    """Whole numbers as text, with runs joined: 0-3, 7."""
    found: list[list[int]] = []
    for number in sorted(numbers):
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in found)


def _array(values: Any, dtype: type) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    return np.array(values, dtype=dtype)


def _numpy(tensor: Tensor) -> np.ndarray:
    shown = tensor if tensor.dtype in _NUMPY else tensor.to(torch.float32)
    array = shown.cpu().numpy()
    array.flags.writeable = False
    return array


def _several(given: Any, default: tuple[Any, ...]) -> tuple[Any, ...]:
    if given is None:
        return default
    return (given,) if isinstance(given, str | int) else tuple(given)


def _concatenate(grams: list[Gram]) -> Gram:
    if not grams:
        raise ValueError("there are no grams to concatenate")
    first = grams[0]
    for number, gram in enumerate(grams[1:], 1):
        for what, a, b in (
            ("sites and steps", set(first), set(gram)),
            ("axes", first._axes, gram._axes),
            ("layers of the steps", first.step_layers, gram.step_layers),
        ):
            if a != b:
                raise ValueError(f"gram {number} differs from gram 0 in its {what}: {b}, not {a}")
    length = max(gram.tokens.shape[1] for gram in grams)
    left = any(not row[0] and row[-1] for gram in grams for row in gram.mask if len(row))
    gaps = [length - gram.tokens.shape[1] for gram in grams]

    def padded(tensor: Tensor, axes: Sequence[str], gap: int) -> Tensor:
        widths: list[int] = []
        for axis in reversed(axes):
            grow = gap if axis in _TIME_AXES else 0
            widths += [grow, 0] if left else [0, grow]
        return torch.nn.functional.pad(tensor, widths) if gap else tensor

    def joined(tensors: Iterable[Tensor], axes: Sequence[str]) -> Tensor:
        parts = [padded(tensor, axes, gap) for tensor, gap in zip(tensors, gaps, strict=True)]
        return torch.cat(parts, dim=axes.index("B"))

    rows, real = (
        joined([torch.from_numpy(getattr(gram, name)) for gram in grams], ("B", "T"))
        for name in ("tokens", "mask")
    )
    return Gram(
        {key: joined([gram._tensors[key] for gram in grams], first._axes[key]) for key in first},
        first._axes,
        first.step_layers,
        rows,
        real,
        np.concatenate([gram.prompt_lengths for gram in grams]),
        _texts(grams, gaps, left),
        _manifest(grams, rows.numpy(), real.numpy()),
    )


def _texts(grams: list[Gram], gaps: list[int], left: bool) -> list[list[str]] | None:
    found: list[list[str]] = []
    for gram, gap in zip(grams, gaps, strict=True):
        if gram.token_texts is None:
            return None
        for row in gram.token_texts:
            # A row may hold the texts of its real tokens only; then no column needs filling.
            pads = [""] * (gap if len(row) == gram.tokens.shape[1] else 0)
            found.append(pads + row if left else row + pads)
    return found


def _manifest(grams: list[Gram], tokens: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
    """The common manifest with the hash of all tokens; different ones are kept under `parts`."""
    varying = ("tokens_hash", "date")
    known = [{k: v for k, v in gram.manifest.items() if k not in varying} for gram in grams]
    digest = tokens_hash([row[real] for row, real in zip(tokens, mask, strict=True)])
    if all(fields == known[0] for fields in known):
        return {**grams[0].manifest, "tokens_hash": digest}
    return {"tokens_hash": digest, "parts": [gram.manifest for gram in grams]}
