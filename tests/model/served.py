"""A hand-driven engine: it gives ModelRunner steps as an adversary would, and keeps every number that comes out.

Pages are handed out in random order and come back full of leftovers, prompts are cut anywhere, requests join late,
are thrown out and start again. Outputs are forced, so that one reference forward of the whole text judges every step.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.routing import PAD
from model.transformer import StepOutput, Transformer
from server.engine.request import Request, Routes, Sampling
from server.engine.runner import ModelRunner, Room
from server.engine.step import Row, Step, StepResult

LONGEST_CHUNK = 7


@dataclass(slots=True, eq=False)
class Text:
    """One request whose outputs are known beforehand, what it holds and what came out for it."""

    tokens: tuple[int, ...]
    request: Request
    tables: list[list[int]]
    prior: np.ndarray  # (mixture layers, experts) choices of the tokens computed so far
    logits: dict[int, list[Tensor]] = field(default_factory=dict)  # by position
    routes: dict[int, list[Routes]] = field(default_factory=dict)  # by position, one row each

    @property
    def done(self) -> bool:
        return self.request.num_computed == len(self.tokens)


def copy(routes: Routes) -> Routes:
    return Routes(routes.experts.copy(), routes.gates.copy(), routes.margins.copy())


class HandEngine:
    """`leftover` is written over every page before it is handed out, page 0 excepted."""

    def __init__(
        self, model: Transformer, seed: int = 0, page_size: int = 4, leftover: float = 1e4, rows: int = 3
    ) -> None:
        self.random = random.Random(seed)
        self.leftover, self.page_size = leftover, page_size
        self.runner = ModelRunner(model, Room(200, rows, rows * LONGEST_CHUNK, page_size, states_every=1))
        self.free = [list(range(1, group.num_blocks)) for group in self.runner.groups]
        self.holders: Counter[tuple[int, int]] = Counter()  # (group, page): how many texts hold it
        self.texts: list[Text] = []
        self.steps = 0

    def add(self, tokens: Sequence[int], prompt: int, sampling: Sampling | None = None) -> Text:
        request = Request(
            str(len(self.texts)),
            tuple(tokens[:prompt]),
            sampling or Sampling(99, temperature=0),
            arrived=0.0,
        )
        experts = max((mixture.experts for mixture in self.runner.mixtures), default=0)
        prior = np.zeros((len(self.runner.mixtures), experts), dtype=np.int64)
        text = Text(tuple(tokens), request, [[] for _ in self.free], prior)
        self.texts.append(text)
        return text

    def finish(self) -> None:
        """Run random steps until every text is done."""
        while waiting := [text for text in self.texts if not text.done]:
            chosen = self.random.sample(waiting, self.random.randint(1, len(waiting)))
            self.step((text, self.random.randint(1, LONGEST_CHUNK)) for text in chosen)

    def step(self, plan: Iterable[tuple[Text, int]]) -> StepResult:
        """Compute up to so many tokens of each text."""
        planned = [(text, min(count, text.request.num_uncomputed)) for text, count in plan]
        rows = tuple(self._row(text, count) for text, count in planned)
        logits, result = self._run(Step(self.steps, rows))
        self.steps += 1
        self._keep(planned, logits, result)
        for text, count in planned:
            self._advance(text, count)
        return result

    def _run(self, step: Step) -> tuple[Tensor, StepResult]:
        """The step's result, and the logits of each row's last token, overheard."""
        heard: list[Tensor] = []

        def listen(_module: torch.nn.Module, _inputs: object, output: StepOutput) -> None:
            heard.append(output.logits)

        with self.runner.model.register_forward_hook(listen):
            result = self.runner.run(step)
        return heard[0], result

    def throw_out(self, text: Text) -> None:
        """Preempt: all pages go back, everything is to be computed again."""
        self._release(text)
        text.request.num_computed = 0
        text.prior[:] = 0

    def share(self, source: Text, target: Text, pages: int) -> None:
        """Give target the first pages of source, as a prefix cache does."""
        for group, (table, shared) in enumerate(zip(target.tables, source.tables, strict=True)):
            table[:] = shared[:pages]
            self.holders.update((group, page) for page in table)
        target.request.num_computed = pages * self.page_size
        target.prior[:] = 0
        for position in range(target.request.num_computed if source.routes else 0):
            self._count(target, source.routes[position][0])

    def _row(self, text: Text, count: int) -> Row:
        start = text.request.num_computed
        for group, table in enumerate(text.tables):
            room = self.random.choice([0, 1])  # the engine may hold a page more than the row needs
            while len(table) * self.page_size < start + count + room:
                table.append(self._page(group))
        return Row(text.request, start, count, tuple(map(tuple, text.tables)), text.prior.copy())

    def _page(self, group: int) -> int:
        page = self.free[group].pop(self.random.randrange(len(self.free[group])))
        self.holders[group, page] = 1
        if (states := self.runner.states) is not None and group == len(self.free) - 1:
            for slots in states.slots:
                slots[states.slot[page]] = self.leftover
        for layer, owner in enumerate(self.runner.cache.pools.groups):
            for pool in (self.runner.cache.keys[layer], self.runner.cache.values[layer]):
                if owner == group and pool is not None:
                    pool[page] = self.leftover
        return page

    def _keep(self, planned: list[tuple[Text, int]], all_logits: Tensor, result: StepResult) -> None:
        offset = 0
        for (text, count), logits in zip(planned, all_logits, strict=True):
            start = text.request.num_computed
            text.logits.setdefault(start + count - 1, []).append(logits)
            for i in range(count if result.routes else 0):
                assert result.routes is not None
                routes = copy(result.routes.part(offset + i, offset + i + 1))  # a replay writes over them
                text.routes.setdefault(start + i, []).append(routes)
                self._count(text, routes)
            offset += count

    def _count(self, text: Text, routes: Routes) -> None:
        for layer, choices in enumerate(routes.experts[0].tolist()):
            for expert in choices:
                if expert != PAD:
                    text.prior[layer, expert if expert >= 0 else ~expert] += 1

    def _advance(self, text: Text, count: int) -> None:
        request = text.request
        request.num_computed += count
        if not request.num_uncomputed and not text.done:
            request.outputs.append(text.tokens[request.num_tokens])
        for group, table in enumerate(text.tables):
            invisible = self.runner.groups[group].span.first_visible(request.num_computed) // self.page_size
            for i, page in enumerate(table[:invisible]):
                self._give_back(group, page)
                table[i] = 0
        if text.done:
            self._release(text)

    def _release(self, text: Text) -> None:
        for group, table in enumerate(text.tables):
            for page in table:
                self._give_back(group, page)
            table.clear()

    def _give_back(self, group: int, page: int) -> None:
        """Free a page when the last text that holds it lets go of it; 0 is none."""
        self.holders[group, page] -= 1
        if page and not self.holders[group, page]:
            self.free[group].append(page)
