"""A plain forward of Llama 1.1 B over 8 x 512 tokens, without the head."""

from __future__ import annotations

from benchmarks.gpu._llama import Llama, apart
from benchmarks.lab import Lab, Result, Target, row

_FAR = 0.03  # of the largest value: bf16 through 16 layers


@row("llama-forward", needs=("transformers",))
def forward(lab: Lab) -> Result:
    llama = Llama.of(lab)
    model = llama.peer()

    def theirs() -> object:
        return model.model(llama.ids, use_cache=False).last_hidden_state

    difference = max(apart(llama.plain(), theirs()) for _ in range(3))  # the third is a replay
    if difference > _FAR:
        raise ValueError(f"the two models differ by {difference:.3f} of the largest value")
    times = lab.race({"laminogram": llama.plain, "transformers": theirs}, repeat=10)
    return Result(
        times,
        work=(llama.ids.numel(), "tok"),
        limit=llama.products(),
        limit_is="its own products",
        targets=(Target("transformers", 0.60),),
        notes={"largest difference": round(difference, 4)},
    )
