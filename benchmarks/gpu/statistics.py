"""Streaming statistics at three sites of every layer, against the same forwards without.

A measurement of many batches is timed less one of few: what is left is what a batch costs. The
first batches, which compile, find centers and are captured, are told apart as `begin`.
"""

from __future__ import annotations

import time

import torch

from benchmarks.gpu._llama import SITES, Llama
from benchmarks.lab import Lab, Result, Target, row
from benchmarks.timing import Times
from laminogram.probe.statistics.exceedances import Exceedances
from laminogram.probe.statistics.histogram import LogHistogram
from laminogram.probe.statistics.moments import Moments
from laminogram.probe.statistics.topk import TopK

KINDS = (Moments(), Exceedances(6.0, 0), LogHistogram(), TopK(64))


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@row("llama-statistics")
def statistics(lab: Lab) -> Result:
    llama = Llama.of(lab)
    few, many = (3, 5) if lab.tiny else (6, 46)
    rows = llama.ids.shape[0]
    texts = torch.randint(0, llama.shape.vocab, (many * rows, llama.ids.shape[1]))

    def measured(batches: int) -> float:
        _wait()
        begin = time.perf_counter()
        kept = llama.view.measure(
            texts[: batches * rows], KINDS, SITES, batch_size=rows, progress=False
        )
        _wait()
        seconds = time.perf_counter() - begin
        left = kept.manifest.get("plain_statistics")
        if left and lab.device == "cuda":
            raise ValueError(f"not every site was read by the kernel: {left}")
        return seconds

    def plain(batches: int) -> float:
        _wait()
        begin = time.perf_counter()
        for _ in range(batches):
            llama.plain()
        _wait()
        return time.perf_counter() - begin

    measured(few), plain(few)
    seconds: dict[str, list[float]] = {"laminogram": [], "plain": []}
    for _ in range(lab.rounds or 5):
        short = measured(few)
        seconds["laminogram"].append((measured(many) - short) / (many - few))
        seconds["plain"].append(plain(many - few) / (many - few))
    times = Times(seconds)
    return Result(
        times,
        work=(llama.ids.numel(), "tok"),
        targets=(Target("plain", 1.05),),
        notes={"begin, seconds": round(short - few * times.median("plain"), 3)},
    )
