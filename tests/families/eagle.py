"""RWKV-5 and RWKV-6 with random weights: BlinkDL's names, those of others (RWKV-7's too), formulas.

The formulas are an independent restatement from raw weights, one token and one head at a time, of
Peng et al., arXiv 2404.05892, and of what the versions before it did. The names of other programs
are restated from the scripts with which they convert BlinkDL's files.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from tests.families.reference import HIDDEN, LAYERS, VOCAB
from torch import Tensor

Weights = dict[str, Tensor]
VERSIONS = ("5.0", "5.1", "5.2", "6.0")
HEADS, SIZE, INNER = 2, HIDDEN // 2, 3 * HIDDEN
MIX_RANK, DECAY_RANK = 3, 5


def weights(version: str, seed: int = 0, *, state: bool = False) -> Weights:
    """A BlinkDL checkpoint, drawn so that every quirk shows; `state` adds a tuned initial state."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float | None = None) -> Tensor:
        scale = 1.1 * shape[-1] ** -0.5 if scale is None else scale
        return torch.randn(shape, generator=make) * scale

    def norm(name: str) -> Weights:
        weight = 1.5 + normal(HIDDEN, scale=0.5)
        return {f"{name}.weight": weight, f"{name}.bias": normal(HIDDEN, scale=0.4)}

    def mixes(prefix: str, names: str) -> Weights:
        return {f"{prefix}{name}": torch.rand(1, 1, HIDDEN, generator=make) for name in names}

    out = {"emb.weight": normal(VOCAB, HIDDEN, scale=0.5)} | norm("blocks.0.ln0")
    for i in range(LAYERS):
        block, att, ffn = f"blocks.{i}", f"blocks.{i}.att", f"blocks.{i}.ffn"
        out |= norm(f"{block}.ln1") | norm(f"{block}.ln2") | norm(f"{att}.ln_x")
        if version == "6.0":
            out |= mixes(f"{att}.time_maa_", "xwkvrg") | mixes(f"{ffn}.time_maa_", "kr")
            out[f"{att}.time_maa_w1"] = normal(HIDDEN, 5 * MIX_RANK, scale=0.3)
            out[f"{att}.time_maa_w2"] = normal(5, MIX_RANK, HIDDEN, scale=0.4)
            out[f"{att}.time_decay"] = normal(1, 1, HIDDEN, scale=1.5)
            out[f"{att}.time_decay_w1"] = normal(HIDDEN, DECAY_RANK, scale=0.4)
            out[f"{att}.time_decay_w2"] = normal(DECAY_RANK, HIDDEN, scale=0.6)
        else:
            names = "kvr" if version == "5.0" else "kvrg"
            out |= mixes(f"{att}.time_mix_", names) | mixes(f"{ffn}.time_mix_", "kr")
            shape = (HEADS, SIZE) if version == "5.2" else (HEADS,)
            out[f"{att}.time_decay"] = normal(*shape, scale=1.5)
        if version in ("5.2", "6.0"):
            out[f"{att}.time_faaaa"] = normal(HEADS, SIZE, scale=1.0)
        else:
            out[f"{att}.time_first"] = normal(HEADS, scale=1.0)
        products = ("receptance", "key", "value", "output")
        for name in products if version == "5.0" else (*products, "gate"):
            # Small values make the group norm feel its epsilon.
            scale = 0.002 if name == "value" else 0.25
            out[f"{att}.{name}.weight"] = normal(HIDDEN, HIDDEN, scale=scale)
        out[f"{ffn}.key.weight"] = normal(INNER, HIDDEN)
        out[f"{ffn}.value.weight"] = normal(HIDDEN, INNER)
        out[f"{ffn}.receptance.weight"] = normal(HIDDEN, HIDDEN)
        if state:
            out[f"{att}.time_state"] = normal(HEADS, SIZE, SIZE, scale=0.01)
    return out | norm("ln_out") | {"head.weight": normal(VOCAB, HIDDEN)}


def restated(w: Weights, ids: Tensor, version: str, eps: float = 64e-5) -> Tensor:
    """Logits (B, T, V) in fp64, from the formulas."""
    w = {name: x.double() for name, x in w.items()}
    return torch.stack([_text(w, row, version, eps) for row in ids.tolist()])


def _norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, (HIDDEN,), w[f"{name}.weight"], w[f"{name}.bias"])


def _text(w: Weights, ids: list[int], version: str, eps: float) -> Tensor:
    x = _norm(w, "blocks.0.ln0", w["emb.weight"][ids])
    for i in range(LAYERS):
        block = f"blocks.{i}"
        time = _finch if version == "6.0" else _eagle
        x = x + time(w, f"{block}.att", _norm(w, f"{block}.ln1", x), eps)
        x = x + _channel(w, f"{block}.ffn", _norm(w, f"{block}.ln2", x))
    return _norm(w, "ln_out", x) @ w["head.weight"].T


def _before(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def _channel(w: Weights, name: str, x: Tensor) -> Tensor:
    shifted = _before(x)

    def read(letter: str) -> Tensor:
        if f"{name}.time_maa_{letter}" in w:
            return x + (shifted - x) * w[f"{name}.time_maa_{letter}"][0]
        share = w[f"{name}.time_mix_{letter}"][0]
        return x * share + shifted * (1 - share)

    inner = torch.relu(read("k") @ w[f"{name}.key.weight"].T) ** 2
    gate = torch.sigmoid(read("r") @ w[f"{name}.receptance.weight"].T)
    return gate * (inner @ w[f"{name}.value.weight"].T)


def _eagle(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    inputs = {}
    for letter in "kvrg":
        if f"{name}.time_mix_{letter}" in w:
            share = w[f"{name}.time_mix_{letter}"][0]
            inputs[letter] = x * share + _before(x) * (1 - share)
    decay = torch.exp(-torch.exp(w[f"{name}.time_decay"])).reshape(HEADS, -1).expand(HEADS, SIZE)
    return _heads(w, name, inputs, decay.reshape(-1).expand(len(x), -1), eps)


def _finch(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    way = _before(x) - x
    first = torch.tanh((x + way * w[f"{name}.time_maa_x"][0]) @ w[f"{name}.time_maa_w1"])
    inputs = {}
    for at, letter in enumerate("wkvrg"):
        low = first[:, at * MIX_RANK : (at + 1) * MIX_RANK]
        share = w[f"{name}.time_maa_{letter}"][0] + low @ w[f"{name}.time_maa_w2"][at]
        inputs[letter] = x + way * share
    low = torch.tanh(inputs["w"] @ w[f"{name}.time_decay_w1"]) @ w[f"{name}.time_decay_w2"]
    return _heads(w, name, inputs, torch.exp(-torch.exp(w[f"{name}.time_decay"][0] + low)), eps)


def _heads(w: Weights, name: str, inputs: Weights, decay: Tensor, eps: float) -> Tensor:
    words = {"r": "receptance", "k": "key", "v": "value"}
    r, k, v = (inputs[one] @ w[f"{name}.{word}.weight"].T for one, word in words.items())
    if f"{name}.time_faaaa" in w:
        bonus = w[f"{name}.time_faaaa"]
    else:
        bonus = w[f"{name}.time_first"].exp()[:, None].expand(HEADS, SIZE)
    answers = []
    for head in range(HEADS):
        own = slice(head * SIZE, (head + 1) * SIZE)
        state = torch.zeros(SIZE, SIZE, dtype=r.dtype)  # keys by values
        if f"{name}.time_state" in w:
            state = w[f"{name}.time_state"][head].T
        rows = []
        for t in range(len(r)):
            pair = torch.outer(k[t, own], v[t, own])
            rows.append(r[t, own] @ (state + bonus[head][:, None] * pair))
            state = decay[t, own][:, None] * state + pair
        answers.append(torch.stack(rows))
    out = F.group_norm(
        torch.cat(answers, -1), HEADS, w[f"{name}.ln_x.weight"], w[f"{name}.ln_x.bias"], eps
    )
    if "g" in inputs:
        out = out * F.silu(inputs["g"] @ w[f"{name}.gate.weight"].T)
    return out @ w[f"{name}.output.weight"].T


def as_hub(w: Weights) -> tuple[Weights, dict[str, Any]]:
    """The names of the hub's remote code, with the configuration beside them."""
    version = 6 if "blocks.0.att.time_maa_x" in w else 5
    words = {"k": "key", "v": "value", "r": "receptance", "g": "gate"}
    out = {}
    for name, x in w.items():
        name = re.sub(r"\.att\.", ".attention.", re.sub(r"\.ffn\.", ".feed_forward.", name))
        name = re.sub(r"time_mix_([kvrg])$", lambda found: f"time_mix_{words[found[1]]}", name)
        name = name.replace("blocks.0.ln0", "blocks.0.pre_ln").replace("emb.", "embeddings.")
        out[name if name == "head.weight" else f"rwkv.{name}"] = x
    return out, {
        "architectures": [f"Rwkv{version}ForCausalLM"],
        "auto_map": {"AutoConfig": f"configuration_rwkv{version}.Rwkv{version}Config"},
        "model_type": f"rwkv{version}",
        "model_version": "5_2" if version == 5 else "6_0",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "attention_hidden_size": HIDDEN,
        "num_attention_heads": 64,
        "num_hidden_layers": LAYERS,
        "head_size": SIZE,
        "head_size_divisor": 8,
        "intermediate_size": INNER,
        "layer_norm_epsilon": 1e-5,
        "rescale_every": 6,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def as_fla(w: Weights) -> tuple[Weights, dict[str, Any]]:
    """RWKV-6 under flash-linear-attention's names, with the configuration beside them."""
    ends = {
        "emb.weight": "model.embeddings.weight",
        "blocks.0.ln0.weight": "model.layers.0.pre_norm.weight",
        "blocks.0.ln0.bias": "model.layers.0.pre_norm.bias",
        "ln_out.weight": "model.norm.weight",
        "ln_out.bias": "model.norm.bias",
        "head.weight": "lm_head.weight",
    }
    out = {theirs: w[name] for name, theirs in ends.items()}
    for i in range(LAYERS):
        att, ffn, layer = f"blocks.{i}.att", f"blocks.{i}.ffn", f"model.layers.{i}"
        for part in ("weight", "bias"):
            out[f"{layer}.attn_norm.{part}"] = w[f"blocks.{i}.ln1.{part}"]
            out[f"{layer}.ffn_norm.{part}"] = w[f"blocks.{i}.ln2.{part}"]
            out[f"{layer}.attn.g_norm.{part}"] = w[f"{att}.ln_x.{part}"]
        first = dict(zip("wkvrg", w[f"{att}.time_maa_w1"].split(MIX_RANK, dim=1), strict=True))
        second = dict(zip("wkvrg", w[f"{att}.time_maa_w2"], strict=True))
        attn = f"{layer}.attn"
        out[f"{attn}.x_proj.0.mu"] = w[f"{att}.time_maa_x"].view(-1)
        out[f"{attn}.x_proj.0.linear.weight"] = torch.cat([first[x] for x in "rwkvg"], -1).t()
        out[f"{attn}.x_proj.2.weight"] = torch.cat([second[x] for x in "rwkvg"], 0).t()
        out[f"{attn}.x_bias"] = torch.cat([w[f"{att}.time_maa_{x}"][0] for x in "rwkvg"])
        out[f"{attn}.w_proj.linear.lora.0.weight"] = w[f"{att}.time_decay_w1"].t()
        out[f"{attn}.w_proj.linear.lora.2.weight"] = w[f"{att}.time_decay_w2"].t()
        out[f"{attn}.w_proj.linear.lora.2.bias"] = w[f"{att}.time_decay"].view(-1)
        out[f"{attn}.bonus"] = w[f"{att}.time_faaaa"]
        for letter, word in zip("rkvg", ("receptance", "key", "value", "gate"), strict=True):
            out[f"{attn}.{letter}_proj.linear.weight"] = w[f"{att}.{word}.weight"]
        out[f"{attn}.o_proj.weight"] = w[f"{att}.output.weight"]
        for letter, word in (("k", "key"), ("r", "receptance")):
            out[f"{layer}.ffn.{word}.mu"] = w[f"{ffn}.time_maa_{letter}"].view(-1)
            out[f"{layer}.ffn.{word}.linear.weight"] = w[f"{ffn}.{word}.weight"]
        out[f"{layer}.ffn.value.weight"] = w[f"{ffn}.value.weight"]
    return out, {
        "architectures": ["RWKV6ForCausalLM"],
        "model_type": "rwkv6",
        "attn": None,
        "attn_mode": "chunk",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_heads": HEADS,
        "expand_k": 1,
        "expand_v": 1,
        "hidden_ratio": 3.5,
        "intermediate_size": INNER,
        "proj_low_rank_dim": MIX_RANK,
        "gate_low_rank_dim": DECAY_RANK,
        "hidden_act": "sqrelu",
        "norm_first": True,
        "norm_bias": True,
        "norm_eps": 1e-5,
        "fuse_norm": True,
        "tie_word_embeddings": False,
    }


def seven_as_fla(w: Weights) -> tuple[Weights, dict[str, Any]]:
    """RWKV-7 under flash-linear-attention's names, with the configuration beside them."""
    parts = {"emb": "embeddings", "blocks.0.ln0": "layers.0.pre_norm", "ln_out": "norm"}
    out = {"lm_head.weight": w["head.weight"]}
    for name, x in w.items():
        owner, _, end = name.rpartition(".")
        if owner in parts:
            out[f"model.{parts[owner]}.{end}"] = x
        elif owner.startswith("blocks."):
            _, layer, *inner = name.split(".")
            out |= _inner_as_fla(f"model.layers.{layer}", inner, x)
    for kind in ("0.weight", "2.weight", "2.bias"):  # layer 0 mixes nothing into its values
        del out[f"model.layers.0.attn.v_lora.lora.{kind}"]
    fields = {"decay": "w", "a": "a", "v": "v", "gate": "g"}
    last = f"blocks.{LAYERS - 1}.att"
    ranks = {f"{name}_low_rank_dim": w[f"{last}.{at}1"].shape[1] for name, at in fields.items()}
    return out, ranks | {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "head_dim": SIZE,
        "intermediate_size": 4 * HIDDEN,
        "hidden_act": "sqrelu",
        "norm_eps": 1e-5,
    }


def _inner_as_fla(layer: str, inner: list[str], x: Tensor) -> Weights:
    part, name = {"att": "attn"}.get(inner[0], inner[0]), inner[1]
    if part in ("ln1", "ln2"):
        return {f"{layer}.{'attn' if part == 'ln1' else 'ffn'}_norm.{name}": x}
    if part == "ffn":
        return {f"{layer}.ffn.{'.'.join(inner[1:])}": x.view(-1) if name == "x_k" else x}
    words = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}
    if name in words or name == "ln_x":
        return {f"{layer}.attn.{words.get(name, 'g_norm')}.{inner[2]}": x}
    if name[-1].isdigit():
        lora = {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[name[1]]
        return {f"{layer}.attn.{name[0]}_lora.lora.{lora}": x.view(-1) if name[1] == "0" else x.t()}
    return {f"{layer}.attn.{name}": x.view(-1) if name in ("k_k", "k_a") else x}
