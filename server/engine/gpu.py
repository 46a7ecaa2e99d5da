"""A runner on a CUDA GPU: steps go down in one copy, those that only continue requests are captured and replayed, and
what the GPU cannot recover from is told apart from what is some row's doing.

All of it but the capture itself also runs on the processor, where the tests hold it to the plain runner.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from model.cache import CacheEntry, cache_entries
from model.config import Attention, Buckets, Full
from model.kernels import flex
from model.kernels.gpu import FEW
from model.kernels.paged import Pages
from model.paged import Decode, GroupView, PagedView
from model.transformer import StepInput, Transformer
from server.engine.graphs import Capture, CudaCapture, Graphs, Shape, Tokens, empty_tokens, padded_pages, size_of, sizes
from server.engine.memory import Fresh, StepMemory
from server.engine.request import Request, Sampling
from server.engine.results import Computed
from server.engine.runner import ModelRunner, Room
from server.engine.staging import is_fatal, place
from server.engine.step import DeviceLost, Row, Step, StepResult

log = logging.getLogger(__name__)

REHEARSED = 2 * FEW  # tokens of the prompt that a GPU is tried with: more than go through kernels for few
PAGE_SIZE = 64  # what FlexAttention reads at once; smaller pages leave its tensor cores half empty


class GpuRunner(ModelRunner):
    """A Runner over a Transformer that lies on a GPU. Every pool has a page more, for what fills steps up."""

    SPARE_PAGES: ClassVar[int] = 1
    REPLAYS: ClassVar[bool] = True

    def __init__(self, model: Transformer, room: Room, vocab: int | None = None) -> None:
        super().__init__(model, room, vocab)
        longest = self._longest = min(model.architecture.context, room.tokens)
        self._spans = tuple(paging.span for paging in self._pagings)
        blocks = (group.num_blocks for group in self.groups)
        self._shapes = tuple(
            Shape.of(span, longest, room.page_size, spare) for span, spare in zip(self._spans, blocks, strict=False)
        )
        self._sizes = sizes(room.rows)
        self._graphs = Graphs(
            self._captured,
            lambda size: empty_tokens(size, self._shapes, self._spans, room.page_size),
            self._shapes,
            self.device,
        )

    @property
    def captured(self) -> tuple[int, ...]:
        """The numbers of tokens whose steps are replayed."""
        return self._graphs.sizes

    def capture(self, capture: Capture | None = None, wanted: tuple[int, ...] = ()) -> Iterator[float]:
        """Capture every size, or those wanted, as far as this architecture can be; tells the share that is done."""
        why = self._uncapturable()
        if why:
            log.info("steps are not captured: %s", why)
            return
        wanted = wanted or self._sizes
        for done in self._graphs.capture(wanted, capture or CudaCapture(self.device)):
            yield done / len(wanted)
        try:
            self._rehearse()
        except Exception as fault:
            if isinstance(fault, DeviceLost):
                raise
            log.warning("the first prompt will have to wait: %s: %s", type(fault).__name__, fault)

    def _rehearse(self) -> None:
        """A step that is not captured, a prompt beside a token, on pages that nobody has: what is built or laid out at
        first use is there before the first request."""
        length = min(REHEARSED, self._longest)
        pages = [np.full(-(-length // self.room.page_size), shape.spare) for shape in self._shapes]
        how = Sampling(max_tokens=1, temperature=0.0)
        prompt = Row(Request("", (0,) * length, how, 0.0), 0, length, tuple(pages))
        token = Row(Request("", (0,), how, 0.0, outputs=[0]), 1, 1, tuple(pages))
        self.run(Step(0, (prompt, token) if length > 1 else (prompt,)))

    def run(self, step: Step) -> StepResult:
        """As its base does. Raises DeviceLost when the GPU can run nothing any more."""
        try:
            with torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext():
                return super().run(step)
        except RuntimeError as fault:
            if is_fatal(fault):
                raise DeviceLost(f"{type(fault).__name__}: {fault}") from fault
            raise

    def _compute(self, inputs: StepInput) -> tuple[Computed, Any]:
        view = inputs.cache
        assert isinstance(view, PagedView)
        alone = inputs.loads is None and inputs.memory is None and view.states is None
        done = None
        if alone and not any(group.stretches for group in view.groups):
            done = self._graphs.run(Tokens(inputs.tokens, inputs.positions, view.groups))
        if done is None:
            done = Computed.of(self.model(self._placed(inputs, view.groups)), self.vocab)
        elif inputs.select is not None:
            done = done.of_rows(place(inputs.select, self.device))
        return done, self._mark()

    def _captured(self, tokens: Tokens) -> Computed:
        view = PagedView(self.cache, tokens.groups)
        return Computed.of(self.model(StepInput(tokens.tokens, tokens.positions, view)), self.vocab)

    def _placed(self, inputs: StepInput, groups: tuple[GroupView, ...]) -> StepInput:
        """Everything of a step on the GPU, and as many rows that read pages as there are kernels for."""
        memory = inputs.memory
        assert memory is None or isinstance(memory, StepMemory)
        sources: tuple[Pages, Fresh | None] | None = None
        if memory is not None:
            sources = self._filled_sources(memory.pages), memory.fresh
        padded = tuple(self._filled(view, shape) for view, shape in zip(groups, self._shapes, strict=True))
        tree = (inputs.tokens, inputs.positions, padded, inputs.select, inputs.loads, sources)
        tokens, positions, views, select, loads, there = place(tree, self.device)
        placed = None if memory is None or there is None else StepMemory(memory.cache, *there)
        view = inputs.cache
        states = view.states if isinstance(view, PagedView) else None
        return StepInput(tokens, positions, PagedView(self.cache, views, states), select, loads, placed)

    def _filled(self, view: GroupView, shape: Shape) -> GroupView:
        if view.decode is None:
            return view
        pages = view.decode.pages
        rows = size_of(len(pages.table), self._sizes)
        return replace(view, decode=Decode(view.decode.tokens, padded_pages(pages, rows, shape)))

    def _filled_sources(self, pages: Pages) -> Pages:
        """Every token looks at a source of its own; those that fill up look at the empty page 0."""
        assert self.memory is not None
        shape = Shape.of(Full(), self.room.tokens, self.room.page_size, spare=0)
        return padded_pages(pages, size_of(len(pages.table), self._sizes), shape)

    def _uncapturable(self) -> str:
        """Why steps of this architecture cannot be captured; empty when they can."""
        if self._sources is not None:
            return "what an encoder read has no fixed size"
        if any(mixture.limited for mixture in self.mixtures):
            return "experts with a capacity count what each sequence chose before"
        if self.states is not None:
            return "a layer carries states from slots that change"
        if not all(map(self._in_place, self.model.architecture.attentions, cache_entries(self.model.architecture))):
            return "a layer's attention copies its pages together"
        return ""

    def _in_place(self, attention: Attention, entry: CacheEntry) -> bool:
        """Whether a layer reads pages where they lie, however wide the page table is."""
        biased = attention.indexer is not None or isinstance(attention.position, Buckets)
        return not biased and flex.has_kernel(entry.key_dim, entry.value_dim, self.room.page_size)

    def _mark(self) -> Any:
        if self.device.type != "cuda":
            return super()._mark()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _seconds(self, began: Any, ended: Any) -> float:
        return super()._seconds(began, ended) if self.device.type != "cuda" else began.elapsed_time(ended) / 1000
