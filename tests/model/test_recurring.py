"""Recurrent mixers served: by the compiled kernel as by PyTorch, whatever is beside a row, and again after a fault."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import (
    Architecture,
    FeedForward,
    FixedDecay,
    LearnedDecay,
    MoE,
    Norm,
    Recurrent,
    StateGate,
)
from model.dense import dense_input
from model.initialise import random_model as fresh_model
from model.kernels import native, passes
from model.kernels.fused import FusedBlock
from model.kernels.layers import Layers
from model.kernels.recurrence import Fed, Mixing, State, carry
from model.kernels.recurring import CompiledMixing
from model.recurrent import RecurrentMixer
from model.states import Moves, StateCache
from model.transformer import Transformer
from server.engine.request import Request, Sampling
from server.engine.runner import ModelRunner, Room
from server.engine.step import Row, Step
from tests.model.cases import STATE_SPACE, block, model
from tests.model.randomise import random_model, random_tokens, rounded
from tests.model.served import HandEngine

DELTA = Recurrent(heads=4, key_dim=16, value_dim=32, key_heads=2)
LINEAR = Recurrent(3, 32, 80, None, "add", FixedDecay(0.8), None, StateGate("sigmoid"), Norm(eps=1e-5), "all")
FORMS = {
    "gated delta": DELTA,
    "delta gated per key, ranks": replace(DELTA, decay=LearnedDecay("key", 16), gate=StateGate("sigmoid", 32)),
    "delta gated per key, bounded": replace(DELTA, decay=LearnedDecay("key", bound=2.5)),
    "state space": replace(STATE_SPACE, heads=4, key_dim=16, value_dim=32, key_heads=2),
    "linear": LINEAR,
    "linear, neither norm nor gate": replace(LINEAR, norm=None, gate=None),
}
LENGTHS = (17, 9, 12)
EVERY = pytest.mark.parametrize("value", FORMS.values(), ids=FORMS)
compiled = pytest.mark.skipif(not native.linear_types(), reason="no compiler or no vector units here")


def architecture(value: Recurrent) -> Architecture:
    """A mixer before a feed-forward, before a mixture, by itself, and in a block that is not fused."""
    dense, mixture = FeedForward(64), MoE(5, 2, FeedForward(32))
    fused = block(value, dense), block(value, mixture, placement="sandwich"), block(value)
    whole = model(*fused, block(), block(value, dense, dense))
    return replace(whole, width=48)


def logits_of(transformer: Transformer, seed: int, page_size: int = 4) -> list[dict[int, Tensor]]:
    """By text and position, each text cut and mixed with the others as the seed says."""
    engine = HandEngine(transformer, seed=seed, page_size=page_size)
    for length in LENGTHS:
        engine.add(random_tokens(transformer.architecture, length, length), prompt=length - 3)
    engine.finish()
    return [{position: rows[0] for position, rows in text.logits.items()} for text in engine.texts]


def errors(found: list[dict[int, Tensor]], expected: list[Tensor]) -> list[float]:
    """Mean error of each row, of the largest logit of its text."""
    pairs = zip(found, expected, strict=True)
    return [
        float((row - whole[position]).abs().mean() / whole.abs().max())
        for rows, whole in pairs
        for position, row in rows.items()
    ]


@compiled
@EVERY
def test_compiled_as_plain(value: Recurrent) -> None:
    """In bfloat16, compiled is no further from float32 than plain."""
    of = architecture(value)
    texts = [torch.tensor([random_tokens(of, length, length)]) for length in LENGTHS]
    exact = rounded(rounded(random_model(of), torch.bfloat16), torch.float32)
    expected = [exact(dense_input(of, text)).logits for text in texts]
    plain = errors(logits_of(rounded(random_model(of), torch.bfloat16), seed=4), expected)
    for dtype, most in ((torch.float32, 1e-5), (torch.bfloat16, 1.5 * float(np.mean(plain)))):
        fast = passes.apply(rounded(rounded(random_model(of), torch.bfloat16), dtype), form="whole")
        joined, *_, alone = fast.blocks
        assert isinstance(joined, Layers | FusedBlock)
        assert isinstance(alone.branches[0], RecurrentMixer) and alone.branches[0].compiled is not None  # type: ignore[index]
        assert np.mean(errors(logits_of(fast, seed=4), expected)) < most


@compiled
@EVERY
def test_a_row_does_not_depend_on_its_company(value: Recurrent) -> None:
    """To the bit, however a prompt is cut and whatever else is in the step; pages of other sizes cut elsewhere."""
    transformer = passes.apply(fresh_model(architecture(value), 1, torch.bfloat16).eval())
    first, *others = (logits_of(transformer, seed, size) for seed, size in ((1, 4), (2, 4), (3, 7)))
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert all(torch.equal(row, two[position]) for position, row in one.items() if position in two)


@compiled
@EVERY
def test_states_are_those_of_the_plain_way(value: Recurrent) -> None:
    """After every token that is to be remembered, and the numbers that a convolution looks back on with them."""
    mixer = random_model(architecture(value)).blocks[0].branches[0]  # type: ignore[index]
    assert isinstance(mixer, RecurrentMixer)
    generator = torch.Generator().manual_seed(0)
    sizes = value.mixed, 0 if value.gate is None else value.inner, value.steps, value.heads
    fed = Fed(*(torch.randn(9, size, generator=generator) for size in sizes))
    moves = Moves(np.array([0, 1, 7, 9]), np.array([1, 0, 2]), np.array([3, 0, 4, 0, 0, 0, 5, 0, 6]))
    kept: list[Tensor] = []
    for mixing in (mixer.mixing(), replace(mixer.mixing(), compiled=CompiledMixing(mixer.mixing()))):
        cache = StateCache([value], pages=7, rows=3)
        cache.slots[0][1:3] = torch.randn(2, value.state_numbers, generator=torch.Generator().manual_seed(1))
        out = cache.view(moves).carry(0, mixing, fed)
        kept += [out, cache.slots[0].clone()]
    torch.testing.assert_close(kept[2], kept[0], rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(kept[3], kept[1], rtol=2e-5, atol=2e-5)
    assert not kept[3][0].any(), "the state before any token"


def test_states_stay_float32_in_training() -> None:
    """Which runs under autocast."""
    mixer = random_model(architecture(DELTA)).blocks[0].branches[0]  # type: ignore[index]
    assert isinstance(mixer, RecurrentMixer)
    generator = torch.Generator().manual_seed(0)
    fed = Fed(*(torch.randn(1, 20, n, generator=generator) for n in (DELTA.mixed, DELTA.inner, DELTA.steps, 4)))
    nothing = State.none(DELTA, 1, torch.device("cpu"))
    expected, _ = carry(mixer.mixing(), fed, nothing)
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = carry(mixer.mixing(), fed, nothing)
    assert torch.equal(found, expected)


def test_what_is_forgotten_at_once_is_forgotten() -> None:
    """A decay beyond what float32 can hold leaves no state, and no number that is none."""
    value = replace(DELTA, decay=LearnedDecay("key"), convolution=None)
    mixer = random_model(architecture(value)).blocks[0].branches[0]  # type: ignore[index]
    assert isinstance(mixer, RecurrentMixer) and mixer.rate is not None
    mixer.rate.fill_(200.0)
    generator = torch.Generator().manual_seed(0)
    fed = Fed(*(torch.randn(1, 20, n, generator=generator) for n in (value.mixed, value.inner, value.steps, 4)))
    out, (state,) = carry(mixer.mixing(), fed, State.none(value, 1, torch.device("cpu")), wanted=[19])
    assert out.isfinite().all() and state.heads.isfinite().all()
    alone, _ = carry(mixer.mixing(), fed.of(slice(None), 20, 1), State.none(value, 20, torch.device("cpu")))
    torch.testing.assert_close(out[0], alone[:, 0])


def counting(size: int) -> tuple[Recurrent, Mixing]:
    """A mixer whose only state counts its tokens."""
    value = Recurrent(1, size, size, None, "add", FixedDecay(), None, None, None)
    return value, Mixing(value, None, None, None, None, None, None)


def test_a_step_that_is_not_done_is_undone() -> None:
    value, mixing = counting(2)
    cache = StateCache([value], pages=4, rows=1)
    fed = Fed(torch.ones(1, value.mixed), *(torch.ones(1, 0),) * 3)
    begins = Moves(np.array([0, 1]), np.array([0]), np.array([2]))
    goes_on = Moves(np.array([0, 1]), np.array([2]), np.array([2]))
    cache.view(begins).carry(0, mixing, fed)
    cache.done()
    first = cache.view(goes_on).carry(0, mixing, fed)
    for _ in range(5):  # as often as it fails: there is one spare slot
        assert torch.equal(cache.view(goes_on).carry(0, mixing, fed), first)
    cache.done()
    assert not torch.equal(cache.view(goes_on).carry(0, mixing, fed), first)


def test_a_step_that_failed_can_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the engine does to find whose fault it was: nothing of the first try is left."""
    transformer = random_model(architecture(DELTA))
    tokens = random_tokens(transformer.architecture, 6, 0)
    request = Request("a", tokens, Sampling(9, temperature=0.0), 0.0)

    def run(fails: bool) -> tuple[int, ...]:
        runner = ModelRunner(transformer, Room(64, 2, 16, 4))
        tables = tuple(np.array([1, 2]) for _ in runner.groups)
        drawn: list[int] = []
        sample = runner._sample
        for start, count in ((0, 3), (3, 2), (5, 1)):
            step = Step(start, (Row(request, start, count, tables, select=start),))
            if fails:
                monkeypatch.setattr(runner, "_sample", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    runner.run(step)
                monkeypatch.setattr(runner, "_sample", sample)
            result = runner.run(step)
            drawn += [round(found.chosen * 1e6) for found in result.logprobs if found] + list(result.tokens)
        return tuple(drawn)

    assert run(fails=True) == run(fails=False)
