"""Whether a run can be believed. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from client.load.arrivals import Closed
from client.load.record import Run
from client.load.statistics import Summary
from client.load.steady import overloaded
from client.units import milliseconds, percent

_LATE_SECONDS, _LATE_SHARE = 0.002, 0.01
_HELD_UP = 0.01  # seconds
_CACHED = 0.05  # of the prompt tokens: so much is chance, or a few words that tales begin with
_SEEN = 0.99  # of the tokens: a few have no text yet, as half a character
_BUSY = 0.9  # of one core: the client runs on one


@dataclass(frozen=True, slots=True)
class Flaw:
    """Why a run may not be believed: `what` in the same words for every run of which it is true, and by how many
    seconds (a 99th percentile) where that was measured."""

    what: str
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.what} ({milliseconds(self.seconds)} ms, 99th percentile)" if self.seconds else self.what


def client_bound(run: Run) -> bool:
    """Whether the client itself, not the server, may have set the pace."""
    return run.seconds > 1 and run.client_cpu > _BUSY * run.seconds


def sent_late(run: Run) -> bool:
    """Whether the client kept the schedule too badly: the 99th percentile of its lag above 2 ms and 1 % of the median
    time to first token. The latencies count from the schedule all the same."""
    lags = sorted(r.lag for r in run.records)
    firsts = sorted(r.first_token for r in run.records if r.first_token is not None)
    if not firsts:
        return False
    return lags[int(0.99 * (len(lags) - 1))] > max(_LATE_SECONDS, _LATE_SHARE * firsts[len(firsts) // 2])


def held_up(run: Run) -> bool:
    """Whether the client came to its turn too late to time what it was sent: by over 10 ms and a tenth of the median
    time to first token."""
    firsts = sorted(r.first_token for r in run.records if r.first_token is not None)
    return bool(firsts) and run.held_up > max(_HELD_UP, 0.1 * firsts[len(firsts) // 2])


def in_pieces(run: Run) -> bool:
    """Whether tokens came together without a word of how many, so that there are fewer instants than tokens: a server
    that tells no token ids."""
    answered = [r for r in run.records if r.ok and r.facts]
    # The token that ends an answer has no text, and may have no piece.
    least = sum(r.completion_tokens - (r.facts.finish_reason == "stop") for r in answered if r.facts)
    return sum(len(r.arrivals) for r in answered) < _SEEN * least


def flaws(run: Run) -> tuple[Flaw, ...]:
    """What a reader must know before believing the run; empty when all is well."""
    found = []
    if run.interrupted:
        found.append(Flaw("the run was stopped before every request was answered"))
    found += of_the_client(run)
    if in_pieces(run):
        told = "the server sent several tokens at once and told no ids: times between tokens are between pieces"
        found.append(Flaw(told))
    if not isinstance(run.arrivals, Closed) and overloaded(run.records):
        told = "requests waited ever longer: the rate is above what the server holds, and latencies grow with time"
        found.append(Flaw(told))
    return tuple(found)


def warnings(run: Run) -> tuple[str, ...]:
    """The same in words."""
    return tuple(map(str, flaws(run)))


def of_the_prompts(summary: Summary) -> list[str]:
    """A warning where prompts that were drawn to share nothing were in the prefix cache all the same."""
    if not summary.cached_share > _CACHED:
        return []
    share = percent(summary.cached_share)
    return [f"{share} of the prompts were cached, from an earlier run perhaps; --seed N sends others"]


def of_the_client(run: Run) -> list[Flaw]:
    """Flaws that the client earned, not the server."""
    found = []
    if sent_late(run):
        told = "the client sent late (99th percentile of the lag above 2 ms and 1 % of the time to first token)"
        found.append(Flaw(told))
    if held_up(run):
        found.append(Flaw("the client was held up itself, so what came meanwhile seems late", run.held_up))
    if client_bound(run):
        found.append(Flaw("the client used a whole core: it, not the server, may have set the pace"))
    return found
