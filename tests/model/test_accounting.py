"""The closed formulas against the module they describe, against published figures, and against arithmetic by hand.

counts.json holds, for every preset, figures worked out apart from this project and checked against Transformers: total,
active, active without the input table, active without both tables, cache bytes a token in bf16 and of 32,768 tokens,
operations of a decode step at 1,024 and at 32,768 tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model import presets
from model.config import Architecture, Encoder, FeedForward, MoE
from model.dense import dense_input, dense_memory
from model.footprint import cache_bytes, cache_bytes_per_token, memory_bytes, read_bytes
from model.initialise import random_model
from model.operations import Operations, encoding_flops, flops, flops_per_token
from model.parameters import parameters
from model.presets.scale import shortened
from model.roofline import Machine, distinct_experts, largest_batch, largest_context, roofline, weight_bytes_per_step
from model.transformer import Transformer
from tests.model import cases, test_beyond, test_encoder_decoder, test_serving_beyond

COUNTS: dict[str, list[int]] = json.loads((Path(__file__).parent / "counts.json").read_text())
COUNTED = pytest.mark.parametrize("name", COUNTS)
EVERY = pytest.mark.parametrize("name", presets.names())
VALUES = {
    **cases.CASES,
    **test_serving_beyond.CASES,
    "switch": test_beyond.switch_architecture(),
    "vision": test_beyond.vision_architecture(),
    "indexed": test_beyond.indexed_architecture(4),
    "paired": test_beyond.paired_architecture(),
    "original": test_encoder_decoder.original(),
}


def built(architecture: Architecture) -> int:
    with torch.device("meta"):
        model = Transformer(architecture)
    return sum(parameter.numel() for parameter in model.parameters())


# ---------------------------------------------------------------------------------------------- against the module


@pytest.mark.parametrize("architecture", VALUES.values(), ids=VALUES.keys())
def test_every_value_is_counted(architecture: Architecture) -> None:
    assert parameters(architecture).total == built(architecture)


@EVERY
def test_a_preset_has_what_is_built(name: str) -> None:
    """Each pattern of its layers once: more of them are more of the same."""
    whole = presets.load(name)
    short = replace(whole, blocks=shortened(whole.blocks, 1))
    if whole.encoder is not None:
        short = replace(short, encoder=Encoder(shortened(whole.encoder.blocks, 1), whole.encoder.norm))
    assert parameters(short).total == built(short)


@pytest.mark.parametrize("name", ["deepseek-v3", "switch-base-8", "gemma-4-26b-a4b", "llama-3.2-11b-vision", "gpt2-xl"])
def test_whole_stacks_have_what_is_built(name: str) -> None:
    assert parameters(presets.load(name)).total == built(presets.load(name))


# ---------------------------------------------------------------------------------------------- against figures


@COUNTED
def test_parameters_to_the_digit(name: str) -> None:
    architecture = presets.load(name)
    total, active, _, inner, *_ = COUNTS[name]
    counted = parameters(architecture)
    assert (counted.total, counted.active, counted.active_without_embeddings) == (total, active, inner)


@EVERY
def test_the_makers_figures(name: str) -> None:
    """Exact ones to the digit; the others are rounded, or count a little more or less, as their notes say."""
    published = presets.find(name).published
    counted = parameters(presets.load(name))
    if published.exact:
        assert counted.total == published.total
    elif published.total is not None:
        assert counted.total == pytest.approx(published.total, rel=0.09)
    if published.active is not None:
        least, most = counted.active_without_embeddings, counted.active
        assert 0.95 * least < published.active < 1.05 * most


@COUNTED
def test_cache_to_the_byte(name: str) -> None:
    architecture = presets.load(name)
    *_, token, long, _, _ = COUNTS[name]
    assert (cache_bytes_per_token(architecture), cache_bytes(architecture, 32768)) == (token, long)


@COUNTED
def test_operations(name: str) -> None:
    """Within 0.1 %: the figures also count the weights of norms and biases. Within 1 % where there is cross-attention
    to an image: they count keys and values of the image with every token."""
    architecture = presets.load(name)
    for length, figure in zip((1024, 32768), COUNTS[name][-2:], strict=True):
        tolerance = 0.01 if name == "llama-3.2-11b-vision" else 0.001
        assert flops_per_token(architecture, length).total == pytest.approx(figure, rel=tolerance)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("gpt2-xl", 300 * 1024),
        ("llama-7b", 512 * 1024),
        ("llama-3-8b", 128 * 1024),
        ("deepseek-v3", 70272),
        ("llama-3.1-405b", 516096),
        ("qwen2.5-72b", 327680),
    ],
)
def test_cache_of_a_token(name: str, size: int) -> None:
    assert cache_bytes_per_token(presets.load(name)) == size


def test_a_7b_model_by_quick_arithmetic() -> None:
    llama = presets.load("llama-7b")
    counted = parameters(llama)
    assert counted.total * 2 == pytest.approx(13.5e9, rel=0.002)
    assert flops_per_token(llama, 1024).total == pytest.approx(13.75e9, rel=0.001)
    assert flops_per_token(llama, 1024).scores == 32 * 4 * 4096 * 1024
    assert cache_bytes(llama, 4096) == 2 * 2**30


# ---------------------------------------------------------------------------------------------- against counted runs


@pytest.mark.parametrize(
    "name", ["gpt2", "palm-8b", "mixtral", "deepseek-v3", "gemma-2-2b", "gpt-oss", "llama-4-scout", "gemma-4-26b-a4b"]
)
def test_operations_of_a_run(name: str) -> None:
    """A dense forward computes every score of the square, so that each of its tokens costs what the last one does."""
    tiny = presets.scaled(presets.load(name), "tiny")
    model, length = random_model(tiny, 0), 14
    expected = flops_per_token(tiny, length).total * length
    step = dense_input(tiny, torch.arange(length)[None])
    assert counted(lambda: model(step)) == expected


def test_operations_of_an_encoder_decoder() -> None:
    tiny = presets.scaled(presets.load("transformer"), "tiny")
    model = random_model(tiny, 0).requires_grad_(False)
    source, target = torch.arange(11)[None], torch.arange(7)[None]
    decoding = flops_per_token(tiny, 7, memory=11).total * 7
    reading = encoding_flops(tiny, 11)
    step = dense_input(tiny, target, dense_memory(model, source))
    projected = 2 * tiny.width * memory_bytes(tiny, 11) // 2
    assert counted(lambda: model(step)) == decoding + projected
    assert counted(lambda: dense_memory(model, source)) == reading.total - projected


def counted(run: Callable[[], object]) -> int:
    """Operations that PyTorch counts; it has no figures for the fused attention of a processor."""
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("name", ["mistral-7b", "deepseek-v3.2", "gemma-3-4b", "switch-base-8"])
def test_a_stretch_costs_the_sum_of_its_tokens(name: str) -> None:
    tiny = presets.scaled(presets.load(name), "tiny")
    one_by_one = sum((flops_per_token(tiny, length, memory=9) for length in range(6, 91)), Operations())
    assert flops(tiny, 5, 90, memory=9) == one_by_one


# ---------------------------------------------------------------------------------------------- a machine


def test_experts_that_a_batch_touches() -> None:
    moe = MoE(8, 2, FeedForward(4))
    assert distinct_experts(moe, 1) == pytest.approx(2)
    assert distinct_experts(moe, 2) == pytest.approx(8 * (1 - 0.75**2))
    assert distinct_experts(moe, 1000) == pytest.approx(8)


def test_weights_that_a_step_reads() -> None:
    mixtral = presets.load("mixtral")
    used = parameters(mixtral).used
    alone = used.total - used.embedding + mixtral.width
    assert weight_bytes_per_step(mixtral, 1) == pytest.approx(2 * alone)
    many = parameters(mixtral).total - used.embedding + 4096 * mixtral.width
    assert weight_bytes_per_step(mixtral, 4096) == pytest.approx(2 * many)
    gpt2 = presets.load("gpt2")  # the table is the head too; of the positions one row
    read = parameters(gpt2).total - 1024 * 768 + 768
    assert weight_bytes_per_step(gpt2, 1, "float32") == 4 * read


def test_what_fits_a_memory() -> None:
    llama = presets.load("llama-2-7b")
    left = 24e9 - 2 * 6_738_415_616
    assert largest_batch(llama, 24e9, 4096) == int(left // (2 * 2**30)) == 4
    assert largest_batch(llama, 12e9, 1) == 0
    longest = largest_context(llama, 24e9, batch=8)
    assert longest == int(left / 8 / (512 * 1024)) == 2508
    assert largest_context(llama, 12e9, batch=1) == 0
    assert largest_context(llama, 1e15, batch=1) == 4096
    # All layers of Mistral have a window: beyond it, length is free.
    mistral = presets.load("mistral-7b")
    assert largest_batch(mistral, 24e9, 4096) == largest_batch(mistral, 24e9, 32768)


def test_a_chunk_is_read_as_far_as_it_goes() -> None:
    """Llama 4 Scout with 36 layers of chunks and 12 that see everything, 4 KiB a position each."""
    scout = presets.load("llama-4-scout")
    assert read_bytes(scout, 4 * 8192) == (12 * 4 * 8192 + 36 * 8192) * 4096
    assert read_bytes(scout, 4 * 8192 + 1) == (12 * (4 * 8192 + 1) + 36) * 4096


def test_a_roofline_by_hand() -> None:
    llama = presets.load("llama-2-7b")
    machine = Machine(memory=80e9, bandwidth=2e12, flops=300e12)
    alone = roofline(llama, machine, batch=1, length=1024)
    read = 2 * (6_738_415_616 - 32000 * 4096 + 4096)
    assert alone.weight_bytes == read and alone.cache_bytes == 512 * 1024 * 1024
    assert alone.bound == "memory" and alone.seconds == pytest.approx((read + 2**29) / 2e12)
    assert alone.tokens_per_second == pytest.approx(1 / alone.seconds)
    crowd = roofline(llama, machine, batch=4096, length=1)
    assert crowd.bound == "compute"
    assert crowd.seconds == pytest.approx(4096 * flops_per_token(llama, 1).total / 300e12)
