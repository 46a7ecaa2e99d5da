"""Who computes what in the next step. No torch here.

There is no prefill phase and no decode phase. Every request has num_computed and num_tokens; a step hands out a budget
of tokens so that the first catches up with the second. Long prompts in chunks, cached prefixes and preemption (which
only sets num_computed back to 0) all follow from this; so does speculation, which computes tokens beyond num_tokens
and lets both lengths move up by those that turn out right.
"""

from __future__ import annotations

from server.engine.constraint import Constraint
from server.engine.drafting import Drafting
from server.engine.entry import Entry, Seat, in_order
from server.engine.patience import Patience
from server.engine.plan import Plan
from server.engine.stats import Scarce
from server.engine.step import Row
from server.engine.tables import Cache
from server.engine.waiting import Waiting


class Scheduler:
    """First come, first served, in this order: requests that need one token, those that need more, those that wait; and
    what none of them can use goes to drafts, whose blocks are taken back before anybody is preempted or kept waiting.
    Beside those that need one token, the others have only `chunk` tokens in all: the step is short for those who go on.

    running is in the order in which they were let in, within a tenant moved by priority (`in_order`), and only the last
    of it is ever preempted: it comes in again first, behind those that are left. waiting is in order of arrival and
    priority for each tenant (told apart by the salt of their prefixes), and the tenants take turns: nobody overtakes
    the head of a line but a request of its tenant whose turn is earlier, so it cannot starve. Whoever waits for a
    beginning that another request computes at this moment lets others pass until it is there. A request is let in only
    when all that run have tokens and one is left, so never more run than a step has tokens: no decode waits for
    somebody's prompt.
    """

    def __init__(self, cache: Cache, *, max_batch_tokens: int, max_rows: int) -> None:
        self._cache = cache
        self._max_batch_tokens = max_batch_tokens
        self._max_rows = max_rows
        self.running: list[Entry] = []
        self.waiting: Waiting[Entry] = Waiting(lambda entry: entry.tenant, lambda entry: entry.turn)
        self.patience = Patience()
        self._plan = Plan(max_batch_tokens)  # of the step under way, or the last one

    def add(self, entry: Entry) -> None:
        self.waiting.add(entry)

    def remove(self, entry: Entry, *, discard: bool = False) -> None:
        """Take a request out wherever it is; with `discard` nobody finds its blocks again."""
        if entry.request.constraint is not None:
            entry.request.constraint.close()
        if entry.running:
            self.running.remove(entry)
            entry.running = False
        else:
            self.waiting.remove(entry)
        if discard:
            self._cache.discard(entry.holding)
        else:
            self._cache.release(entry.holding)

    def schedule(self, chunk: int | None = None) -> list[Seat]:
        """The rows of the next step. Empty when there is no request, or all wait for their constraints (`patience` has
        them); otherwise that is a fault. chunk: most tokens of prompts beside answers; None: no bound."""
        plan = self._plan = Plan(self._max_batch_tokens)
        self.patience.begin()
        behind = self._feed_back()
        plan.bound(chunk)
        self._top_up(self._catch_up(behind) + self._admit())
        self._speculate()
        return [self._seat(entry, count) for entry, count in plan.tokens.items()]

    @property
    def preempted(self) -> list[Entry]:
        """Who lost its blocks in the last step that was scheduled."""
        return self._plan.preempted

    @property
    def scarce(self) -> Scarce | None:
        """What the first of the queue was short of in the last step; None when nobody waits but for a constraint."""
        head = next((entry for entry in self.waiting if not entry.awaits), None)
        if head is None:
            return None
        if self._cache.awaits(head.holding):
            return Scarce.PREFIX
        if self._plan.short or self.preempted:
            return Scarce.BLOCKS
        return Scarce.TOKENS if len(self.running) < self._max_rows else Scarce.ROWS

    def computed(self, seat: Seat, count: int | None = None) -> int:
        """A seat's tokens are in the cache, and the first `count` of them (None: all) are the request's own, not wrong
        drafts; returns how many of these were computed again."""
        entry, row = seat.entry, seat.row
        entry.request.num_computed = stop = row.start + (row.count if count is None else count)
        entry.holding.encoded = True
        self._cache.computed(entry.request, entry.holding, entry.account.routes)
        return entry.account.computed(row.start, stop)

    def check(self) -> None:
        """Raise AssertionError unless flags, order and blocks agree with each other."""
        everyone = [*self.running, *self.waiting]
        assert all(entry.running for entry in self.running), "a request runs and does not know"
        for queue in (self.running, *self.waiting.lines):
            assert queue == in_order(queue), "somebody is out of turn"
        assert not any(entry.running or entry.request.num_computed for entry in self.waiting), "a waiting request runs"
        most = min(self._max_rows, self._max_batch_tokens)
        assert len(self.running) <= most, f"{len(self.running)} run where {most} may"
        self._cache.check(entry.holding for entry in everyone)

    def _feed_back(self) -> list[Entry]:
        """One token for each running request that needs just one; returns those that need more."""
        behind = []
        for entry in self.running:  # preemption only ever takes from the end of this list
            if self.patience.lacks(entry.request.constraint):
                continue
            if entry.request.num_uncomputed == 1:
                self._grant(entry, 1)
            else:
                behind.append(entry)
        return behind

    def _catch_up(self, behind: list[Entry]) -> list[Entry]:
        """Tokens for running requests that need several; returns those that got less than there was."""
        cut = []
        for place, entry in enumerate(behind):
            if entry.running and self._plan.room:
                others = place + 1 < len(behind) or self._may_admit
                cut += self._chunk(entry, others)
        return cut

    def _admit(self) -> list[Entry]:
        """Let waiting requests in while tokens, rows and blocks last; returns those that got less than there was."""
        cut: list[Entry] = []
        plan = self._plan
        for entry in list(self.waiting) if self._may_admit else ():
            if not (plan.room and self._may_admit) or plan.preempted:
                break
            if self.patience.lacks(entry.request.constraint) or self._cache.is_coming(entry.request, entry.holding):
                continue
            source = len(entry.request.source)
            if not plan.takes(source):
                break
            cached = self._cache.admit(entry.request, entry.holding)
            while cached is None and self._take_back_guesses():
                cached = self._cache.admit(entry.request, entry.holding)
            if cached is None:
                plan.short = True
                break
            self.waiting.let_in(entry)
            self._start(entry, cached)
            cut += self._chunk(entry, self._may_admit)
            plan.read(source)
        return cut

    @property
    def _may_admit(self) -> bool:
        return bool(self.waiting) and len(self.running) < min(self._max_rows, self._max_batch_tokens)

    def _start(self, entry: Entry, cached: int) -> None:
        self.running = in_order([*self.running, entry])
        entry.running = True
        entry.request.num_computed = cached
        entry.account.found(cached)
        routes = self._cache.prefix_routes(entry.holding)
        if routes is not None and entry.account.routes is not None:
            entry.account.routes.write(0, routes.experts, routes.gates, routes.margins)

    def _chunk(self, entry: Entry, others: bool) -> list[Entry]:
        """Grant what is needed and left. One of several whole steps leaves half to those behind it: they need not wait
        for its end, and it takes twice as long at most. Returns the request when it was cut so."""
        need, room = entry.request.num_uncomputed, self._plan.room
        cut = others and need > self._max_batch_tokens
        granted = self._grant(entry, min(need, (room + 1) // 2 if cut else room))
        return [entry] if cut and granted else []

    def _top_up(self, cut: list[Entry]) -> None:
        """What nobody behind could use goes to those that stood back."""
        for entry in cut:
            count = self._plan.tokens.get(entry)
            if count is not None and (room := self._plan.room):
                more = min(room, entry.request.num_uncomputed - count)
                if self._cache.extend(entry.holding, entry.request.num_computed + count + more):
                    self._plan.give(entry, more)

    def _speculate(self) -> None:
        """Let requests that feed back one output guess what follows, as far as tokens are left and blocks are idle.
        What a bound keeps from prompts is not left: guesses would hold up others as long."""
        plan = self._plan
        if not plan.room and self._keeps_back:
            return
        for entry in plan.tokens:
            request, drafting = entry.request, entry.drafting
            if drafting is None or not request.outputs or request.num_uncomputed != 1:
                continue
            most = min(plan.left, request.sampling.max_tokens - len(request.outputs) - 1)
            if self.waiting:
                most = min(most, entry.holding.room * self._cache.block_size - request.num_tokens)
            drafts = self._fitting(request.constraint, drafting, drafting.draft(most))
            if drafts and self._cache.extend(entry.holding, request.num_tokens + len(drafts)):
                plan.guess(entry, drafts)

    @property
    def _keeps_back(self) -> bool:
        """Whether somebody could use more tokens than there are for those who need several."""
        return self._may_admit or any(e.request.num_uncomputed > self._plan.tokens.get(e, 1) for e in self.running)

    def _fitting(self, constraint: Constraint | None, drafting: Drafting, drafts: tuple[int, ...]) -> tuple[int, ...]:
        """The beginning of a guess that can come true. One that takes long to look into is as good as wrong."""
        if constraint is None or not drafts:
            return drafts
        constraint.consider(drafts)
        drafts = () if self.patience.lacks(constraint) else tuple(constraint.fitting(drafts))
        if not drafts:
            drafting.judge(0)
        return drafts

    def _grant(self, entry: Entry, count: int) -> bool:
        """Give `count` tokens, at the cost of the youngest where blocks are short; False when it is itself that."""
        while not self._cache.extend(entry.holding, entry.request.num_computed + count):
            if not self._take_back_guesses() and self._preempt_youngest() is entry:
                return False
        self._plan.give(entry, count)
        return True

    def _take_back_guesses(self) -> bool:
        """Release blocks of some request that hold only rejected guesses; whether there were any."""
        return any(self._cache.trim(entry.holding, entry.request.num_tokens) for entry in self.running)

    def _preempt_youngest(self) -> Entry:
        victim = self.running.pop()
        self.waiting.put_back(victim)
        victim.running = False
        victim.request.num_computed = 0
        victim.account.preemptions += 1
        self._cache.release(victim.holding)
        self._plan.withdraw(victim)
        return victim

    def _seat(self, entry: Entry, count: int) -> Seat:
        start, log, holding = entry.request.num_computed, entry.account.routes, entry.holding
        prior = None if log is None else log.prior(start)
        encodes = bool(holding.source) and not holding.encoded
        drafts = self._plan.drafts.get(entry, ())
        count += len(drafts)
        blocks, select = holding.frozen, entry.request.unscored
        return Seat(
            entry, Row(entry.request, start, count, blocks, prior, tuple(holding.source), encodes, drafts, select)
        )
