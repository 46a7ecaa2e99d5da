"""Steps that only continue requests, captured once for each of some sizes and replayed: a GPU is told of the whole
forward pass in one call, where launching its kernels one by one would take longer than they run.

A smaller step is filled up. What fills it writes to a page of its own and sees nothing but that, so that real rows
compute what they would compute alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import Full, Span
from model.kernels.paged import Pages
from model.paged import Decode, GroupView
from server.engine.results import Computed
from server.engine.staging import Board, is_fatal, leaves, rebuilt

log = logging.getLogger(__name__)

WIDEST_GAP = 16  # most rows that fill a step up, but for the largest


def sizes(largest: int) -> tuple[int, ...]:
    """Numbers of tokens to capture, up to `largest`: 1, 2, 4, 8, then every 8th to 64, then every 16th."""
    found = [*(n for n in (1, 2, 4) if n < largest), *range(8, min(largest, 65), 8), *range(80, largest, WIDEST_GAP)]
    return tuple(sorted({*found, largest}))


def size_of(tokens: int, known: tuple[int, ...]) -> int:
    """The smallest known size that holds so many tokens; beyond the largest, the next multiple of it."""
    largest = known[-1]
    return next((size for size in known if size >= tokens), -(-tokens // largest) * largest)


@dataclass(frozen=True, slots=True)
class Shape:
    """How wide the page table of one cache group can get, and the page that what fills a step up writes to."""

    width: int
    spare: int

    @classmethod
    def of(cls, span: Span, tokens: int, page_size: int, spare: int) -> Shape:
        """tokens: the longest that a sequence gets."""
        straddling = 0 if isinstance(span, Full) else 1  # a window may begin and end inside a page
        return cls(-(-span.reach(tokens) // page_size) + straddling, spare)


def padded_pages(pages: Pages, rows: int, shape: Shape) -> Pages:
    """Pages for `rows` rows and of the group's full width; rows behind see the first slot of the spare page."""
    more, narrow = rows - len(pages.table), max(0, shape.width - pages.table.shape[1])
    table = F.pad(pages.table, (0, narrow, 0, more))
    table[len(pages.table) :, 0] = shape.spare
    starts, first, last = (F.pad(x, (0, more)) for x in (pages.starts, pages.first, pages.last))
    new = None if pages.new is None else F.pad(pages.new, (0, more))
    return replace(pages, table=table, starts=starts, first=first, last=last, new=new)


def padded_view(view: GroupView, tokens: int, shape: Shape) -> GroupView:
    """A group's view of a step without stretches, filled up to `tokens` tokens."""
    assert view.decode is not None and not view.stretches
    more = tokens - len(view.slots)
    slots = F.pad(view.slots, (0, more), value=shape.spare * view.decode.pages.size)
    rows = torch.arange(tokens)
    return GroupView(view.page_size, slots, Decode(rows, padded_pages(view.decode.pages, tokens, shape)))


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a captured step reads: tokens and positions (T,), and the view of each cache group."""

    tokens: Tensor
    positions: Tensor
    groups: tuple[GroupView, ...]

    def fit(self, shapes: tuple[Shape, ...]) -> bool:
        """Whether every page table is as narrow as its group's; drafts may look back on more than a window."""
        tables = (view.decode.pages.table for view in self.groups if view.decode is not None)
        return all(table.shape[1] <= shape.width for table, shape in zip(tables, shapes, strict=True))

    def padded(self, size: int, shapes: tuple[Shape, ...]) -> Tokens:
        more = size - len(self.tokens)
        views = tuple(padded_view(view, size, shape) for view, shape in zip(self.groups, shapes, strict=True))
        return Tokens(F.pad(self.tokens, (0, more)), F.pad(self.positions, (0, more)), views)


def empty_tokens(size: int, shapes: tuple[Shape, ...], spans: tuple[Span, ...], page_size: int) -> Tokens:
    """A step that only fills up: what a size is captured with."""
    zeros = torch.zeros(0, dtype=torch.long)
    none = zeros.view(0, 1), zeros, zeros, zeros, zeros
    views = tuple(GroupView(page_size, zeros, Decode(zeros, Pages(span, page_size, *none))) for span in spans)
    return Tokens(zeros, zeros, views).padded(size, shapes)


class Graph(Protocol):
    """A captured computation; `replay` runs it again on what its inputs hold now."""

    def replay(self) -> None: ...


Capture = Callable[[Callable[[], Computed]], tuple[Graph, Computed]]
"""Runs a computation and captures it: the graph, and the output that every replay overwrites."""


class _Captured:
    """One size: where its inputs are written, what replays it, and what it leaves."""

    def __init__(self, board: Board[Tokens], graph: Graph, output: Computed) -> None:
        self._board, self._graph, self._output = board, graph, output
        self._columns = _columns(board.host)
        self._blanks = [column.copy() for column in self._columns]

    def run(self, tokens: Tokens) -> Computed:
        """Of a step of no more tokens than were captured. Columns of page tables behind those of the step keep what
        earlier steps left there: rows look at as many as their positions need."""
        count = len(tokens.tokens)
        for there, blank, given in zip(self._columns, self._blanks, _columns(tokens), strict=True):
            there[count:] = blank[count:]
            if given.ndim == 1:
                there[:count] = given
            else:
                there[:count, : given.shape[1]] = given
        self._board.send()
        self._graph.replay()
        return self._output.first(count)


def _columns(tokens: Tokens) -> list[np.ndarray]:
    """What differs from step to step: numbers (T,) and page tables (T, n)."""
    found = [tokens.tokens, tokens.positions]
    for view in tokens.groups:
        assert view.decode is not None
        pages = view.decode.pages
        assert pages.new is not None
        found += (view.slots, pages.table, pages.starts, pages.first, pages.last, pages.new)
    return [tensor.numpy() for tensor in found]


class Graphs:
    """The captured sizes of one model. forward(tokens on the device) is what is captured."""

    def __init__(
        self,
        forward: Callable[[Tokens], Computed],
        empty: Callable[[int], Tokens],
        shapes: tuple[Shape, ...],
        device: torch.device,
    ) -> None:
        """empty: a step of so many tokens that only fills up."""
        self._forward, self._empty, self._shapes, self._device = forward, empty, shapes, device
        self._captured: dict[int, _Captured] = {}

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(sorted(self._captured))

    def capture(self, wanted: tuple[int, ...], capture: Capture) -> Iterator[int]:
        """Capture the largest size first, whose memory serves the others too; tells how many are done. A failure is
        logged once, and what was not captured runs unrecorded from then on."""
        for done, size in enumerate(sorted(wanted, reverse=True), start=1):
            try:
                self._captured[size] = self._one(size, capture)
            except Exception as fault:
                if isinstance(fault, RuntimeError) and is_fatal(fault):
                    raise
                reason = str(fault).strip().splitlines() or [""]
                log.warning("steps are not captured: %s: %s", type(fault).__name__, reason[0])
                self._captured.clear()
                return
            yield done

    def run(self, tokens: Tokens) -> Computed | None:
        """The output of a step that lies on the host, good until the next one; None where no captured size fits."""
        count = len(tokens.tokens)
        size = next((size for size in self.sizes if size >= count), None)
        if size is None or not tokens.fit(self._shapes):
            return None
        return self._captured[size].run(tokens)

    @torch.inference_mode()
    def _one(self, size: int, capture: Capture) -> _Captured:
        empty = self._empty(size)
        board = Board(empty, self._device)
        inputs = board.fill(empty)
        # What page tables derive from themselves they keep: made anew, so that it is computed within the graph.
        return _Captured(board, *capture(lambda: self._forward(rebuilt(inputs, leaves(inputs)))))


class CudaCapture:
    """Capture on a GPU. All sizes share one pool of memory: they never run at the same time."""

    RUNS = 2  # before recording: kernels are compiled and libraries allocate what they keep

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], Computed]) -> tuple[Graph, Computed]:
        with torch.cuda.device(self._device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(self.RUNS):
                    compute()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                output = compute()
        return graph, output
