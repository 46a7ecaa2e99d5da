"""Stand-ins whose numbers can be worked out by hand: a runner that counts on its fingers, a clock, an observer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from model.config import Full, Span
from model.costs import Costs
from model.operations import Operations
from model.roofline import Machine
from model.routing import PAD
from server.engine.constraint import members
from server.engine.request import Request, Routes, Sampling, TokenLogprobs
from server.engine.stats import RequestStats, StepStats
from server.engine.step import CacheGroup, Failure, MixtureShape, Pick, Row, Step, StepResult

Slot = tuple[int, int]  # (token, position), what the fake keeps of a token in each cache group


def next_token(tokens: Sequence[int], vocab: int, spans: Sequence[Span] = (Full(),)) -> int:
    """What the fake says after `tokens`: (for each span the sum of what is visible + the last position) % vocab.

    With one full span and vocab 10, [3, 4] is followed by (3 + 4 + 1) % 10 = 8.
    """
    last = len(tokens) - 1
    return (sum(sum(tokens[span.first_visible(last) :]) for span in spans) + last) % vocab


def continuation(prompt: Sequence[int], count: int, vocab: int, spans: Sequence[Span] = (Full(),)) -> list[int]:
    """The fake's greedy answer of `count` tokens."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens, vocab, spans))
    return tokens[len(prompt) :]


def routes_of(tokens: Sequence[int], start: int, stop: int, mixtures: Sequence[MixtureShape]) -> Routes:
    """Choice k of layer l sends a token at position p to expert (token + p + l + k) % experts with gate 1 / (k + 2) and
    margin (p % 4 + l) / 8."""
    most = max(shape.active for shape in mixtures)
    experts = np.full((stop - start, len(mixtures), most), PAD, np.int16)
    gates = np.zeros(experts.shape, np.float32)
    margins = np.zeros(experts.shape[:2], np.float32)
    for at, position in enumerate(range(start, stop)):
        for layer, shape in enumerate(mixtures):
            margins[at, layer] = (position % 4 + layer) / 8
            for k in range(shape.active):
                experts[at, layer, k] = (tokens[position] + position + layer + k) % shape.experts
                gates[at, layer, k] = 1 / (k + 2)
    return Routes(experts, gates, margins)


def expert_tokens(tokens: Sequence[int], mixtures: Sequence[MixtureShape]) -> list[list[int]]:
    """How many of `tokens` each expert of each layer gets, counted one by one."""
    counts = [[0] * shape.experts for shape in mixtures]
    for row in routes_of(tokens, 0, len(tokens), mixtures).experts.tolist() if mixtures else []:
        for layer, chosen in enumerate(row):
            for expert in chosen:
                if expert != PAD:
                    counts[layer][expert] += 1
    return counts


def costs_of(groups: Sequence[CacheGroup], block_size: int, mixtures: Sequence[MixtureShape]) -> Costs:
    """Of a fake: a token costs 10 in projections, 20 in feed-forwards, 30 and 4 where there are experts, 7 for its
    logits, and 2 for each position that a group looks at. A pass reads 1000 bytes, 8 a token, 100 an expert."""
    held = [(group.span, None, group.bytes_per_block // block_size) for group in groups]
    return Costs(
        token=Operations(projections=10, feed_forward=20, experts=30 * bool(mixtures), router=4 * bool(mixtures)),
        head=7,
        scores=tuple((group.span, None, 2) for group in groups),
        reads=tuple(held),
        entry=sum(size for *_, size in held),
        weights=1000,
        row=8,
        experts=(100,) * len(mixtures),
        parameters=5000,
        expert_parameters=tuple((shape.experts, 50) for shape in mixtures),
    )


class Clock:
    """Time that passes only when told to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(slots=True)
class Recorder:
    """An observer that keeps everything."""

    arrivals: list[tuple[str, int]] = field(default_factory=list)
    steps: list[StepStats] = field(default_factory=list)
    requests: list[RequestStats] = field(default_factory=list)

    def received(self, model: str, prompt_tokens: int) -> None:
        self.arrivals.append((model, prompt_tokens))

    def stepped(self, stats: StepStats) -> None:
        self.steps.append(stats)

    def finished(self, stats: RequestStats) -> None:
        self.requests.append(stats)


class FakeRunner:
    """A Runner that draws `next_token` from what it reads back through the block tables.

    It keeps (token, position) of every computed token in blocks of its own, and reads only what the group's span lets
    it see. A wrong table, a block given back too early or handed out twice is an AssertionError, not a wrong guess.

    clock, step_seconds: a step moves this clock on.   sleep: seconds a step really takes.
    fault(step): called first; may raise.              nan(row): whether that row has no token.
    blank(pick): whether nothing can be drawn from that position on.
    """

    def __init__(
        self,
        *,
        vocab: int = 257,
        block_size: int = 4,
        groups: tuple[CacheGroup, ...] = (CacheGroup(Full(), 65, 1024),),
        mixtures: tuple[MixtureShape, ...] = (),
        memory: CacheGroup | None = None,
        costs: Costs | None = None,
        machine: Machine | None = None,
        clock: Clock | None = None,
        step_seconds: float = 0.0,
        sleep: float = 0.0,
        fault: Callable[[Step], None] = lambda step: None,
        nan: Callable[[Row], bool] = lambda row: False,
        blank: Callable[[Pick], bool] = lambda pick: False,
    ) -> None:
        self.vocab, self.block_size, self.groups, self.mixtures = vocab, block_size, groups, mixtures
        self.memory = memory
        found = costs_of(groups, block_size, mixtures) if costs is None else costs
        self.costs = found if machine is None else replace(found, machine=machine)
        self.steps: list[Step] = []
        self._clock, self._step_seconds, self._sleep = clock, step_seconds, sleep
        self._fault, self._nan, self._blank = fault, nan, blank
        self._memory: list[dict[int, Slot]] = [{} for _ in groups]

    @property
    def spans(self) -> tuple[Span, ...]:
        return tuple(group.span for group in self.groups)

    def run(self, step: Step) -> StepResult:
        time.sleep(self._sleep)
        if self._clock is not None:
            self._clock.now += self._step_seconds
        self._fault(step)
        self.steps.append(step)
        for row in step.rows:
            self._store(row)
        picked = [(row, pick) for row in step.rows for pick in row.picks]
        tokens = tuple(self._draw(row, pick) if pick.known is None else pick.known for row, pick in picked)
        logprobs = tuple(_logprobs(pick, token) for (_, pick), token in zip(picked, tokens, strict=True))
        failed = {index: Failure("nan", row.start) for index, row in enumerate(step.rows) if self._nan(row)}
        for index, row in enumerate(step.rows):
            blank = [pick.position for pick in row.picks if self._blank(pick)]
            if blank:
                failed[index] = Failure("blank", blank[0])
        return StepResult(tokens, logprobs, self._routes(step), failed, self._step_seconds + self._sleep)

    def _store(self, row: Row) -> None:
        assert row.count > len(row.drafts) and len(row.tokens) == row.count, "computes what is not known"
        known = row.start + row.count - len(row.drafts)
        assert not row.drafts or known == row.request.num_tokens, "guesses before everything known is computed"
        for position, token in enumerate(row.tokens, row.start):
            for index in range(len(self.groups)):
                self._memory[index][self._slot(row, index, position)] = (token, position)

    def _draw(self, row: Row, pick: Pick) -> int:
        total = last = pick.position
        for index, group in enumerate(self.groups):
            for position in range(group.span.first_visible(last), last + 1):
                token, written = self._memory[index][self._slot(row, index, position)]
                assert written == position, f"{row.request.id} reads position {position}, finds {written}"
                total += token
        constraint = pick.request.constraint
        if constraint is None:
            return total % self.vocab
        allowed = np.flatnonzero(members(constraint.allowed(pick.drafted), self.vocab)).tolist()
        words = [token for token in allowed if token not in (9, 10, 13, 32)] or allowed  # it would say spaces for ever
        return words[total % len(words)]

    def _slot(self, row: Row, index: int, position: int) -> int:
        block, offset = divmod(position, self.block_size)
        number = row.tables[index][block]
        assert 0 < number < self.groups[index].num_blocks, f"{row.request.id} has no block for position {position}"
        return number * self.block_size + offset

    def _routes(self, step: Step) -> Routes | None:
        if not self.mixtures:
            return None
        parts = []
        for row in step.rows:
            stop = row.start + row.count
            tokens = [*row.request.tokens(0, row.start), *row.tokens]
            parts.append(routes_of(tokens, row.start, stop, self.mixtures))
        return Routes.join(parts)


def _logprobs(pick: Pick, token: int) -> TokenLogprobs | None:
    """-token / 8, when they were asked for."""
    sampling = pick.request.sampling
    asked = sampling.logprobs if pick.known is None else sampling.prompt_logprobs
    rank = 0 if pick.known is None else 1
    return None if asked is None else TokenLogprobs(-token / 8, ((token, -token / 8),)[:asked], rank)


def make_request(
    prompt: Sequence[int], max_tokens: int, *, id: str = "r", arrived: float = 0.0, **more: object
) -> Request:
    """A greedy request; `more` are fields of Sampling or of Request."""
    own = {name: more.pop(name) for name in list(more) if name in Request.__dataclass_fields__}
    sampling = Sampling(max_tokens=max_tokens, temperature=0.0, **more)  # type: ignore[arg-type]
    return Request(id, tuple(prompt), sampling, arrived, **own)  # type: ignore[arg-type]
