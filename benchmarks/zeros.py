"""How much of what follows RWKV's squared ReLU is exactly zero, and what leaving it out gains.

    python -m benchmarks.zeros --text FILE                   small-rwkv4 and the tiny models
    python -m benchmarks.zeros --text FILE --device cuda     and tokens/s with and without

FILE is text that the models have not seen; its first `--tokens` are read. What a trained model of
another size would gain is no measurement: the last line computes how many bytes of RWKV-4 1.5 B
would be read for a token at the share that was found.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

import laminogram
from benchmarks.gpu._rwkv import RWKV4
from benchmarks.timing import interleave
from laminogram.infer.decode_graph import DecodeGraph

ZOO = Path(__file__).parents[1] / "zoo"
MODELS = (str(ZOO / "small-rwkv4"), "tiny-rwkv4", str(ZOO / "tiny-rwkv7"))
STEPS, PROMPT = 64, 16


def main() -> int:
    asked = _arguments()
    text = asked.text.read_text(encoding="utf-8")
    shares = []
    with torch.no_grad():
        for name in asked.models:
            view = laminogram.load(name, dtype=asked.dtype, device=asked.device)
            ids = view.tokens(text[: 8 * asked.tokens]).tokens[:, : asked.tokens]
            by_layer = zeros(view, ids)
            shares.append(statistics.mean(by_layer))
            cells = " ".join(f"{share:.1%}" for share in by_layer)
            print(f"{view.name}: {shares[-1]:.1%} zeros over {ids.numel()} tokens; layers: {cells}")
            if asked.device == "cuda":
                rates = decoded(view, ids[0, :PROMPT].tolist(), asked.rounds)
                print(f"{view.name}: {rates[False]:.0f} tok/s, {rates[True]:.0f} with rows skipped")
    whole, down = weights_of_a_token()
    for share in (min(shares), max(shares)):
        print(
            f"computed, RWKV-4 1.5 B in 16 bits: {2e-9 * whole:.2f} GB a token, "
            f"{2e-9 * (whole - share * down):.2f} at {share:.1%} zeros"
        )
    return 0


def zeros(view: Any, ids: torch.Tensor) -> list[float]:
    """The share of zeros at `ffn_act` of each layer, over all tokens and channels."""
    layers, found = range(view.config.num_layers), {}

    def keep(site: str, step: int, x: torch.Tensor) -> None:
        found[step] = float((x == 0).double().mean())

    reads = dict.fromkeys(layers, ("ffn_act",))
    view.run(view.tokens(ids), logits="none", observer=view.program(reads=reads, sink=keep))
    return [found[layer] for layer in layers]


def decoded(view: Any, prompt: list[int], rounds: int) -> dict[bool, float]:
    """Tokens a second of captured steps, with rows of zeros skipped and without.

    A step is captured for one layout of the weights, so both take turns over two models.
    """
    works = {}
    other = laminogram.load(view.source.path, dtype=view.dtype, device=view.device)
    other.stack.skip_zero_rows()
    for skip, one in ((False, view), (True, other)):
        graph = DecodeGraph(one, 1, 512)
        first = graph.start([prompt]).argmax(-1)

        def steps(graph: DecodeGraph = graph, first: torch.Tensor = first) -> None:
            graph.cache.lengths, ids = [len(prompt)], first
            graph.place()
            for _ in range(STEPS):
                ids = graph.step(ids).argmax(-1)

        works[str(skip)] = steps
    times = interleave(works, rounds=rounds)
    return {skip: STEPS / times.median(str(skip)) for skip in (False, True)}


def weights_of_a_token() -> tuple[int, int]:
    """Numbers that RWKV-4 1.5 B reads for a token, and those of them after the squared ReLU."""
    products = RWKV4.products(1)
    down = RWKV4.layers * RWKV4.size * RWKV4.ffn
    return sum(count * inputs * outputs for count, _, inputs, outputs in products), down


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zeros")
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
