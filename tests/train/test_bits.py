from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from laminogram.errors import ConfigError
from laminogram.train import Document, bits_per_byte


class Windowed(nn.Module):
    """Logits that depend on every earlier token of the row, so that windows matter."""

    def __init__(self, vocabulary: int = 11) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(vocabulary, vocabulary, generator=_generator()))

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.table[tokens]
        places = torch.arange(1, tokens.shape[1] + 1)[:, None]
        return rows.cumsum(1) / places.sqrt()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def _direct(model: nn.Module, ids: list[int], bos: int, context: int, stride: int) -> float:
    """Token by token: each in the window that scores it, by the stated rule."""
    whole = [bos, *ids]
    nats = 0.0
    for target in range(1, len(whole)):
        if target <= context:
            begin = 0
        else:
            ends = -(-(target - context) // stride) * stride + context
            begin = min(ends, len(whole) - 1) - context
        logits = model(torch.tensor([whole[begin:target]]))[0, -1]
        nats -= logits.log_softmax(-1)[whole[target]].item()
    return nats


@pytest.mark.parametrize(("context", "stride"), [(8, 8), (8, 3), (8, 1), (64, 32)])
def test_equals_a_direct_computation(context, stride):
    model = Windowed()
    generator = torch.Generator().manual_seed(1)
    texts = [torch.randint(11, (n,), generator=generator).tolist() for n in (1, 7, 8, 9, 29)]
    documents = [
        Document(name=str(i), ids=ids, size=3 * len(ids) + i) for i, ids in enumerate(texts)
    ]
    whole, parts = bits_per_byte(model, documents, bos=0, context=context, stride=stride, batch=4)
    for document, part in zip(documents, parts, strict=True):
        nats = _direct(model, list(document.ids), 0, context, stride)
        assert part.nats == pytest.approx(nats, rel=1e-5)
        assert part.value == pytest.approx(nats / math.log(2) / document.size, rel=1e-5)
        assert part.tokens == len(document.ids)
    assert whole.nats == pytest.approx(sum(part.nats for part in parts))
    assert whole.size == sum(document.size for document in documents)


def test_a_uniform_model_needs_the_logarithm_of_its_vocabulary():
    model = Windowed()
    nn.init.zeros_(model.table)
    whole, _ = bits_per_byte(
        model, [Document(name="a", ids=[1] * 50, size=100)], bos=0, context=16, stride=8
    )
    assert whole.value == pytest.approx(50 * math.log2(11) / 100)
    assert whole.nats_per_token == pytest.approx(math.log(11))


@pytest.mark.parametrize("stride", [0, 17])
def test_refuses_a_stride_that_skips_or_repeats(stride):
    with pytest.raises(ConfigError, match="stride"):
        bits_per_byte(Windowed(), [], bos=0, context=16, stride=stride)
