"""The closed-loop load of every measurement of a server: so many streams, each asking again once it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from client import loop
from client.api import Client
from client.connect import connect
from client.load.arrivals import Closed
from client.load.runner import Load, run
from client.load.statistics import Summary, summarise
from client.load.trace import Trace, TraceRow

FIRST_ID = 300  # behind bytes and special tokens, whatever the tokenizer


class LoadFailed(RuntimeError):
    """A request had no whole answer: there is no figure then."""


@dataclass(frozen=True, slots=True)
class Case:
    """`streams` at a time, `requests` in all (0: two for each stream), random prompts of `prompt` tokens, of which the
    first `shared` are the same in all, and answers of exactly `output`."""

    streams: int
    prompt: int = 128
    output: int = 128
    shared: int = 0
    requests: int = 0

    @property
    def count(self) -> int:
        return self.requests or 2 * self.streams

    def trace(self, seed: Sequence[int], vocab: int) -> Trace:
        """Other seeds have no prompt in common, so that no cache of prefixes answers for an earlier run."""
        draw = np.random.default_rng(seed)
        head = draw.integers(FIRST_ID, vocab, self.shared).tolist()
        tails = draw.integers(FIRST_ID, vocab, (self.count, self.prompt - self.shared)).tolist()
        return Trace(tuple(TraceRow(0.0, (*head, *tail), self.output) for tail in tails))


def measure(target: str, model: str, case: Case, seed: Sequence[int], vocab: int = 8192) -> Summary:
    """One run after a warm-up of a few tokens a stream. Raises LoadFailed."""
    return measure_each(target, (model,), case, seed, vocab)[0]


def measure_each(
    target: str, models: Sequence[str], case: Case, seed: Sequence[int], vocab: int = 8192
) -> tuple[Summary, ...]:
    """The same on several models of a server at the same time. Raises LoadFailed."""

    async def together() -> list[Summary]:
        return await asyncio.gather(*(_measure(target, model, case, seed, vocab) for model in models))

    return tuple(loop.run(together()))


async def _measure(target: str, model: str, case: Case, seed: Sequence[int], vocab: int) -> Summary:
    warm = replace(case, output=min(8, case.output), requests=case.streams)
    async with connect(target) as client:
        await _run(client, model, warm, warm.trace((*seed, 0), vocab))
        return await _run(client, model, case, case.trace((*seed, 1), vocab))


async def _run(client: Client, model: str, case: Case, trace: Trace) -> Summary:
    done = await run(client, Load(trace, Closed(case.streams), model, routing=None))
    failed = [record.error for record in done.records if not record.ok]
    if failed:
        raise LoadFailed(f"{len(failed)} of {len(done.records)} requests failed, the first with: {failed[0]}")
    summary = summarise(done.records, done.seconds)
    if summary.output_tokens != case.count * case.output:
        raise LoadFailed(f"{summary.output_tokens} tokens came where {case.count * case.output} were asked for")
    return summary
