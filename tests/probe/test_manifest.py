from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import torch

from laminogram.probe.manifest import CONDITIONS, manifest, tokens_hash


def test_the_hash_is_of_the_real_tokens_alone():
    rows = [[5, 6, 7], [8]]
    padded = torch.tensor([[5, 6, 7, 0], [8, 0, 0, 0]])
    assert tokens_hash(rows) == tokens_hash(padded, [3, 1])
    assert tokens_hash(rows) == tokens_hash(padded.numpy().astype(np.int32), torch.tensor([3, 1]))
    assert tokens_hash(padded[:1, :3]) == tokens_hash([5, 6, 7]) == tokens_hash([[5, 6, 7]])
    others = [[[5, 6], [7, 8]], [[5, 6, 7, 8]], [[8], [5, 6, 7]], [[5, 6, 7], [9]]]
    assert len({tokens_hash(rows), *map(tokens_hash, others)}) == 5


def test_every_condition_is_named():
    batch = SimpleNamespace(tokens=torch.tensor([[1, 2, 0]]), lengths=(2,))
    found = manifest({"plan": "0-3", "bos": False, "heads": 4}, batch, seeds=[1, 2])
    assert set(CONDITIONS) <= found.keys()
    assert (found["plan"], found["bos"], found["heads"], found["edits"]) == ("0-3", False, 4, None)
    assert found["seeds"] == [1, 2]
    assert found["tokens_hash"] == tokens_hash([1, 2])
    assert found["torch"] == torch.__version__
    age = datetime.now(UTC) - datetime.fromisoformat(found["date"])
    assert -2 < age.total_seconds() < 60
    assert manifest({})["tokens_hash"] is None


@dataclass
class Choice:
    site: str
    layers: tuple[int, ...]


class Order:
    def __str__(self) -> str:
        return "0-3, 2"

    def __iter__(self):
        return iter(())


def test_any_value_has_a_json_form():
    found = manifest(
        {
            "precision": torch.bfloat16,
            "edits": [Choice("q", (1, 2))],
            "plan": Order(),
            "device": torch.device("cpu"),
            "scale": np.float32(0.5),
            "limit": float("inf"),
            "dims": {3, 1},
            "vector": torch.ones(2),
        }
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["precision"] == "bfloat16"
    assert found["edits"] == [{"site": "q", "layers": [1, 2]}]
    assert found["plan"] == "0-3, 2"
    assert (found["device"], found["scale"], found["limit"]) == ("cpu", 0.5, "inf")
    assert (found["dims"], found["vector"]) == ([1, 3], [1.0, 1.0])
