"""One side loads one checkpoint in this fresh process; prints one line of JSON.

`python -m benchmarks.load_once SIDE FOLDER DTYPE DEVICE THREADS time|memory`

seconds: from the call that loads to the first logits of a 16-token prompt, imports not counted.
Memory is what the process holds above what it held before loading, its libraries imported, at its
peak: `private` is memory of its own (dirty pages), `shared` clean pages of mapped files, which all
processes that read the file share and the system may drop. The peak is the largest of samples taken
every few milliseconds, which slows the work; so time and memory take a process each.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from pathlib import Path

import torch

from benchmarks.sides import SIDES

_IMPORTS = {
    "laminogram": ("laminogram.checkpoint.load", "laminogram.stack.stack"),
    "transformers": (
        "transformers.models.llama.modeling_llama",
        "transformers.models.rwkv.modeling_rwkv",
    ),
    "rwkv": ("rwkv.model",),
}
_KIB_PER_MIB = 1024


class Memory(threading.Thread):
    """Watches this process: `private` and `shared` MiB at the largest sum of both."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.base = self.peak = self._now()
        self._done = threading.Event()

    def run(self) -> None:
        while not self._done.wait(0.003):
            self._sample()

    def stop(self) -> dict[str, float]:
        """The peaks above the base, in MiB, each on its own."""
        self._done.set()
        self.join()
        self._sample()
        names = ("private_mib", "shared_mib")
        rises = (top - base for top, base in zip(self.peak, self.base, strict=True))
        return {name: rise / _KIB_PER_MIB for name, rise in zip(names, rises, strict=True)}

    def _sample(self) -> None:
        self.peak = tuple(map(max, self.peak, self._now()))

    @staticmethod
    def _now() -> tuple[int, ...]:
        """KiB of private dirty memory, and of all else that is resident."""
        found = {}
        for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]:
            name, value = line.split()[:2]
            found[name.rstrip(":")] = int(value)
        return found["Private_Dirty"], found["Rss"] - found["Private_Dirty"]


def main() -> None:
    side, folder, dtype, device, threads, what = sys.argv[1:]
    torch.set_num_threads(int(threads))
    for module in _IMPORTS[side]:
        importlib.import_module(module)
    ids = torch.arange(16)[None].to(device)
    watch = Memory() if what == "memory" else None
    if watch is not None:
        watch.start()
    begin = time.perf_counter()
    with torch.no_grad():
        value = SIDES[side](Path(folder), getattr(torch, dtype), device).last(ids)
        first = int(value.argmax())  # waits for the device
    seconds = time.perf_counter() - begin
    print(json.dumps({"seconds": seconds, "first": first} | (watch.stop() if watch else {})))


if __name__ == "__main__":
    main()
