"""With the compiled kernels no bit of an answer depends on company, on where its prompt is cut, or on whether the
prompt's beginning was found (but bfloat16 through matrix tiles, which take many rows only): a tiny model."""

from __future__ import annotations

import functools

import pytest
import torch

from model.config import Architecture, Attention, FeedForward, Full, Grouped, Rotary, Window
from model.kernels import native, passes
from model.transformer import Transformer
from server.engine.engine import Engine
from server.engine.request import Request
from server.engine.runner import ModelRunner, Room
from server.engine.step import TokenLogprobs
from tests.fakes import Recorder, make_request
from tests.model.cases import block
from tests.model.randomise import random_model

pytestmark = [
    pytest.mark.skipif(native.library() is None, reason="no compiler here"),
    pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str),
]
STEP, SAID = 32, 12  # tokens


@functools.cache
def model(dtype: torch.dtype) -> Transformer:
    attention = Attention(Grouped(4, 2, 16), Rotary())
    spans = Full(), Window(40)
    blocks = (block(Attention(attention.heads, attention.position, span=span), FeedForward(96)) for span in spans)
    return passes.apply(random_model(Architecture(61, 64, 256, tuple(blocks))).to(dtype))


def engine_of(dtype: torch.dtype, *, tokens: int = STEP, prefix_cache: bool = False) -> Engine:
    if dtype not in native.linear_types():
        pytest.skip("this type goes through PyTorch's operators here")
    if dtype == torch.bfloat16 and native.kernels().dyno_features() & 4:
        pytest.skip("matrix tiles may round otherwise")
    runner = ModelRunner(model(dtype), Room(2048, 8, tokens))
    return Engine("m", runner, observer=Recorder(), max_batch_tokens=tokens, max_rows=8, prefix_cache=prefix_cache)


def asked(length: int) -> Request:
    prompt = torch.randint(0, 61, (length,), generator=torch.Generator().manual_seed(length)).tolist()
    return make_request(prompt, SAID, id="asked", logprobs=0)


def answer(engine: Engine, request: Request) -> list[TokenLogprobs | None]:
    """What it says with every digit, whoever else is there."""
    engine.add(request)
    said: list[TokenLogprobs | None] = []
    while engine.has_work:
        for delta in engine.step():
            said += delta.logprobs if delta.request is request else ()
    assert len(said) == SAID
    return said


@pytest.mark.parametrize("mates", [1, 2])
@pytest.mark.parametrize("length", [STEP, 3 * STEP - 2])
def test_a_prompt_that_leaves_one_token_for_the_next_step(dtype: torch.dtype, length: int, mates: int) -> None:
    """A mate's token makes the step so much smaller that one token of the prompt is left over."""
    engine = engine_of(dtype)
    for number in range(mates):
        engine.add(make_request([1, 2, 3], 60, id=str(number)))
    engine.step()
    assert answer(engine, asked(length)) == answer(engine_of(dtype), asked(length))


def test_a_prompt_read_token_by_token(dtype: torch.dtype) -> None:
    assert answer(engine_of(dtype, tokens=1), asked(STEP)) == answer(engine_of(dtype), asked(STEP))


@pytest.mark.parametrize("behind", [1, 2])
def test_a_prompt_found_but_for_its_end(dtype: torch.dtype, behind: int) -> None:
    engine = engine_of(dtype, tokens=4 * STEP, prefix_cache=True)
    first, again = (answer(engine, asked(64 + behind)) for _ in range(2))
    assert first == again
