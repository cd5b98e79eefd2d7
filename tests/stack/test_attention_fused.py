"""A layer of attention for one token in one call: the numbers of the usual path, and of the
memory."""

from dataclasses import replace

import pytest
import torch
from tests.stacks import relative
from torch import nn

from laminogram.infer.generate import generate
from laminogram.stack import context
from laminogram.stack.cache import BlockSlot
from laminogram.stack.config import (
    AttentionConfig,
    LatentAttentionConfig,
    LayerConfig,
    MLPConfig,
    MoEConfig,
    NormConfig,
    RopeConfig,
    StackConfig,
)
from laminogram.stack.context import Rotary
from laminogram.stack.kernels import matvec
from laminogram.stack.layer import Layer
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.fused import FusedDecoder
from laminogram.stack.quantise.int8 import Int8
from laminogram.stack.quantise.packed import Packed
from laminogram.stack.stack import Stack
from laminogram.stack.taps import NO_TAPS, Taps
from laminogram.view import View, load

pytest.importorskip("numba")

CLOSE = {torch.float32: 5e-6, torch.bfloat16: 3e-2}
TAPPED = Taps(reads=("z",))  # a tap takes the usual path
RMS = NormConfig(kind="rms", eps=1e-6)
LAYER = LayerConfig(
    block="pre",
    norm=RMS,
    attn=AttentionConfig(
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        rope=RopeConfig(theta=1e4, rotary_dims=32),
    ),
    ffn=MLPConfig(intermediate_size=160, activation="silu", gated=True),
)
SIZE = 96
TURNED = RopeConfig(theta=1e4, rotary_dims=8)
LATENT = LatentAttentionConfig(
    num_attention_heads=4,
    kv_lora_rank=32,
    qk_nope_head_dim=20,
    qk_rope_head_dim=16,
    v_head_dim=24,
    rope=RopeConfig(theta=1e4, rotary_dims=16),
    norm=RMS,
)
EXPERTS = MoEConfig(num_experts=8, num_experts_per_tok=2, intermediate_size=64, activation="silu")
PRODUCTS = ("attn.q", "attn.k", "attn.v", "attn.o", "ffn.gate", "ffn.up", "ffn.down")


@pytest.fixture(autouse=True)
def small_too(monkeypatch):
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1)


def attended(**changes):
    return replace(LAYER, attn=replace(LAYER.attn, **changes))


def stack_config(config, layers=1):
    return StackConfig(
        family="test",
        hidden_size=SIZE,
        vocab_size=50,
        layers=(config,) * layers,
        final_norm=config.norm,
    )


class Bench:
    """A layer, two equal memories, and tokens that go through both paths."""

    def __init__(self, config=LAYER, dtype=torch.float32, capacity=8):
        self.stack_config, self.dtype = stack_config(config), dtype
        self.rotary = Rotary(self.stack_config)
        self.layer = drawn(Layer(config, SIZE, self.rotary)).to(dtype)
        self.slot, self.usual = (self.layer.new_slot(1, capacity, "both") for _ in range(2))
        self.seen = 0

    def context(self):
        keys, device = context.mask_keys(self.stack_config), torch.device("cpu")
        self.seen += 1
        of = (1,), 1, (self.seen - 1,), (self.seen,)
        return context.build(self.rotary, keys, *of, device=device, dtype=self.dtype)

    @torch.no_grad()
    def tokens(self, count=3, *, decoded=True):
        """Tokens through both paths, to equal memories."""
        for _ in range(count):
            ctx = self.context()
            for slot in (self.slot, self.usual):
                slot.attn.reserve(self.seen)
            x = torch.randn(1, 1, SIZE, generator=torch.Generator().manual_seed(self.seen))
            x = x.to(self.dtype)
            found = self.layer(x.clone(), ctx, self.slot, NO_TAPS)
            expected = self.layer(x.clone(), ctx, self.usual, TAPPED)
            assert isinstance(self.slot.decoder, FusedDecoder) == decoded
            assert self.usual.decoder is None
            close = CLOSE[self.dtype]
            assert found.dtype is x.dtype and relative(found, expected) < close
            for name, memory in self.slot.attn.tensors().items():
                assert relative(memory, self.usual.attn.tensors()[name]) < close


def drawn(module):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.normal_(0, 0.2, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return module.requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_paths_agree_and_the_decoder_is_kept(dtype):
    bench = Bench(dtype=dtype)
    bench.tokens()
    kept = bench.slot.decoder
    bench.tokens(2)
    assert bench.slot.decoder is kept


@pytest.mark.parametrize("per", ["row", "tensor"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_int8_weights(per, dtype):
    bench = Bench(dtype=dtype)
    for path in PRODUCTS:
        product = bench.layer.get_submodule(path)
        packed = Packed(product.weight, Int8(per))
        del product.weight
        product.weight = packed
    bench.tokens()


@pytest.mark.parametrize(
    "config",
    [
        attended(num_key_value_heads=4),
        attended(num_key_value_heads=1),
        attended(num_attention_heads=6, num_key_value_heads=3, head_dim=16, rope=None),
        attended(head_dim=80, rope=RopeConfig(theta=1e4, rotary_dims=20)),
        attended(head_dim=64, window=4, scale=0.3),
        attended(qkv_bias=True, o_bias=True),
        replace(LAYER, norm=NormConfig(kind="layer", bias=True)),
        replace(LAYER, norm=replace(RMS, offset=1.0)),
        replace(LAYER, ffn=MLPConfig(intermediate_size=64, activation="relu", bias=True)),
        replace(LAYER, ffn=MLPConfig(intermediate_size=64, activation="gelu_new", bias=True)),
        replace(LAYER, ffn=MLPConfig(intermediate_size=64, activation="gelu", gated=True)),
        replace(LAYER, ffn=MLPConfig(intermediate_size=64, activation="relu2", gated=True)),
        attended(qk_norm=replace(RMS, eps=0.3)),
        attended(qk_norm=NormConfig(kind="layer", bias=True)),
        attended(alibi=True, rope=None),
        attended(num_attention_heads=6, num_key_value_heads=3, alibi=True, rope=None, window=3),
        attended(log_n=2),
        replace(LAYER, block="parallel"),
        replace(attended(o_bias=True), block="parallel", norm=NormConfig(kind="layer", bias=True)),
        replace(LAYER, block="sandwich"),
        replace(LAYER, block="sandwich", norm=replace(RMS, eps=0.3, bias=True)),
    ],
)
def test_what_a_layer_can_be_made_of(config):
    Bench(config).tokens(7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"q_lora_rank": 64, "bias": True},
        {"scale": 0.2, "kv_lora_rank": 128, "norm": replace(RMS, eps=0.3, bias=True)},
    ],
    ids=str,
)
def test_a_latent_attention(changes, dtype):
    Bench(replace(LAYER, attn=replace(LATENT, **changes)), dtype, capacity=2).tokens(9)


@torch.no_grad()
def test_keys_and_values_beside_the_latents_go_the_usual_way():
    bench = Bench(replace(LAYER, attn=LATENT))
    bench.tokens(1)
    for slot in (bench.slot, bench.usual):
        keys, values = bench.layer.attn._expand(slot.attn.latent[:, 0])
        slot.attn.k, slot.attn.v = (x.transpose(1, 2).contiguous() for x in (keys, values))
    kept = bench.slot.decoder
    bench.tokens(2)
    assert bench.slot.decoder is kept  # of no more use


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_experts_per_tok": 8, "activation": "gelu"},
        {"num_experts_per_tok": 1, "routed_scaling_factor": 2.5},
        {"norm_topk_prob": True, "router_fp32": True},
        {"scoring": "sigmoid", "correction_bias": True, "norm_topk_prob": True},
        {"n_group": 4, "topk_group": 2},
        {"n_group": 2, "topk_group": 1, "best_of_group": 2, "scoring": "sigmoid"},
        {"shared_intermediate_size": 96},
        {"shared_intermediate_size": 32, "shared_gate": True, "num_experts": 40},
    ],
    ids=str,
)
def test_a_mixture_of_experts(changes, dtype):
    Bench(replace(LAYER, ffn=replace(EXPERTS, **changes)), dtype).tokens(7)


def test_experts_in_int8():
    bench = Bench(replace(LAYER, ffn=replace(EXPERTS, shared_intermediate_size=64)))
    for module in list(bench.layer.ffn.modules()):
        for name, product in module.named_children():
            if type(product) is Linear and name != "router":
                packed = Packed(product.weight, Int8("row"))
                del product.weight
                product.weight = packed
    bench.tokens()


@torch.no_grad()
def test_experts_that_are_no_numbers_are_chosen_once_and_seen():
    bench = Bench(replace(LAYER, ffn=replace(EXPERTS, num_experts_per_tok=4)))
    bench.layer.ffn.router.weight.fill_(torch.nan)
    out = bench.layer(torch.ones(1, 1, SIZE), bench.context(), bench.slot, NO_TAPS)
    assert isinstance(bench.slot.decoder, FusedDecoder) and out.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_memory_that_grows(dtype):
    Bench(dtype=dtype, capacity=0).tokens(70)


@pytest.mark.parametrize(
    "config",
    [
        attended(head_dim=24, rope=None),  # no whole number of loads
        replace(LAYER, attn=replace(LATENT, kv_lora_rank=40)),
        replace(
            LAYER,
            attn=replace(LATENT, qk_rope_head_dim=8, rope=RopeConfig(theta=1e4, rotary_dims=8)),
        ),
        attended(num_attention_heads=3, num_key_value_heads=3, head_dim=16, rope=None),  # o's rows
        replace(LAYER, ffn=replace(LAYER.ffn, activation="tanh")),
        replace(LAYER, ffn=replace(EXPERTS, activation="tanh")),
        replace(LAYER, ffn=replace(EXPERTS, intermediate_size=40)),  # no whole number of loads
    ],
)
def test_what_the_kernel_does_not_know_goes_the_usual_way(config):
    Bench(config).tokens(2, decoded=False)


@torch.no_grad()
def test_small_layers_gradients_and_other_memories_go_the_usual_way(monkeypatch):
    bench = Bench()
    ctx, x = bench.context(), torch.randn(1, 1, SIZE)
    with torch.enable_grad():
        bench.layer(x, ctx, bench.slot, NO_TAPS)
    assert bench.slot.decoder is None
    bench.layer(x, replace(ctx, start=None), bench.slot, NO_TAPS)  # a captured step
    assert bench.slot.decoder is None
    monkeypatch.setattr(matvec, "LEAST_ENTRIES", 1 << 20)
    Bench().tokens(1, decoded=False)


BIASED = replace(attended(qkv_bias=True, o_bias=True), norm=replace(RMS, bias=True))
MIXED = replace(LAYER, ffn=replace(EXPERTS, num_experts=3, shared_intermediate_size=32))


@pytest.mark.parametrize("config", [BIASED, MIXED, replace(LAYER, attn=LATENT)])
@pytest.mark.parametrize("how", ["written", "replaced", "moved"])
def test_a_change_of_any_parameter_is_seen(how, config):
    bench = Bench(config)
    bench.tokens(1)
    for name, parameter in list(bench.layer.named_parameters()):
        owner = bench.layer.get_submodule(name.rpartition(".")[0])
        new = parameter * 0.9 + 0.01
        if how == "written":
            parameter.copy_(new)
        elif how == "replaced":
            setattr(owner, name.rpartition(".")[2], nn.Parameter(new, requires_grad=False))
        else:
            parameter.data = new
        bench.tokens(1)


def test_experts_that_changed_between_two_caches_are_read_anew():
    bench = Bench(MIXED)
    bench.tokens(1)
    for change in (lambda x: x.copy_(x * 2), lambda x: setattr(x, "data", x * 0.3)):
        change(bench.layer.ffn.expert(1).down.weight)
        bench.slot, bench.usual = (bench.layer.new_slot(1, 8, "both") for _ in range(2))
        bench.seen = 0
        bench.tokens(2)


@pytest.mark.parametrize("path", ["attn", "ffn", "attn_norm", "ffn_norm", "attn.k", "ffn.down"])
def test_another_module_is_seen(path):
    bench, other = Bench(), Bench()
    bench.tokens(1)
    owner, _, name = path.rpartition(".")
    new = other.layer.get_submodule(path)
    for parameter in new.parameters():
        parameter.mul_(0.8)
    setattr(bench.layer.get_submodule(owner), name, new)
    bench.tokens(2)


@torch.no_grad()
def test_hooks_on_a_mixer_are_called():
    bench, calls = Bench(), []
    bench.tokens(1)
    handle = bench.layer.attn.register_forward_hook(lambda *_: calls.append(1))
    bench.layer(torch.ones(1, 1, SIZE), bench.context(), bench.slot, NO_TAPS)
    assert calls == [1]
    handle.remove()
    bench.layer(torch.ones(1, 1, SIZE), bench.context(), bench.slot, NO_TAPS)
    assert calls == [1]


@torch.no_grad()
def test_what_is_not_a_number_stays_so():
    bench = Bench()
    bench.layer.attn.v.weight[0, 0] = torch.nan
    out = bench.layer(torch.ones(1, 1, SIZE), bench.context(), bench.slot, NO_TAPS)
    assert isinstance(bench.slot.decoder, FusedDecoder) and out.isnan().all()


def view_of_layers(config=LAYER, layers=3):
    stack = drawn(Stack(stack_config(config, layers)))
    return View(stack, None, "test", stack.full_plan())


def decoders(past):
    return [isinstance(slot.decoder, FusedDecoder) for slot in past.cache.slots]


def test_a_fork_of_a_cache_goes_on_by_itself():
    view = view_of_layers()
    made = generate(view, [[3, 1, 4]], max_new_tokens=4)
    fork = made.cache.fork()
    assert all(decoders(made.cache)) and not any(decoders(fork))
    one, other = (generate(view, [[9, 2]], max_new_tokens=6, cache=c) for c in (made.cache, fork))
    assert one[0].tokens == other[0].tokens
    assert all(decoders(fork))
    text = [[3, 1, 4, *made[0].tokens, 9, 2]]
    assert generate(view, text, max_new_tokens=6, use_cache=False)[0].tokens == one[0].tokens


@pytest.mark.parametrize("plan", ["0-2, 1, 2-0", "0, mean(1-2), 1", "0.attn, 1, 2.ffn"])
def test_any_plan_says_the_same_with_the_cache_as_without(plan):
    view = view_of_layers().using(plan=plan)
    made, uncached = (
        generate(view, [[3, 1, 4]], max_new_tokens=8, use_cache=use) for use in (True, False)
    )
    assert made[0].tokens == uncached[0].tokens
    for step, slot in zip(view.plan, made.cache.cache.slots, strict=True):
        served = step.part == "both" and not isinstance(slot.attn, BlockSlot)
        assert isinstance(slot.decoder, FusedDecoder) == served


def test_the_greedy_text_of_transformers():
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained("zoo/small-llama", dtype="float32")
    view, prompt = load("zoo/small-llama"), [17, 230, 1045]
    how = {"min_new_tokens": 24, "max_new_tokens": 24, "do_sample": False}
    expected = model.generate(torch.tensor([prompt]), **how)[0, len(prompt) :].tolist()
    made = generate(view, [prompt], max_new_tokens=24, stop_at_eos=False)
    assert list(made[0].tokens) == expected and all(decoders(made.cache))
