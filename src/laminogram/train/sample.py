"""A little seeded text from a model in training, through its plain forward.

No cache: the cost grows with the square of the length, which is nothing at the lengths of a sample
and keeps training free of the inference engine. Axes: B prompts, T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    new_tokens: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> list[list[int]]:
    """Continue each prompt (a non-empty list of ids) by `new_tokens` ids, and return only those.

    Draws on the CPU in fp32, so the seed means the same whatever the device; the model must be
    causal, since pads to the right of a short prompt are then never seen.
    """
    device = next(model.parameters()).device
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    if int(lengths.min()) < 1:
        raise ValueError("a prompt needs at least one token")
    ids = torch.zeros(len(prompts), int(lengths.max()) + new_tokens, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(len(prompts))
    ends = lengths.clone()
    for _ in range(new_tokens):
        logits = model(ids[:, : int(ends.max())].to(device))
        last = logits[rows.to(device), (ends - 1).to(device)].float().cpu()
        ids[rows, ends] = draw(last, temperature, top_p, generator)
        ends += 1
    return [
        ids[row, int(start) : int(start) + new_tokens].tolist() for row, start in enumerate(lengths)
    ]


def draw(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> Tensor:
    """One id a row from logits (B, V): the smallest set of tokens that holds `top_p`, tempered."""
    probabilities = torch.softmax(logits / temperature, dim=-1)
    ranked, order = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(dim=-1) - ranked
    ranked = ranked.masked_fill(before >= top_p, 0.0)
    choice = torch.multinomial(ranked, 1, generator=generator)
    return order.gather(-1, choice).squeeze(-1)
