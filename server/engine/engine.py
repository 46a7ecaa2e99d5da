"""One model's engine: a step is schedule → run → settle. No torch, no transport, no asyncio here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any

from model.cache import Carried
from server.engine import isolation, pace
from server.engine.account import Account, Shortage, Tally, summary
from server.engine.drafting import Drafting, MakeDrafter, PromptLookup
from server.engine.ending import Answer, Delta, refusal, take
from server.engine.entry import Entry, Seat
from server.engine.ledger import Ledger
from server.engine.request import Outcome, Request, Routes
from server.engine.routes import RouteLog, layer_routing
from server.engine.scheduler import Scheduler
from server.engine.stats import NOTHING, GroupUse, LayerRouting, Observer, Scarce, StepStats
from server.engine.step import Runner
from server.engine.tables import Cache


class Engine:
    """Continues requests together, a step at a time. One thread owns it; every method is called on that thread.

    max_batch_tokens, max_rows: most tokens and requests of a step; chunk_seconds: how long prompts may hold up others
    in one, None: no bound; speculate: most tokens that `drafter` guesses for a request, 0 for none. `clock`: seconds.
    """

    def __init__(
        self,
        name: str,
        runner: Runner,
        *,
        observer: Observer,
        max_batch_tokens: int = 512,
        max_rows: int = 64,
        clock: Callable[[], float] = time.monotonic,
        prefix_cache: bool = True,
        chunk_seconds: float | None = None,
        speculate: int = 0,
        drafter: MakeDrafter = PromptLookup,
    ) -> None:
        self.name, self.block_tokens = name, runner.block_size
        # A state that wrong guesses went into cannot be had back.
        carried = any(isinstance(group.span, Carried) for group in runner.groups)
        self._speculate, self._drafter = 0 if carried else speculate, drafter
        self._guard = isolation.Guard()
        self._runner = runner
        self._observer = observer
        self._clock = clock
        self._mixtures = runner.mixtures
        self._ledger = Ledger(runner.costs, self._mixtures)
        self._cache = Cache(
            runner.groups,
            runner.block_size,
            chunk=max_batch_tokens,
            prefix=prefix_cache,
            routed=bool(self._mixtures),
            memory=runner.memory,
        )
        self._scheduler = Scheduler(self._cache, max_batch_tokens=max_batch_tokens, max_rows=max_rows)
        self._shortage = Shortage()
        self._live: dict[str, Entry] = {}
        self._deltas: list[Delta] = []
        self._progress, self._number = pace.Progress(name, max_batch_tokens, chunk_seconds), 0
        self.ran = False  # anything, in the last step

    @property
    def capacity_tokens(self) -> int:
        """The largest prompt + max_tokens that the cache can hold for a single request."""
        return self._cache.capacity

    @property
    def groups(self) -> tuple[GroupUse, ...]:
        """Blocks of each cache group now."""
        return self._cache.use

    @property
    def source_tokens(self) -> int:
        """The longest source that can be held for a single request; 0 for a model without an encoder."""
        return self._cache.source_capacity

    @property
    def observer_failures(self) -> int:
        """How often an observer or a statistic failed; requests went on without."""
        return self._guard.failures

    @property
    def has_work(self) -> bool:
        """Whether a step would do or tell anything."""
        return bool(self._live or self._deltas)

    @property
    def late(self) -> Sequence[Future[Any]]:
        """What the last step waited for in vain."""
        return self._scheduler.patience.late

    @property
    def longest_step(self) -> float:
        """Seconds that a step may honestly take, judged by those before."""
        return self._progress.longest_step

    @property
    def num_running(self) -> int:
        return len(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        return len(self._scheduler.waiting)

    def add(self, request: Request) -> None:
        """Queue a request. One that could never be served ends with an error at the next step."""
        if request.id in self._live:
            raise ValueError(f"request {request.id!r} is already here")
        routes = RouteLog(self._mixtures) if self._mixtures else None
        account = Account(request.arrived, routes, shortage=self._shortage)
        drafting = Drafting(self._drafter(request), self._speculate) if self._speculate else None
        entry = Entry(request, self._cache.holding(), account, drafting=drafting, queued=self._clock())
        self._live[request.id] = entry
        self._scheduler.add(entry)
        self._guard(self._observer.received, self.name, request.num_prompt_tokens)
        why = refusal(request, self.capacity_tokens, self.source_tokens)
        if why:
            self._finish(entry, Answer(outcome=Outcome.ERROR, error=why), self._clock())
        else:
            self._progress.expect(len(request.source))

    def cancel(self, request_id: str, outcome: Outcome = Outcome.CANCELLED) -> None:
        """End a request now, wherever it is; its last delta comes with the next step. Unknown ids are ignored."""
        entry = self._live.get(request_id)
        if entry is not None:
            self._finish(entry, Answer(outcome=outcome), self._clock())

    def cancel_all(self) -> None:
        """End every request as cancelled."""
        for request_id in list(self._live):
            self.cancel(request_id)

    def step(self) -> list[Delta]:
        """Run one step and return what it gave, and the last deltas of requests that ended since the step before.

        A request that the model fails on ends with an error and leaves the others as they were. Raises NoProgress, and
        what the runner raises when nothing can be run any more (DeviceLost).
        """
        began = self._clock()
        self._number += 1
        self._expire(began)
        seats = self._scheduler.schedule(self._progress.chunk)
        self._shortage.look(began, self._scheduler.scarce is Scarce.BLOCKS)
        idle = self._live and not seats and not self._scheduler.patience.lost
        self._progress.watch(f"{self.num_running} running and {self.num_waiting} waiting" if idle else "")
        for entry in self._scheduler.preempted:
            if entry.account.held_bytes:  # else it came in with this step, and never had a seat
                entry.account.lost(began)
        for entry, _ in seats:
            entry.account.seated(began, len(seats), entry.holding.bytes)
            entry.request.started = True
        self.ran = bool(seats)
        ran = isolation.run(self._runner, self._number, seats) if seats else []
        tally = self._ledger.tally(began, self._clock())
        self._progress.took(sum(part.tokens for part in ran), tally.now - began)
        for part in ran:
            self._settle(part, tally)
        self._report(len(seats), len(self._scheduler.preempted), tally)
        deltas, self._deltas = self._deltas, []
        return deltas

    def give_up(self, why: str) -> None:
        """Nothing runs any more: every request that is left ends as failed, for the observer to know."""
        for entry in list(self._live.values()):
            self._guard(self._finish, entry, Answer(outcome=Outcome.ERROR, error=why), self._clock())
        self._deltas.clear()
        self._guard(self._report, 0, 0, self._ledger.tally(self._clock(), self._clock()))

    def reset_prefix_cache(self) -> None:
        """Forget every cached prefix."""
        self._cache.reset()

    def check(self) -> None:
        """Raise AssertionError if requests and blocks are not accounted for to the last one."""
        self._scheduler.check()
        assert len(self._live) == self.num_running + self.num_waiting, "a request is lost"

    def _expire(self, now: float) -> None:
        """End requests whose time ran out, and those whose constraint can say no more."""
        for entry in [e for e in self._live.values() if e.request.deadline is not None and now >= e.request.deadline]:
            self._finish(entry, Answer(outcome=Outcome.DEADLINE), now)
        for entry in [e for e in self._live.values() if e.request.failure is not None]:
            self._finish(entry, Answer(outcome=Outcome.REJECTED, error=entry.request.failure or ""), now)

    def _settle(self, ran: isolation.Ran, tally: Tally) -> None:
        """Take what the model gave: tokens into requests, facts into accounts, full blocks into the prefix cache."""
        result = ran.result
        if result is None:
            for seat in ran.seats:
                spoilt = ran.outcome is Outcome.ERROR
                self._finish(seat.entry, Answer(outcome=ran.outcome, error=ran.fault, spoilt=spoilt), tally.now)
            return
        tally.forward_seconds += result.forward_seconds
        self._guard(self._ledger.charge, ran.seats, result, tally)
        found = iter(zip(result.tokens, result.logprobs, strict=True))
        at = 0  # among the tokens of the step
        wrong: list[int] = []  # which of them were drafted and not confirmed
        for index, seat in enumerate(ran.seats):
            row, known = seat.row, seat.entry.request.num_tokens
            picked = list(islice(found, len(row.wanted)))
            scored = 0 if row.select is None else min(max(0, known - 1 - row.wanted.start), len(picked))
            row.request.scores += [logprob for _, logprob in picked[:scored] if logprob is not None]
            draws = picked[scored:]
            answer = take(row, draws, result.failed.get(index))
            right = row.count - len(row.drafts) + answer.accepted
            if right < row.count:
                wrong += range(at + right, at + row.count)
            if not self._guard(self._record_routes, seat, result.routes, at, right):
                answer = answer._replace(outcome=Outcome.ERROR, error="its routes could not be kept")
            self._give(seat, answer, right, tally)
            at += row.count
        self._guard(self._ledger.take_back, result.routes, wrong, tally)

    def _record_routes(self, seat: Seat, routes: Routes | None, at: int, count: int) -> bool:
        """Note how a seat's tokens, `count` from `at` on among those of the step, were routed. True when done."""
        if routes is not None and (notes := seat.entry.account.routes) is not None:
            own = routes.part(at, at + count)
            notes.write(seat.row.start, own.experts, own.gates, own.margins)
        return True

    def _give(self, seat: Seat, answer: Answer, right: int, tally: Tally) -> None:
        """Enter what a step gave a request: `right` of the seat's tokens are computed and confirmed."""
        entry, row = seat.entry, seat.row
        tally.ran(row, answer.accepted)
        if row.drafts:
            entry.judge(len(row.drafts), answer.accepted)
        for _ in answer.tokens:
            tally.drew(entry.account)
        if answer.outcome is Outcome.ERROR:  # what it computed still counts, but is not published
            tally.recomputed_tokens += entry.account.computed(row.start, row.start + right)
        else:
            tally.recomputed_tokens += self._scheduler.computed(seat, right)
        if answer.outcome is not None:
            self._finish(entry, answer, tally.now)
        elif answer.tokens:
            entry.look_ahead()
            self._deltas.append(Delta(entry.request, answer.tokens, answer.logprobs))

    def _finish(self, entry: Entry, answer: Answer, now: float) -> None:
        """Take a request out and leave its last delta for the end of the step."""
        assert answer.outcome is not None, "a request ends somehow"
        del self._live[entry.request.id]
        self._scheduler.remove(entry, discard=answer.spoilt)
        account = entry.account
        account.holds(now, 0)
        routing = self._routing(account)
        stats = summary(
            self.name,
            entry.request,
            account,
            answer.outcome,
            now,
            cache_bytes=entry.holding.peak_bytes,
            routing=routing,
            compute=self._guard(self._ledger.bill, account, routing) or NOTHING,
        )
        routes = None if account.routes is None else account.routes.all()
        self._deltas.append(Delta(entry.request, answer.tokens, answer.logprobs, stats, routes, answer.error))
        self._guard(self._observer.finished, stats)

    def _routing(self, account: Account) -> tuple[LayerRouting, ...]:
        return () if account.routes is None else self._guard(layer_routing, account.routes.all(), self._mixtures) or ()

    def _report(self, rows: int, preemptions: int, tally: Tally) -> None:
        """Tell the observer about the step, once everything of it is done."""
        stats = StepStats(
            model=self.name,
            number=self._number,
            seconds=self._clock() - tally.began,
            forward_seconds=tally.forward_seconds,
            rows=rows,
            prefill_tokens=tally.prefill_tokens,
            decode_tokens=tally.decode_tokens,
            recomputed_tokens=tally.recomputed_tokens,
            preemptions=preemptions,
            running=self.num_running,
            waiting=self.num_waiting,
            groups=self._cache.use,
            expert_tokens=tally.loads,
            first_tokens=tuple(tally.first_tokens),
            gaps=tuple(tally.gaps),
            drafted_tokens=tally.drafted_tokens,
            accepted_tokens=tally.accepted_tokens,
            compute=self._guard(self._ledger.step_bill, tally) or NOTHING,
            distinct_experts=tally.distinct,
            margins=tally.margins,
            waiting_for=self._scheduler.scarce,
        )
        self._guard(self._observer.stepped, stats)
