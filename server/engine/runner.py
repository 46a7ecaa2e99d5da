"""Runs steps on a model: the only caller of the forward pass, and the owner of the cache memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from model import sampling
from model.cache import CacheEntry, cache_entries
from model.config import Full, Span
from model.costs import Costs
from model.moe import Routing
from model.transformer import StepInput, Transformer
from server.engine import batch
from server.engine.memory import memory_entries, step_memory
from server.engine.paged import PagedCache, PagedView
from server.engine.request import Routes
from server.engine.step import CacheGroup, Failure, MixtureShape, Pick, Step, StepResult, TokenLogprobs


SCORED_AT_ONCE = 64  # rows of logits


@dataclass(frozen=True, slots=True)
class Room:
    """How much cache a runner allocates: `tokens` positions of full span, and of a window what `rows` requests can look
    back on while a step of `batch_tokens` passes."""

    tokens: int
    rows: int
    batch_tokens: int
    page_size: int = 16

    def pages(self, span: Span) -> int:
        """Pages of the pool of one span, page 0 included."""
        full = -(-self.tokens // self.page_size)
        if isinstance(span, Full):
            return full + 1
        reach = -(-span.size // self.page_size) + 2  # a window may begin and end inside a page
        return min(full, self.rows * reach + -(-self.batch_tokens // self.page_size)) + 1


class ModelRunner:
    """A Runner over a Transformer on this process's device."""

    def __init__(self, model: Transformer, room: Room, vocab: int | None = None) -> None:
        """vocab: how many of the logits have a token; the padding behind them is never drawn."""
        self.model, self.room = model, room
        self.vocab = min(model.architecture.vocab, vocab or model.architecture.vocab)
        self.dtype = model.embedding.weight.dtype
        entries = cache_entries(model.architecture)
        spans = tuple(dict.fromkeys(entry.span for entry in entries))
        self.group_of = tuple(spans.index(entry.span) for entry in entries)
        pages = tuple(room.pages(entry.span) for entry in entries)
        self.cache = PagedCache(entries, pages, room.page_size, self.dtype)
        self.groups = tuple(self._group(span, entries) for span in spans)
        self.mixtures = tuple(
            MixtureShape(layer, moe.experts, moe.active, moe.router.capacity is not None)
            for layer, moe in model.architecture.mixtures
        )
        self.costs = Costs.of(model.architecture, self.dtype.itemsize, self.dtype.itemsize)
        self.memory: CacheGroup | None = None
        self._sources: PagedCache | None = None
        if model.architecture.encoder is not None:
            self.memory, self._sources = self._make_memory()

    @property
    def block_size(self) -> int:
        return self.room.page_size

    def run(self, step: Step) -> StepResult:
        """Compute every row's tokens, and draw or score what follows those whose logits are wanted."""
        with torch.inference_mode():
            inputs = self._inputs(step)
            started = time.monotonic()
            out = self.model(inputs)
            forward_seconds = time.monotonic() - started
            logits = out.logits[:, : self.vocab]
            bad = (~torch.isfinite(logits.sum(-1))).nonzero().flatten().tolist()
            failed = _failures(step, bad) if bad else {}
            for index, failure in failed.items():
                self._scrub(step, index, failure.position)
            tokens, logprobs = self._sample(step, logits.nan_to_num() if bad else logits)
            return StepResult(tokens, logprobs, self._routes(out.routings), failed, forward_seconds)

    def _make_memory(self) -> tuple[CacheGroup, PagedCache]:
        """Room for the sources of an encoder: as many tokens as the cache of the answers."""
        entries = memory_entries(self.model.architecture)
        pages, size = self.room.pages(Full()), self.room.page_size
        page_bytes = sum(entry.numbers for entry in entries) * size * self.dtype.itemsize
        cache = PagedCache(entries, (pages,) * len(entries), size, self.dtype)
        return CacheGroup(Full(), pages, page_bytes), cache

    def _group(self, span: Span, entries: tuple[CacheEntry, ...]) -> CacheGroup:
        numbers = sum(entry.numbers for entry in entries if entry.span == span)
        page_bytes = numbers * self.room.page_size * self.dtype.itemsize
        return CacheGroup(span, self.room.pages(span), page_bytes)

    def _inputs(self, step: Step) -> StepInput:
        layout = batch.layout_of(step)
        views = tuple(
            batch.group_view(layout, i, group.span, self.room.page_size, self.dtype)
            for i, group in enumerate(self.groups)
        )
        loads = None
        if any(mixture.limited for mixture in self.mixtures):
            loads = batch.loads_of(step, max(m.experts for m in self.mixtures), len(self.mixtures))
        view = PagedView(self.cache, views, self.group_of)
        sources = None if self._sources is None else step_memory(self.model, self._sources, step)
        positions = torch.from_numpy(layout.positions)
        return StepInput(batch.tokens_of(step), positions, view, batch.select(layout), loads, sources)

    def _sample(self, step: Step, logits: Tensor) -> tuple[tuple[int, ...], tuple[TokenLogprobs | None, ...]]:
        """What follows each pick. logits: of every token that `batch.select` names."""
        picks = [pick for row in step.rows for pick in row.picks]
        if not picks:
            return (), ()
        if len(picks) < len(logits):
            logits = logits[[i for i, (row, at) in enumerate(batch.selected(step)) if at in step.rows[row].wanted]]
        known = [pick.known for pick in picks]
        drawn = [i for i, token in enumerate(known) if token is None]
        if len(drawn) == len(picks):
            tokens = _draw(logits, picks)
        else:
            tokens = torch.tensor([0 if token is None else token for token in known])
            if drawn:
                tokens[drawn] = _draw(logits[drawn], [picks[i] for i in drawn])
        samplings = [pick.request.sampling for pick in picks]
        asked = [s.logprobs if k is None else s.prompt_logprobs for s, k in zip(samplings, known, strict=True)]
        return tuple(tokens.tolist()), _logprobs(logits, tokens, asked)

    def _routes(self, routings: tuple[Routing, ...]) -> Routes | None:
        """Expert ids and gates of every token of the step, layers of smaller top-k padded."""
        if not routings:
            return None
        most = max(mixture.active for mixture in self.mixtures)
        if all(mixture.active == most for mixture in self.mixtures):
            experts = torch.stack([r.experts for r in routings], dim=1).to(torch.int16).numpy()
            gates = torch.stack([r.gates for r in routings], dim=1).float().numpy()
            ranked = torch.stack([r.ranked for r in routings], dim=1)
            return Routes(experts, gates, (ranked[..., -2] - ranked[..., -1]).float().numpy())
        shape = (len(routings[0].experts), len(routings), most)
        experts, gates = np.full(shape, Routes.PAD, dtype=np.int16), np.zeros(shape, dtype=np.float32)
        margins = np.zeros(shape[:2], dtype=np.float32)
        for i, routing in enumerate(routings):
            experts[:, i, : routing.experts.shape[1]] = routing.experts.numpy()
            gates[:, i, : routing.gates.shape[1]] = routing.gates.float().numpy()
            margins[:, i] = (routing.ranked[:, -2] - routing.ranked[:, -1]).float().numpy()
        return Routes(experts, gates, margins)

    def _scrub(self, step: Step, index: int, position: int) -> None:
        """Zero what a failed row wrote in this step from `position` on, or all of it where nothing before was looked
        at. What is before a bad draft is good, and stays."""
        row = step.rows[index]
        start = position if position > min(row.wanted, default=position) else row.start
        alone = batch.layout_of(Step(step.number, (row._replace(start=start, count=row.start + row.count - start),)))
        for i, group in enumerate(self.groups):
            slots = batch.group_view(alone, i, group.span, self.room.page_size, self.dtype).slots
            for layer, owner in enumerate(self.group_of):
                if owner == i:
                    self.cache.scrub(layer, slots)


def _failures(step: Step, bad: list[int]) -> dict[int, Failure]:
    """For every row with a position that is no number, the first of them; `bad`: indices of tokens selected."""
    failed: dict[int, Failure] = {}
    places = batch.selected(step)
    for row, position in (places[index] for index in bad):
        failed.setdefault(row, Failure("the model's output is not a number", position))
    return failed


def _draw(logits: Tensor, picks: list[Pick]) -> Tensor:
    edits, barred = batch.edits_of(picks), batch.barred(picks, logits.shape[-1])
    if edits:
        logits = sampling.edit(logits, edits)
    return sampling.sample(logits if barred is None else sampling.bar(logits, barred), batch.draw_of(picks))


def _logprobs(logits: Tensor, tokens: Tensor, counts: list[int | None]) -> tuple[TokenLogprobs | None, ...]:
    """For each row of logits the log-probability of its token and of so many best; None for a row that asks for none.

    A few rows at a time: a long prompt that is scored needs no second copy of all its logits.
    """
    asked = [i for i, count in enumerate(counts) if count is not None]
    found: list[TokenLogprobs | None] = [None] * len(counts)
    for first in range(0, len(asked), SCORED_AT_ONCE):
        some = asked[first : first + SCORED_AT_ONCE]
        wanted = [counts[i] or 0 for i in some]
        chosen, above, ids, values = sampling.log_probabilities(logits[some], tokens[some], max(wanted))
        rows = zip(some, wanted, chosen.tolist(), above.tolist(), ids.tolist(), values.tolist(), strict=True)
        for i, count, own, likelier, best, logs in rows:
            found[i] = TokenLogprobs(own, tuple(zip(best[:count], logs[:count], strict=True)), likelier + 1)
    return tuple(found)
