"""Raw tensors of three sites of every layer to host memory, over 20 batches.

The limit is the larger of the forward without and the time that the bytes take over the link.
"""

from __future__ import annotations

import resource
import time

import torch

from benchmarks.gpu._llama import SITES, Llama
from benchmarks.lab import Lab, Result, Skip, Target, row
from benchmarks.limits import link_rate, seconds
from benchmarks.timing import Times


@row("llama-recording")
def recording(lab: Lab) -> Result:
    if lab.device != "cuda":
        raise Skip("there is no link to a GPU here")
    llama = Llama.of(lab)
    batches, rows = 20, llama.ids.shape[0]
    texts = llama.ids.cpu().repeat(batches, 1)
    held = 0

    def recorded() -> float:
        nonlocal held
        torch.cuda.synchronize()
        begin = time.perf_counter()
        for gram in llama.view.recordings(texts, SITES, batch_size=rows):
            held = gram.nbytes
        torch.cuda.synchronize()
        return (time.perf_counter() - begin) / batches

    before = _host_peak()
    recorded()
    times = Times({"laminogram": [recorded() for _ in range(lab.rounds or 3)]})
    peak = _host_peak()
    plain, over_link = seconds(llama.plain, repeat=5), held / link_rate()
    return Result(
        times,
        work=(llama.ids.numel(), "tok"),
        limit=max(plain, over_link),
        limit_is="the larger of the forward and the bytes over the link",
        targets=(Target("limit", 1.10),),
        notes={
            "forward, ms": round(1e3 * plain, 2),
            "bytes over the link, ms": round(1e3 * over_link, 2),
            "a batch, MB": held >> 20,
            "peak host memory, MB": peak >> 10,
            "of it before any recording, MB": before >> 10,
        },
    )


def _host_peak() -> int:
    """The largest resident size of this process so far, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
