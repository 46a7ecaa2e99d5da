"""One decode step, or one prefill, of a built model, repeated for the stopwatch without a server. Both see the cache as
a served step does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from model.cache import cache_entries, groups_of, spans
from model.config import Span
from model.dense import dense_input
from model.kernels import native, passes
from model.kernels.paged import Pages, Stretch
from model.paged import Decode, GroupView, PagedCache, PagedView
from model.timing import Timing, beside, repeat
from model.transformer import StepInput, Transformer

PAGE = 16
VARIANTS = 8  # inputs that repeats take in turn, so that a router does not choose the same experts every time


def time_decode(model: Transformer, rows: int, length: int, budget: float) -> Timing:
    """Seconds of a decode step of `rows` sequences at this length."""
    return _time(model, steady_inputs(model, rows, length), budget)


def decode_beside(model: Transformer, rows: int, length: int, other: Callable[[], object], budget: float) -> float:
    """How long a decode step takes as a multiple of another call at the same moment (timing.beside)."""
    with torch.inference_mode(), native.alone(passes.lean(model)):
        return beside(_step(model, steady_inputs(model, rows, length)), other, budget)


def time_prefill(model: Transformer, length: int, budget: float) -> Timing:
    """Seconds of a prompt of `length` tokens in one forward, with the logits of its last token."""
    return _time(model, prompt_inputs(model, length), budget)


def steady_inputs(model: Transformer, rows: int, length: int) -> list[StepInput]:
    """Inputs of decode steps of `rows` sequences at this length: different tokens over the same cache."""
    device = model.embedding.weight.device
    view = _view(model, lambda span: _decode_group(span, rows, length, device))
    positions = torch.full((rows,), length - 1, device=device)
    return [replace(one, positions=positions, cache=view) for one in _uncached(model, rows, 1)]


def prompt_inputs(model: Transformer, length: int) -> list[StepInput]:
    """Inputs of prefills of a prompt of this length: different tokens into the same cache."""
    weight = model.embedding.weight
    view = _view(model, lambda span: _prompt_group(span, length, weight))
    last = torch.tensor([length - 1], device=weight.device)
    return [replace(one, cache=view, select=last) for one in _uncached(model, 1, length)]


def _view(model: Transformer, group: Callable[[Span], GroupView]) -> PagedView:
    """The group of each span over pools filled with numbers, since memory that nobody wrote is read at no cost."""
    entries, weight = cache_entries(model.architecture), model.embedding.weight
    groups = tuple(map(group, spans(entries)))
    pages = [1 + int(one.slots[-1]) // PAGE for one in groups]
    cache = PagedCache(entries, tuple(pages[i] for i in groups_of(entries)), PAGE, weight.dtype, weight.device)
    for pool in (*cache.keys, *cache.values):
        if pool is not None:
            pool.fill_(0.01)
    return PagedView(cache, groups)


def _decode_group(span: Span, rows: int, length: int, device: torch.device) -> GroupView:
    """Rows that each compute the token at position `length - 1`; their pages lie one after another behind page 0, which
    stays unused as in a served cache."""
    last, first = length - 1, span.first_visible(length - 1)
    table = 1 + torch.arange(rows * (last // PAGE - first // PAGE + 1), device=device).view(rows, -1)
    whole = torch.zeros(rows, dtype=torch.long, device=device)
    pages = Pages(span, PAGE, table, whole + first // PAGE * PAGE, whole + first, whole + last, whole + last)
    return GroupView(PAGE, table[:, -1] * PAGE + last % PAGE, Decode(torch.arange(rows, device=device), pages))


def _prompt_group(span: Span, length: int, weight: Tensor) -> GroupView:
    """All tokens of one sequence, with its pages in the same places."""
    slots = PAGE + torch.arange(length, device=weight.device)
    table = 1 + torch.arange(-(-length // PAGE), device=weight.device)[None]
    stretch = Stretch(0, length, 0, 0, table, span, weight.dtype, weight.device)
    firsts = torch.tensor([span.first_visible(position) for position in range(length)])
    return GroupView(PAGE, slots, None, (stretch,), firsts)


def _time(model: Transformer, inputs: list[StepInput], budget: float) -> Timing:
    with torch.inference_mode(), native.alone(passes.lean(model)):
        return repeat(_step(model, inputs), budget)


def _step(model: Transformer, inputs: list[StepInput]) -> Callable[[], None]:
    """A call that runs the next of these inputs, over and over, and waits until it is done."""
    turn = itertools.cycle(inputs)

    def step() -> None:
        model(next(turn))
        if model.embedding.weight.is_cuda:
            torch.cuda.synchronize()

    return step


def _uncached(model: Transformer, batch: int, length: int) -> Iterator[StepInput]:
    """Different tokens (batch, length), with nothing before them."""
    generator, device = torch.Generator().manual_seed(0), model.embedding.weight.device
    for _ in range(VARIANTS):
        tokens = torch.randint(model.architecture.vocab, (batch, length), generator=generator)
        yield dense_input(model.architecture, tokens.to(device))
