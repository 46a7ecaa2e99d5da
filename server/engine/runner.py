"""Runs steps on a model: the only caller of the forward pass, and the owner of the cache memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from model import sampling
from model.cache import CacheEntry, Carried, cache_entries, spans
from model.config import Full, Span
from model.costs import Costs
from model.kernels import native, passes
from model.paged import PagedCache, PagedView
from model.roofline import Machine
from model.states import StateCache, StateView
from model.transformer import StepInput, StepOutput, Transformer
from server.engine import batch
from server.engine.continued import Continued
from server.engine.edits import edits_of, only_likeliest
from server.engine.memory import StepMemory, memory_entries, read_sources, step_memory
from server.engine.results import Computed, Drawn, scored
from server.engine.staging import fetch
from server.engine.step import CacheGroup, Failure, MixtureShape, Pick, Step, StepResult


@dataclass(frozen=True, slots=True)
class Room:
    """How much cache a runner allocates: `tokens` positions of full span, and of a window what `rows` requests can look
    back on while a step of `batch_tokens` passes. Of a long prompt a state is kept at each `states_every`th page."""

    tokens: int
    rows: int
    batch_tokens: int
    page_size: int = 16
    states_every: int = 8

    def pages(self, span: Span | Carried) -> int:
        """Pages of the pool of one span, page 0 included."""
        full = -(-self.tokens // self.page_size)
        each = -(-span.reach(self.tokens) // self.page_size) + 2  # a window may begin and end inside a page
        return min(full, self.rows * each + -(-self.batch_tokens // self.page_size)) + 1


class ModelRunner:
    """A Runner over a Transformer on this machine's processor; server/engine/gpu.py has what differs on a GPU."""

    SPARE_PAGES: ClassVar[int] = 0  # behind those that are handed out
    REPLAYS: ClassVar[bool] = False  # steps of single tokens, which it has captured

    def __init__(
        self,
        model: Transformer,
        room: Room,
        vocab: int | None = None,
        *,
        weight_bytes: float | None = None,
        machine: Machine | None = None,
    ) -> None:
        """vocab: how many of the logits have a token; the padding behind them is never drawn. weight_bytes: of
        one weight as it is kept; None: as in the model's type. machine: what it runs on, where that was measured."""
        self.model, self.room = model, room
        self.vocab = min(model.architecture.vocab, vocab or model.architecture.vocab)
        self.dtype, self.device = model.embedding.weight.dtype, model.embedding.weight.device
        entries = cache_entries(model.architecture)
        pages = tuple(room.pages(entry.span) for entry in entries)
        pools = tuple(count + self.SPARE_PAGES for count in pages)
        self.cache = PagedCache(entries, pools, room.page_size, self.dtype, self.device)
        self._pagings = tuple(batch.Paging(s, room.page_size, self.dtype, self.device) for s in spans(entries))
        self.mixtures = tuple(
            MixtureShape(layer, moe.experts, moe.active, moe.router.capacity is not None)
            for layer, moe in model.architecture.mixtures
        )
        self.states, carried = self._make_states()
        self.groups = tuple(self._group(paging.span, entries) for paging in self._pagings) + carried
        size = self.dtype.itemsize
        self.costs = Costs.of(model.architecture, weight_bytes or size, size, machine)
        if carried:
            self.costs = replace(self.costs, page=room.page_size, every=room.page_size * carried[0].every)
        self._continued = Continued(room.page_size)
        self._lean = passes.lean(model)
        self.memory: CacheGroup | None = None
        self._sources: PagedCache | None = None
        if model.architecture.encoder is not None:
            self.memory, self._sources = self._make_memory()

    @property
    def block_size(self) -> int:
        return self.room.page_size

    def run(self, step: Step) -> StepResult:
        """Compute every row's tokens, and draw or score what follows those whose logits are wanted."""
        with torch.inference_mode(), native.alone(self._lean):
            inputs = self._inputs(step)
            began = self._mark()
            memory = self._memory_of(step, inputs)
            done, ended = self._compute(inputs if memory is None else replace(inputs, memory=memory))
            good = self.device.type == "cpu" and bool(done.finite.all())  # of a GPU this is asked below
            picks = [pick for row in step.rows for pick in row.picks]
            asked = [_asked(pick) for pick in picks]
            drawn = self._sample(step, done, picks, asked, good)
            # Up to here nothing has waited for a GPU.
            experts = memory.fresh.experts if memory is not None and memory.fresh is not None else None
            results = done.finite, drawn, done.routed, experts
            finite, drawn, routed, experts = results if self.device.type == "cpu" else fetch(results)
            failed = {} if good or bool(finite.all()) else _failures(step, (~finite).nonzero().flatten().tolist())
            for index, failure in failed.items():
                self._scrub(step, index, failure.position)
            tokens, logprobs = drawn.told(asked)
            routes = None if routed is None else routed.told()
            read = () if experts is None else tuple(map(tuple, experts.tolist()))
            result = StepResult(tokens, logprobs, routes, failed, self._seconds(began, ended), read)
            if self.states is not None:
                self.states.done()  # nothing can fail behind it
            return result

    def _compute(self, inputs: StepInput) -> tuple[Computed, Any]:
        """What comes of a step, and the moment at which the forward pass was over."""
        out: StepOutput = self.model(inputs)
        ended = self._mark()
        return Computed.of(out, self.vocab), ended

    def _mark(self) -> Any:
        """A moment in the work of the device."""
        return time.monotonic()

    def _seconds(self, began: Any, ended: Any) -> float:
        """Between two marks, once everything is done."""
        return float(ended - began)

    def _make_memory(self) -> tuple[CacheGroup, PagedCache]:
        """Room for the sources of an encoder: as many tokens as the cache of the answers."""
        entries = memory_entries(self.model.architecture)
        pages, size = self.room.pages(Full()), self.room.page_size
        page_bytes = sum(entry.numbers for entry in entries) * size * self.dtype.itemsize
        cache = PagedCache(entries, (pages,) * len(entries), size, self.dtype, self.device)
        return CacheGroup(Full(), pages, page_bytes), cache

    def _make_states(self) -> tuple[StateCache | None, tuple[CacheGroup, ...]]:
        """Memory of what recurrent mixers carry, and its group."""
        values = self.model.architecture.recurrents
        if not values:
            return None, ()
        pages = self.room.pages(Carried())
        page_bytes = sum(value.state_numbers for value in values) * torch.float32.itemsize
        # Where nothing else tells how a prefix was routed, no block may be missing.
        every = self.room.states_every if self._pagings or not self.mixtures else 1
        group = CacheGroup(Carried(), pages, page_bytes, every)
        return StateCache(values, pages, self.room.rows, self.device), (group,)

    def _group(self, span: Span, entries: tuple[CacheEntry, ...]) -> CacheGroup:
        numbers = sum(entry.numbers for entry in entries if entry.span == span)
        page_bytes = numbers * self.room.page_size * self.dtype.itemsize
        return CacheGroup(span, self.room.pages(span), page_bytes)

    def _inputs(self, step: Step) -> StepInput:
        if self.device.type != "cpu":  # its captured steps have arrays of their own
            return self._built(step)
        followed = self._continued.follow(step)
        return self._continued.remember(step, self._built(step)) if followed is None else followed

    def _built(self, step: Step) -> StepInput:
        layout = batch.layout_of(step, replayed=self.REPLAYS)
        views = tuple(batch.group_view(layout, i, paging) for i, paging in enumerate(self._pagings))
        loads = None
        if any(mixture.limited for mixture in self.mixtures):
            loads = batch.loads_of(step, max(m.experts for m in self.mixtures), len(self.mixtures))
        view = PagedView(self.cache, views, self._states_of(layout))
        sources = None if self._sources is None else step_memory(self._sources, step)
        positions = torch.from_numpy(layout.positions)
        return StepInput(batch.tokens_of(step), positions, view, batch.select(layout), loads, sources)

    def _states_of(self, layout: batch.Layout) -> StateView | None:
        """The states that a step starts from, and where it keeps those that it comes to."""
        if self.states is None:
            return None
        own = len(self._pagings)  # the last of the groups
        return self.states.view(batch.moves(layout, own, self.room.page_size, self.groups[own].every))

    def _memory_of(self, step: Step, inputs: StepInput) -> StepMemory | None:
        """The memory of a step, with the sources read that are new in it."""
        memory = inputs.memory
        assert memory is None or isinstance(memory, StepMemory)
        return None if memory is None else read_sources(self.model, memory, step)

    def _sample(self, step: Step, done: Computed, picks: list[Pick], asked: list[int | None], good: bool) -> Drawn:
        """What follows each pick. done: with logits of every token that `batch.select` names; good: whether all of them
        are known to be numbers."""
        if not picks:
            return Drawn()
        likeliest = only_likeliest(picks) and not any(n is not None for n in asked)
        found = done.best if likeliest else done.logits if good else done.logits.nan_to_num()
        if len(picks) < len(found):
            wanted = [i for i, (row, at) in enumerate(batch.selected(step)) if at in step.rows[row].wanted]
            found = found[sampling.beside(found, torch.tensor(wanted))]
        if likeliest:
            return Drawn(found)
        tokens = _tokens(found, picks)
        return Drawn(tokens, scored(found, tokens, asked))

    def _scrub(self, step: Step, index: int, position: int) -> None:
        """Zero what a failed row wrote in this step from `position` on, or all of it where nothing before was looked
        at. What is before a bad draft is good, and stays."""
        row = step.rows[index]
        start = position if position > min(row.wanted, default=position) else row.start
        alone = batch.layout_of(Step(step.number, (row._replace(start=start, count=row.start + row.count - start),)))
        for i, paging in enumerate(self._pagings):
            slots = batch.Places.of(alone, i, paging).slots
            for layer, owner in enumerate(self.cache.pools.groups):
                if owner == i:
                    self.cache.scrub(layer, slots)


def _failures(step: Step, bad: list[int]) -> dict[int, Failure]:
    """For every row with a position that is no number, the first of them; `bad`: indices of tokens selected."""
    failed: dict[int, Failure] = {}
    places = batch.selected(step)
    for row, position in (places[index] for index in bad):
        failed.setdefault(row, Failure("the model's output is not a number", position))
    return failed


def _tokens(logits: Tensor, picks: list[Pick]) -> Tensor:
    """The known token of each pick, or one drawn from its row of logits."""
    known = [pick.known for pick in picks]
    drawn = [i for i, token in enumerate(known) if token is None]
    if len(drawn) == len(picks):
        return _draw(logits, picks)
    tokens = sampling.beside(logits, torch.tensor([0 if token is None else token for token in known]))
    if drawn:
        at = sampling.beside(logits, torch.tensor(drawn))
        tokens[at] = _draw(logits[at], [picks[i] for i in drawn])
    return tokens


def _draw(logits: Tensor, picks: list[Pick]) -> Tensor:
    edits, barred = edits_of(picks), batch.barred(picks, logits.shape[-1])
    if edits:
        logits = sampling.edit(logits, edits)
    return sampling.sample(logits if barred is None else sampling.bar(logits, barred), batch.draw_of(picks))


def _asked(pick: Pick) -> int | None:
    """How many log-probabilities a pick asks for beside its own; None for none at all."""
    how = pick.request.sampling
    return how.logprobs if pick.known is None else how.prompt_logprobs
