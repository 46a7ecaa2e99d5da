"""The table of costs is the closed formulas taken apart: put together again it gives the same numbers."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from model import presets
from model.config import Architecture, Attention, Block, Chunk, FeedForward, Grouped, Recurrent, Window
from model.costs import Costs
from model.footprint import BYTES, cache_bytes, cache_bytes_per_token, read_bytes
from model.operations import Operations, encoding_flops, flops
from model.parameters import parameters
from model.roofline import Machine, roofline, weight_bytes_per_step

NAMES = [
    *("gpt2", "mistral-7b", "mixtral-8x7b", "deepseek-v3", "deepseek-v3.2", "gemma-3-4b", "llama-4-scout"),
    *("gpt-oss-120b", "gemma-4-26b-a4b", "palm-540b", "qwen3-next-80b-a3b", "nemotron-3-nano-30b-a3b"),
]


def tiny(name: str) -> Architecture:
    return presets.scaled(presets.load(name), "tiny")


def of(architecture: Architecture) -> Costs:
    return Costs.of(architecture, BYTES["float32"], BYTES["bfloat16"])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cuts", [(0, 70), (0, 1, 2, 3, 4), (5, 6, 20, 21, 64)], ids=str)
def test_rows_add_up_to_the_operations_of_the_whole_stretch(name: str, cuts: tuple[int, ...]) -> None:
    architecture = tiny(name)
    costs = of(architecture)
    rows = [costs.operations(b - a, b - a, costs.looked(a, b)[0]) for a, b in pairwise(cuts)]
    assert sum(rows, Operations()) == flops(architecture, cuts[0], cuts[-1])


@pytest.mark.parametrize("name", NAMES)
def test_a_row_of_one_token_costs_what_it_would_among_others(name: str) -> None:
    costs = of(tiny(name))
    once = costs.looked_once()
    assert [once(position) for position in range(200)] == [costs.looked(p, p + 1) for p in range(200)]


@pytest.mark.parametrize("name", NAMES)
def test_a_decoding_row_reads_and_writes_the_cache_of_its_length(name: str) -> None:
    architecture = tiny(name)
    costs = of(architecture)
    assert costs.entry == cache_bytes_per_token(architecture)
    chunked = any(isinstance(attention.span, Chunk) for attention in architecture.attentions)
    for length in (1, 2, 9, 33):
        read = costs.looked(length - 1, length)[1] + costs.entry + costs.kept(length - 1, length)
        assert read <= cache_bytes(architecture, length) + costs.carried, "a state is read and written"
        assert chunked or read == read_bytes(architecture, length)


def test_states_are_written_at_every_block_and_at_the_end_of_a_row() -> None:
    """Of 6 layers with 8 states of 32 x 32 and what a convolution of 4 looks back on, 252 kB of float32."""
    mixer = Recurrent(8, 32, 32)
    blocks = (Block((mixer, FeedForward(64))),) * 6
    costs = replace(Costs.of(Architecture(64, 256, 4096, blocks), 2, 2), page=16, every=128)
    state = 6 * 4 * (8 * 32 * 32 + 3 * 3 * 256)
    assert costs.carried == state == 251_904 and costs.entry == 0
    assert costs.kept(0, 3072) == 25 * state, "at 3,056, too"
    assert costs.kept(0, 3073) == 25 * state and costs.kept(0, 3100) == 26 * state
    assert costs.kept(5, 6) == costs.kept(15, 16) == costs.kept(16, 17) == costs.kept(127, 128) == state
    assert costs.kept(10, 40) == 2 * state, "at 32, and the last"
    assert costs.kept(100, 200) == 3 * state, "at 128, at 192, and the last"
    assert (costs.looked(0, 1)[1], costs.looked(1, 2)[1], costs.looked(16, 512)[1]) == (0, state, state)


def test_behind_an_indexer_a_token_reads_what_was_chosen() -> None:
    """DeepSeek-V3.2's 61 layers: 128 numbers of each position for the indexer, of 2,048 a latent of 576."""
    architecture = presets.load("deepseek-v3.2")
    costs = Costs.of(architecture, 1, 2)
    assert costs.looked(4095, 4096)[1] + costs.entry == 61 * 2 * (128 * 4096 + 576 * 2048)
    assert costs.looked(4000, 4096)[1] == 61 * 2 * 704 * 4000, "a prompt's tokens together choose as good as all"
    assert read_bytes(architecture, 4096) == 61 * 2 * (128 * 4096 + 576 * 2048)
    machine = Machine(memory=1e12, bandwidth=1e12, flops=1e30)
    assert roofline(architecture, machine, 2, 4096).cache_bytes == 2 * read_bytes(architecture, 4096)


def test_rows_with_a_window_and_with_chunks_by_hand() -> None:
    """Two layers of one head of one number: 8 operations, and 4 bytes of cache, a position."""
    heads = Grouped(2, 1, 1)
    blocks = (Block((Attention(heads, span=Window(4)),)), Block((Attention(heads, span=Chunk(3)), FeedForward(1))))
    costs = of(Architecture(8, 2, 64, blocks))
    # Position 5 sees 2 3 4 5 in the window, 3 4 5 in its chunk; 3 and 2 of them were there before.
    assert costs.looked(5, 6) == (8 * (4 + 3), 4 * (3 + 2))
    # Positions 2 .. 7 see 3 4 4 4 4 4 in the window, 3 1 2 3 1 2 in their chunks; position 2 finds 0 and 1 in both.
    assert costs.looked(2, 8) == (8 * (23 + 12), 4 * (2 + 2))


@pytest.mark.parametrize("name", NAMES)
def test_a_pass_reads_the_weights_of_the_roofline(name: str) -> None:
    """Of routed experts the roofline has an expectation; with one token it is exact."""
    architecture = tiny(name)
    active = [moe.active for _, moe in architecture.mixtures]
    assert of(architecture).weight_bytes(1, active) == pytest.approx(weight_bytes_per_step(architecture, 1, "float32"))
    if not active:
        assert of(architecture).weight_bytes(7, ()) == weight_bytes_per_step(architecture, 7, "float32")


@pytest.mark.parametrize("name", NAMES)
def test_one_token_touches_the_active_parameters(name: str) -> None:
    architecture = tiny(name)
    costs, counted = of(architecture), parameters(architecture)
    assert costs.touched([moe.active for _, moe in architecture.mixtures]) == counted.active
    assert costs.touched([moe.experts for _, moe in architecture.mixtures]) == counted.total


def test_an_encoder_is_read_once_and_looked_at_by_every_token() -> None:
    architecture = tiny("transformer")
    costs = of(architecture)
    assert costs.encoding(11) == encoding_flops(architecture, 11)
    together = costs.operations(7, 7, costs.looked(0, 7)[0] + 7 * 11 * costs.crossing)
    assert together == flops(architecture, 0, 7, memory=11)


def test_of_an_encoders_experts_those_are_read_that_were_chosen() -> None:
    architecture = tiny("switch-base-8")
    costs, decoder = of(architecture), [moe.experts for _, moe in architecture.mixtures]
    counts, sizes = zip(*costs.encoder_expert_parameters, strict=True)
    assert costs.touched(decoder, counts) == parameters(architecture).total
    assert costs.touched(decoder, counts) - costs.touched(decoder, [n - 1 for n in counts]) == sum(sizes)
    assert costs.encoder_bytes(3, [2] * len(counts)) == costs.encoder + 3 * costs.row + 4 * 2 * sum(sizes)
    dense = of(tiny("transformer"))
    assert dense.encoder_bytes(3, ()) == dense.encoder + 3 * dense.row


def test_blocks_that_are_left_out_cost_nothing() -> None:
    seeing = tiny("llama-3.2-11b-vision")
    blind = replace(seeing, blocks=tuple(block for block in seeing.blocks if not block.needs_memory))
    assert of(seeing) == of(blind) and len(blind.blocks) < len(seeing.blocks)
    assert of(seeing).state == 0 and of(seeing).crossing == 0
