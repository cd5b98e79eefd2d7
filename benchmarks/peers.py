"""This package beside its peers: forward, decode and load on the same random weights, in one run.

    python -m benchmarks.peers                       all rows on the CPU, fp32, two threads
    python -m benchmarks.peers --rows llama-decode rwkv4-decode --rounds 21
    python -m benchmarks.peers --device cuda         bf16, larger models
    python -m benchmarks.peers --out results.json    the raw seconds of every round beside the table

Sides are interleaved, so the ratio is the median over rounds of (ours / the peer's in that round).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

# Before torch: two spinning processes on a shared machine would slow each other a hundredfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from benchmarks.capture import capture_by_hooks, capture_by_taps
from benchmarks.shapes import SHAPES, write
from benchmarks.sides import PEERS, SIDES, Side
from benchmarks.timing import Times, interleave

OURS = "laminogram"
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
SIZES = {
    "small": {"llama": "llama-125m", "rwkv4": "rwkv4-169m"},
    "large": {"llama": "llama-1.1b", "rwkv4": "rwkv4-1.5b"},
    "tiny": {"llama": "llama-tiny", "rwkv4": "rwkv4-tiny"},  # to try the command itself
}
NEW_TOKENS = 64


@dataclass(frozen=True)
class Row:
    """One measurement: `work(side, ids)` is timed for ids of the given shape."""

    kind: str
    what: str
    ids: tuple[int, int]
    tokens: int
    rounds: int
    work: Callable[[Side, torch.Tensor], object]
    value: Callable[[Side, torch.Tensor], torch.Tensor] = lambda side, ids: side.forward(ids)
    sides: tuple[str, ...] = ()


def _decode(side: Side, ids: torch.Tensor) -> list[int]:
    return side.decode(ids, NEW_TOKENS)


def _forward(side: Side, ids: torch.Tensor) -> torch.Tensor:
    return side.forward(ids)


def _last(side: Side, ids: torch.Tensor) -> torch.Tensor:
    return side.last(ids)


def _capture(side: Side, ids: torch.Tensor) -> dict:
    return capture_by_taps(side, ids) if hasattr(side, "stack") else capture_by_hooks(side, ids)


ROWS = {
    "llama-forward": Row("llama", "forward 8 x 256, all logits", (8, 256), 2048, 9, _forward),
    "llama-capture": Row(
        "llama", "the same, keeping attn/ffn/residual of all layers", (8, 256), 2048, 9, _capture
    ),
    "llama-decode": Row(
        "llama", f"16-token prompt + {NEW_TOKENS} greedy tokens", (1, 16), NEW_TOKENS, 11, _decode
    ),
    "rwkv4-prefill": Row(
        "rwkv4", "prefill of 512, last logits", (1, 512), 512, 7, _last, _last, ("rwkv",)
    ),
    "rwkv4-forward": Row("rwkv4", "forward 1 x 512, all logits", (1, 512), 512, 7, _forward),
    "rwkv4-decode": Row(
        "rwkv4", f"16-token prompt + {NEW_TOKENS} greedy tokens", (1, 16), NEW_TOKENS, 11, _decode
    ),
}
LOADS = {"llama-load": "llama", "rwkv4-load": "rwkv4"}


@dataclass
class Result:
    """What a row gave: seconds of every round, and how far the sides' values lie apart."""

    name: str
    what: str
    tokens: int
    times: Times
    apart: dict[str, float]
    memory: dict[str, dict[str, float]]

    def record(self) -> dict:
        """Plain data for `--out`."""
        peers = [side for side in self.times.seconds if side != OURS]
        return {
            "what": self.what,
            "seconds": self.times.seconds,
            "median_s": {side: self.times.median(side) for side in self.times.seconds},
            "min_s": {side: self.times.minimum(side) for side in self.times.seconds},
            "ratio": {peer: self.times.ratio(OURS, peer) for peer in peers},
            "ratio_of_minima": {peer: self.times.ratio_of_minima(OURS, peer) for peer in peers},
            "max_difference": self.apart,
            "memory_mib": self.memory,
        }

    def lines(self) -> Iterator[str]:
        """Table lines, one a side."""
        for side in self.times.seconds:
            median, best = self.times.median(side), self.times.minimum(side)
            cells = [self.name if side == OURS else "", side]
            cells += [f"{1e3 * median:.1f}", f"{1e3 * best:.1f}"]
            cells.append(f"{self.tokens / median:.0f}" if self.tokens else "")
            if side == OURS:
                cells += ["", ""]
            else:
                cells.append(f"{self.times.ratio(OURS, side):.2f}")
                cells.append(f"{self.times.ratio_of_minima(OURS, side):.2f}")
            kept = self.memory.get(side)
            cells.append(f"{kept['private_mib']:.0f} + {kept['shared_mib']:.0f}" if kept else "")
            yield "| " + " | ".join(cells) + " |"


HEADER = (
    "| row | side | median ms | min ms | tok/s | ours / peer | of the minima | "
    "peak MiB private + shared |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
)


def main() -> int:
    asked = _arguments()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device is visible to torch", file=sys.stderr)
        return 2
    torch.set_num_threads(asked.threads)
    dtype = getattr(torch, asked.dtype or ("float32" if asked.device == "cpu" else "bfloat16"))
    size = asked.size or ("small" if asked.device == "cpu" else "large")
    print(_machine(asked.device), f"{asked.threads} threads, {dtype}, {size} models.", sep="\n")
    print(HEADER, flush=True)
    results, failed = [], False
    with tempfile.TemporaryDirectory() as scratch:
        folders = {
            kind: write(SIZES[size][kind], dtype, Path(scratch))
            for kind in ("llama", "rwkv4")
            if any(name.startswith(kind) for name in asked.rows)
        }
        for result in _measure(asked, folders, dtype):
            print("\n".join(result.lines()), flush=True)
            results.append(result)
            for peer, apart in result.apart.items():
                if apart > TOLERANCE[dtype]:
                    failed = True
                    print(f"{result.name}: logits differ from {peer} by {apart:.1e} of the largest")
    if asked.out:
        rows = {result.name: result.record() for result in results}
        about = {"machine": _machine(asked.device), "threads": asked.threads, "dtype": str(dtype)}
        about["models"] = {k: SHAPES[v].config for k, v in SIZES[size].items()}
        Path(asked.out).write_text(json.dumps(about | {"rows": rows}, indent=1), encoding="utf-8")
    return 1 if failed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*ROWS, *LOADS]
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=names,
        default=names,
        metavar="ROW",
        help=f"which of {', '.join(names)}",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--size", choices=tuple(SIZES))
    parser.add_argument("--rounds", type=int, help="instead of each row's own number")
    parser.add_argument("--out", help="a JSON file for the raw numbers")
    return parser.parse_args()


def _measure(
    asked: argparse.Namespace, folders: dict[str, Path], dtype: torch.dtype
) -> Iterator[Result]:
    # Loads first: this process then holds no model, and the page cache the files just written.
    for name in asked.rows:
        if name in LOADS:
            kind = LOADS[name]
            yield _load_row(name, folders[kind], (OURS, *_present(PEERS[kind])), asked, dtype)
    for kind, folder in folders.items():
        rows = {n: ROWS[n] for n in asked.rows if n in ROWS and ROWS[n].kind == kind}
        if not rows:
            continue
        names = (OURS, *_present(PEERS[kind]))
        sides = {side: SIDES[side](folder, dtype, asked.device) for side in names}
        for name, row in rows.items():
            here = {
                s: side for s, side in sides.items() if not row.sides or s in (OURS, *row.sides)
            }
            yield _row(name, row, here, asked)
        del sides


def _present(peers: tuple[str, ...]) -> tuple[str, ...]:
    """The peers that are installed; the others are named as skipped."""
    found = []
    for peer in peers:
        if importlib.util.find_spec(peer) is None:
            print(f"{peer} is not installed here: its rows are skipped", file=sys.stderr)
        else:
            found.append(peer)
    return tuple(found)


@torch.no_grad()
def _row(name: str, row: Row, sides: dict[str, Side], asked: argparse.Namespace) -> Result:
    vocab = SHAPES[SIZES["small" if asked.size != "tiny" else "tiny"][row.kind]].vocab
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(3, vocab, row.ids, generator=generator).to(asked.device)
    values = {side: row.value(model, ids).float() for side, model in sides.items()}
    ours = values[OURS]
    apart = {
        side: float((ours.squeeze() - x.squeeze()).abs().max() / x.abs().max())
        for side, x in values.items()
        if side != OURS
    }
    del values, ours
    work = {side: _bind(row.work, model, ids) for side, model in sides.items()}
    times = interleave(work, rounds=asked.rounds or row.rounds, warmup=1)
    return Result(name, row.what, row.tokens, times, apart, {})


def _bind(
    work: Callable[[Side, torch.Tensor], object], side: Side, ids: torch.Tensor
) -> Callable[[], object]:
    return lambda: work(side, ids)


def _load_row(
    name: str,
    folder: Path,
    sides: tuple[str, ...],
    asked: argparse.Namespace,
    dtype: torch.dtype,
) -> Result:
    """Fresh processes in turn; each side's memory is the median of three of its own."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(asked.rounds or 5):
        for side in sides:
            seconds[side].append(_load(side, folder, asked, dtype, "time")["seconds"])
    memory = {}
    for side in sides:
        runs = [_load(side, folder, asked, dtype, "memory") for _ in range(3)]
        memory[side] = {
            key: statistics.median(run[key] for run in runs)
            for key in ("private_mib", "shared_mib")
        }
    what = "from the checkpoint on disk to the first logits of 16 tokens"
    return Result(name, what, 0, Times(seconds), {}, memory)


def _load(
    side: str, folder: Path, asked: argparse.Namespace, dtype: torch.dtype, what: str
) -> dict:
    word = str(dtype).removeprefix("torch.")
    script = ("-m", "benchmarks.load_once")
    command = [sys.executable, *script, side, folder, word, asked.device, str(asked.threads), what]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{side} could not load {folder.name}:\n{done.stderr}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _machine(device: str) -> str:
    names = ("torch", "transformers", "rwkv")
    versions = []
    for name in names:
        if importlib.util.find_spec(name) is not None:
            versions.append(f"{name} {importlib.metadata.version(name)}")
    if device == "cuda":
        chip = torch.cuda.get_device_name()
    else:
        models = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        chip = f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores"
    return f"{chip}; Python {platform.python_version()}, {', '.join(versions)}."


if __name__ == "__main__":
    sys.exit(main())
