"""Reading pickles without executing them: what is not on a short list becomes an inert record.

Training programs pickle their own classes beside the weights (enumerations, options, random
states). Here no name in a pickle is ever imported. The few that plain data and tensors need are
answered by functions of this file; every other becomes a `Record`, which keeps what it was called
with and does nothing.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

# What a damaged or hostile pickle makes the reader raise.
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OverflowError,
    MemoryError,
    RuntimeError,
)


class Record:
    """An object of a class that is not read: `path` is the class's name, `args` what it was made
    with, `fields` its attributes, `items` what was put into it."""

    path = ""

    def __new__(cls, *args: Any, **named: Any) -> Record:
        """Keeps the arguments, of whatever number."""
        made = super().__new__(cls)
        made.args, made.fields, made.items = (*args, *named.values()), {}, []
        return made

    args: tuple[Any, ...]
    fields: dict[str, Any]
    items: list[Any]

    def __init__(self, *args: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if all(part is None or isinstance(part, dict) for part in parts):
            for part in parts:
                self.fields.update(part or {})
        else:
            self.fields["state"] = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, item: Any) -> None:
        """Takes what the pickle appends to a list of its own kind."""
        self.items.append(item)

    def extend(self, items: Any) -> None:
        """Takes several at once."""
        self.items.extend(items)

    def __repr__(self) -> str:
        return f"<{self.path}>"


class _Mapping(dict[Any, Any]):
    """An ordered dictionary that may carry attributes, as a module's weights do."""


class Unpickler(pickle.Unpickler):
    """Reads a pickle into plain data and records.

    `rebuild` answers names that stand for tensors, `storage` what the pickle refers to outside
    itself; without them neither is allowed.
    """

    def __init__(
        self,
        file: BinaryIO,
        rebuild: dict[str, Callable[..., Any]] | None = None,
        storage: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        # Fresh functions and classes for every file: a pickle can set attributes on what it is
        # given, and must not reach another's.
        self._known: dict[str, Any] = {
            "collections.OrderedDict": type("OrderedDict", (_Mapping,), {}),
            "torch.Size": lambda sizes=(): tuple(sizes),
            **(rebuild or {}),
        }
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name: never the thing itself."""
        path = f"{module}.{name}"
        if path not in self._known:
            dtype = getattr(torch, name, None) if module == "torch" else None
            inert = type(name.rpartition(".")[2] or "Record", (Record,), {"path": path})
            self._known[path] = dtype if isinstance(dtype, torch.dtype) else inert
        return self._known[path]

    def persistent_load(self, reference: Any) -> Any:
        """A storage outside the pickle, where this file may have any."""
        if self._storage is None:
            raise pickle.UnpicklingError("it refers to data outside itself")
        return self._storage(reference)


def plain(value: Any) -> Any:
    """The attributes of a namespace as a dictionary; anything else as it is."""
    return dict(value.fields) if isinstance(value, Record) else value
