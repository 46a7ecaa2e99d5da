"""Two servers up at once on the same weights, measured in turns of seconds: what the machine does meanwhile, it does to
both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median

from client.compare.judge.paired import Difference, over_rounds
from tests.bench.contender import Running, Score
from tests.bench.processes import NOISY_CORES, family, used_seconds

HEAD = """| case | ours, tokens/s | peer | tokens/s | ratio, 95 % interval | first token, ms | gRPC / REST | others |
|---|--:|---|--:|--:|--:|--:|--:|"""

REST = 0.5
"""Seconds before each turn: threads of whoever was measured before may spin for a while (Intel's OpenMP 200 ms)."""

Measure = Callable[[Running, str, int], Score]
"""(server, target, round): one run of a case."""


@dataclass
class Rounds:
    """One case: of every round ours over REST, ours over gRPC (nothing where that is not served) and the peer's."""

    ours: list[Score] = field(default_factory=list)
    grpc: list[Score] = field(default_factory=list)
    theirs: list[Score] = field(default_factory=list)
    idle: float = 0.0  # cores that both servers used before it, when nobody asked them anything

    @property
    def everything(self) -> Iterator[tuple[str, Sequence[Score]]]:
        yield from (("ours", self.ours), ("grpc", self.grpc), ("theirs", self.theirs))


def face(ours: Running, peer: Running, rounds: int, measure: Measure) -> Rounds:
    """So many rounds; who comes first changes from one to the next."""
    told = Rounds(idle=_idle(ours, peer))
    http, *grpc = ours.targets
    turns = [(told.ours, ours, http), (told.theirs, peer, peer.targets[0]), *((told.grpc, ours, one) for one in grpc)]
    for number in range(rounds):
        for scores, server, target in turns[:: 1 if number % 2 else -1]:
            time.sleep(REST)
            scores.append(measure(server, target, number))
    return told


def row(case: str, name: str, told: Rounds) -> str:
    """A line of Markdown under HEAD: medians, and the mean ratio of the rounds with Student's interval over them."""
    others = max(told.idle, *(score.others for _, scores in told.everything for score in scores))
    mark = " !" if others > NOISY_CORES else ""
    mine, theirs = (f"{median(score.rate for score in scores):,.1f}" for scores in (told.ours, told.theirs))
    firsts = " / ".join(_milliseconds(scores) for scores in (told.ours, told.theirs))
    transports = _ratio(told.grpc, told.ours) if told.grpc else ""
    cells = (case, mine, name, theirs, _ratio(told.ours, told.theirs, "**"), firsts, transports, f"{others:.2f}{mark}")
    return f"| {' | '.join(cells)} |"


def _ratio(some: Sequence[Score], others: Sequence[Score], strong: str = "") -> str:
    found: Difference = over_rounds("rate", [(b.rate, a.rate) for a, b in zip(some, others, strict=True)])
    if found.pairs < 2:
        return f"{strong}{some[0].rate / others[0].rate:.2f}{strong}"
    return f"{strong}{found.ratio:.2f}{strong} ({found.ratio_interval.low:.2f} to {found.ratio_interval.high:.2f})"


def _milliseconds(scores: Sequence[Score]) -> str:
    firsts = [score.first_token for score in scores if score.first_token is not None]
    return f"{median(firsts) * 1e3:.1f}" if firsts else "–"


def _idle(*servers: Running) -> float:
    def used() -> float:
        return sum(used_seconds(family(server.process.pid)) for server in servers)

    began, before = time.perf_counter(), used()
    time.sleep(1.0)
    return (used() - before) / (time.perf_counter() - began)
