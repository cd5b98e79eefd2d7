from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open

from laminogram.errors import SiteError
from laminogram.probe.gram import Gram, MissingError
from laminogram.probe.manifest import tokens_hash
from laminogram.probe.store import StoreError

AXES = {"ffn_out": ("B", "T", "C"), "pattern": ("B", "H", "T", "S"), "embed": ("B", "T", "C")}
LAYERS = {0: (0, None), 1: (3, None), 2: (3, "ffn"), 4: (1, None)}


def make(rows: int = 2, length: int = 3, left: bool = False, seed: int = 0, **changes) -> Gram:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        ("ffn_out", step): torch.randn(rows, length, 4, generator=generator).bfloat16()
        for step in LAYERS
    }
    tensors["pattern", 1] = torch.rand(rows, 2, length, length, generator=generator)
    tensors["embed", -1] = torch.rand(rows, length, 4, generator=generator).half()
    mask = torch.ones(rows, length, dtype=torch.bool)
    if length > 1:
        mask[-1, 0 if left else -1] = False
    options = {
        "tensors": tensors,
        "axes": AXES,
        "step_layers": LAYERS,
        "tokens": torch.arange(rows * length).reshape(rows, length) + 100 * seed,
        "mask": mask,
        "prompt_lengths": [2] * rows,
        "token_texts": [[f"t{t}é\ud800" for t in range(length)]] * rows,
        "manifest": {"plan": "0-3", "date": f"{seed}", "tokens_hash": "?"},
    }
    return Gram(**{**options, **changes})


def test_arrays_and_their_names():
    gram = make()
    assert gram["ffn_out"].shape == (4, 2, 3, 4)
    assert gram["ffn_out"].dtype == np.float32
    assert gram["embed"].dtype == np.float16
    assert gram.sites == ("ffn_out", "pattern", "embed")
    assert gram.steps == (-1, 0, 1, 2, 4)
    assert gram.axes("pattern") == ("B", "H", "T", "S")
    assert gram.layer(3) == [1, 2]
    assert gram.tokens.dtype == np.int64
    assert gram.mask.sum() == 5
    assert gram.prompt_lengths.tolist() == [2, 2]
    assert gram.nbytes == 4 * 24 * 2 + 36 * 4 + 24 * 2
    assert torch.equal(gram.tensor("ffn_out", 4).float(), torch.tensor(gram["ffn_out", 4]))
    assert len(gram) == len(list(gram)) == 6
    assert dict(gram.items())["pattern", 1].shape == (2, 2, 3, 3)


def test_membership():
    gram = make()
    assert "ffn_out" in gram
    assert ("ffn_out", 4) in gram
    assert "q" not in gram
    assert ("pattern", 0) not in gram
    assert 3 not in gram


def test_reading_cannot_change_the_record():
    gram = make()
    with pytest.raises(ValueError, match="read-only"):
        gram["pattern", 1][:] = 0
    gram["pattern"][:] = 0
    assert gram["pattern", 1].any()


def test_errors_name_what_exists():
    gram = make()
    for look in (lambda: gram["q"], lambda: gram["q", 1], lambda: gram.axes("q")):
        with pytest.raises(SiteError, match=r"site 'q' was not recorded; .* ffn_out, pattern"):
            look()
    with pytest.raises(KeyError, match=r"at step 3; only at 0-2, 4$"):
        gram["ffn_out", 3]
    with pytest.raises(SiteError, match=r"no step of layer 2 .* layers 0-1, 3"):
        gram.layer(2)
    with pytest.raises(SiteError, match="site 'q'"):
        gram.select(sites="q")
    with pytest.raises(SiteError, match="step 9 was not recorded"):
        gram.select(steps=9)
    with pytest.raises(SiteError, match="none of the sites pattern was recorded at the steps 0"):
        gram.select(sites="pattern", steps=0)


def test_steps_of_different_shapes_are_not_stacked():
    tensors = {("ffn_act", 0): torch.ones(1, 2, 3), ("ffn_act", 1): torch.ones(1, 2, 5)}
    gram = Gram(tensors, {"ffn_act": "BTF"}, {}, torch.ones(1, 2), torch.ones(1, 2))
    with pytest.raises(SiteError, match=r"differ in shape .*gram\['ffn_act', step\]"):
        gram["ffn_act"]
    assert gram["ffn_act", 1].shape == (1, 2, 5)
    assert "varies" in repr(gram)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3, 4), (2, 2, 4)])
def test_a_tensor_that_does_not_fit_the_tokens_is_refused(shape):
    with pytest.raises(ValueError, match=r"ffn_out at step 0 .* 2 rows of 3 tokens"):
        make(tensors={("ffn_out", 0): torch.ones(shape)})


def test_select():
    gram = make().select(sites=["ffn_out", "pattern"], steps=(1, 2))
    assert list(gram) == [("ffn_out", 1), ("ffn_out", 2), ("pattern", 1)]
    assert gram.step_layers == {1: (3, None), 2: (3, "ffn")}
    assert gram.manifest == make().manifest


def test_printing():
    text = repr(make())
    assert "Gram of 5 tokens in 2 x 3, 6 arrays" in text
    assert "ffn_out  B T C    2 3 4    bfloat16  0-2, 4" in text
    page = make(axes={**AXES, "ffn_out": ("B", "T", "<C>")})._repr_html_()
    assert "&lt;C&gt;" in page
    assert page.count("<tr>") == 4


def same(a: Gram, b: Gram) -> None:
    assert list(a) == list(b)
    for key in a:
        assert a.tensor(*key).dtype == b.tensor(*key).dtype
        assert torch.equal(a.tensor(*key), b.tensor(*key))
        assert a.axes(key[0]) == b.axes(key[0])
    for name in ("tokens", "mask", "prompt_lengths"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    assert a.step_layers == b.step_layers
    assert a.token_texts == b.token_texts
    assert a.manifest == b.manifest


def test_a_file_gives_back_every_bit(tmp_path):
    gram = make()
    path = tmp_path / "gram.safetensors"
    gram.save(path)
    same(Gram.load(path), gram)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with safe_open(path, "pt") as file:
        assert '"plan": "0-3"' in file.metadata()["manifest"]
    make(seed=1, token_texts=None).save(path)  # over the old one
    same(Gram.load(path), make(seed=1, token_texts=None))


def test_nan_and_views_of_one_buffer_survive(tmp_path):
    buffer = torch.randn(2, 1, 3, 4)
    buffer[0, 0, 0, 0] = float("nan")
    tensors = {("ffn_out", step): buffer[part] for step, part in ((0, 0), (1, 1), (2, 0))}
    gram = Gram(tensors, AXES, {}, torch.ones(1, 3), torch.ones(1, 3))
    gram.save(tmp_path / "g")
    again = Gram.load(tmp_path / "g")
    for step, part in ((0, 0), (1, 1), (2, 0)):
        assert again["ffn_out", step].tobytes() == buffer[part].numpy().tobytes()


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "gram.safetensors"
    make().save(path)
    with pytest.raises(TypeError):
        make(manifest={"model": object()}).save(path)
    same(Gram.load(path), make())
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "gram.safetensors"
    with pytest.raises(StoreError, match="there is no file"):
        Gram.load(path)
    make().save(path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(StoreError, match="cannot be read"):
        Gram.load(path)


@pytest.mark.parametrize("left", [False, True])
def test_concatenate_pads_on_the_side_that_is_padded(left):
    short, long = make(left=left), make(rows=1, length=5, left=left, seed=1)
    gram = Gram.concatenate([short, long])
    assert gram.tokens.shape == (3, 5)
    columns = slice(2, None) if left else slice(0, 3)
    for site, step in short:
        array = gram[site, step]
        index = tuple(
            slice(0, 2) if axis == "B" else columns if axis in "TS" else slice(None)
            for axis in gram.axes(site)
        )
        assert np.array_equal(array[index], short[site, step])
        assert np.array_equal(array[2:], long[site, step])
    assert np.array_equal(gram.mask[:2, columns], short.mask)
    assert gram.mask.sum() == short.mask.sum() + long.mask.sum()
    assert gram.token_texts[0][columns] == short.token_texts[0]
    assert gram.prompt_lengths.tolist() == [2, 2, 2]
    real = [row[kept] for row, kept in zip(gram.tokens, gram.mask, strict=True)]
    assert gram.manifest == {"plan": "0-3", "date": "0", "tokens_hash": tokens_hash(real)}


def test_concatenate_refuses_different_recordings():
    with pytest.raises(ValueError, match="gram 1 differs from gram 0 in its sites and steps"):
        Gram.concatenate([make(), make().select(steps=1)])
    with pytest.raises(ValueError, match="no grams"):
        Gram.concatenate([])
    other = make(manifest={"plan": "1-3"})
    assert len(Gram.concatenate([make(), other]).manifest["parts"]) == 2


def test_what_is_no_address_is_named(tmp_path):
    gram = make()
    site = gram.sites[0]
    for key in (0, (site, 1, 2), None):
        with pytest.raises(MissingError, match=r"gram\[site\] or gram\[site, step\]"):
            gram[key]
    with pytest.raises(MissingError, match="at step '1'"):
        gram[site, "1"]
    with pytest.raises(StoreError, match=r"no folder .*missing"):
        gram.save(tmp_path / "missing" / "gram.safetensors")
