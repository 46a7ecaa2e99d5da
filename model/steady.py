"""One decode step, or one prefill, of a built model, repeated for the stopwatch without a server.

Both go through the same attention over pages as serving does, prefill where a kernel has it and else as a fresh prompt.
Shape letters: R rows, n pages a row, P tokens a page.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from model.cache import CacheEntry, cache_entries, groups_of, spans
from model.config import Architecture, Span
from model.dense import DenseView, dense_input
from model.kernels import inplace, native, passes
from model.kernels.attention import Scores
from model.kernels.paged import Entries, Pages, Scratch, Stretch, decode
from model.moe import Loads
from model.timing import Timing, beside, repeat
from model.transformer import StepInput, Transformer

PAGE = 16
VARIANTS = 8  # inputs that repeats take in turn, so that a router does not choose the same experts every time


class SteadyView:
    """CacheView of `rows` sequences, each computing the token at position `length - 1`; pages lie one after another."""

    def __init__(self, entries: tuple[CacheEntry, ...], rows: int, length: int, model: Transformer) -> None:
        weight = model.embedding.weight
        self.entries, self.rows, self.length, self.device = entries, rows, length, weight.device
        self.scratch = Scratch()
        self._pages: dict[Span, Pages] = {}
        self._slots: dict[Span, Tensor] = {}
        self.keys = [self._pool(entry, entry.key_dim, weight) for entry in entries]
        self.values = [None if e.value_in_key else self._pool(e, e.value_dim, weight) for e in entries]
        self.pools = inplace.Pools(self.keys, self.values, groups_of(entries))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor | None, scores: Scores) -> Tensor:
        keys, values, entry = self.keys[layer], self.values[layer], self.entries[layer]
        fresh = Entries(key, value, self._slots[entry.span])
        return decode(query, keys, values, entry.value_dim, self.pages(entry.span), scores, self.scratch, fresh)

    def calls(self) -> list[inplace.Call]:
        """OpenCacheView.calls: how all tokens of the step are stored and attended to."""
        return [self.pages(span).call.take(self._slots[span]) for span in spans(self.entries)]

    def pages(self, span: Span) -> Pages:
        """What every row sees through layers of this span; page 0 stays unused, as in a served cache."""
        if span not in self._pages:
            last, first = self.length - 1, span.first_visible(self.length - 1)
            count = last // PAGE - first // PAGE + 1
            table = 1 + torch.arange(self.rows * count, device=self.device).view(self.rows, count)
            self._slots[span] = table[:, -1] * PAGE + last % PAGE
            whole = torch.zeros(self.rows, dtype=torch.long, device=self.device)
            places = (whole + first // PAGE * PAGE, whole + first, whole + last, whole + last)
            self._pages[span] = Pages(span, PAGE, table, *places)
        return self._pages[span]

    def _pool(self, entry: CacheEntry, dim: int, weight: Tensor) -> Tensor:
        """A pool filled with numbers, since memory that nobody wrote is read at no cost."""
        count = 1 + self.pages(entry.span).table.numel()
        return weight.new_full((count, PAGE, entry.heads, dim), 0.01)


class PromptView:
    """CacheView of one prompt of `length` tokens, with pages one after another."""

    def __init__(self, entries: tuple[CacheEntry, ...], length: int, model: Transformer) -> None:
        self.entries, self._plain = entries, DenseView(entries, 1, length)
        self._slots = PAGE + torch.arange(length)  # page 0 stays unused
        self._table = 1 + torch.arange(-(-length // PAGE))[None]
        self._calls: dict[Span, inplace.Call] = {}
        shape, weight = (1 + self._table.numel(), PAGE), model.embedding.weight
        self._keys = [weight.new_zeros(*shape, e.heads, e.key_dim) for e in entries]
        self._values = [None if e.value_in_key else weight.new_zeros(*shape, e.heads, e.value_dim) for e in entries]
        self.pools = inplace.Pools(self._keys, self._values, groups_of(entries))

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor | None, scores: Scores) -> Tensor:
        entry = self.entries[layer]
        if not inplace.fits(query, entry.value_dim, scores, stretches=True):
            return self._plain.attend(layer, query, key, value, scores)
        call, fresh = self._call(entry.span, query.dtype), Entries(key, value, self._slots)
        return inplace.attend(call, query, self._keys[layer], self._values[layer], entry.value_dim, scores, fresh)

    def calls(self) -> list[inplace.Call]:
        """OpenCacheView.calls: how all tokens of the step are stored and attended to."""
        return [self._call(span, self._keys[0].dtype).take(self._slots) for span in spans(self.entries)]

    def _call(self, span: Span, dtype: torch.dtype) -> inplace.Call:
        if span not in self._calls:
            firsts = torch.tensor([span.first_visible(at) for at in range(len(self._slots))])
            stretch = Stretch(0, len(self._slots), 0, 0, self._table, span, dtype)
            self._calls[span] = inplace.Call(PAGE, None, None, (stretch,), firsts)
        return self._calls[span]


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
    view = SteadyView(cache_entries(model.architecture), rows, length, model)
    device = model.embedding.weight.device
    positions = torch.full((rows,), length - 1, device=device)
    loads = _loads(model.architecture, rows)
    return [StepInput(tokens, positions, view, loads=loads) for tokens in _tokens(model, rows, device)]


def prompt_inputs(model: Transformer, length: int) -> list[StepInput]:
    last = torch.tensor([length - 1], device=model.embedding.weight.device)
    view = PromptView(cache_entries(model.architecture), length, model)
    drawn = [dense_input(model.architecture, tokens[None]) for tokens in _tokens(model, length, last.device)]
    return [replace(one, cache=view, select=last) for one in drawn]


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


def _tokens(model: Transformer, count: int, device: torch.device) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(VARIANTS):
        yield torch.randint(model.architecture.vocab, (count,), generator=generator).to(device)


def _loads(architecture: Architecture, rows: int) -> Loads | None:
    mixtures = [moe for _, moe in architecture.mixtures]
    if not any(moe.router.capacity for moe in mixtures):
        return None
    prior = torch.zeros(len(mixtures), rows, max(moe.experts for moe in mixtures), dtype=torch.long)
    return Loads(torch.arange(rows), prior)
