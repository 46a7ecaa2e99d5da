"""Charges every forward pass to the requests that shared it, and to the step. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.costs import Costs
from model.routing import expert_loads
from server.engine.account import Account, Tally
from server.engine.entry import Seat
from server.engine.request import Routes
from server.engine.stats import Compute, LayerRouting
from server.engine.step import MixtureShape, Row, StepResult
from server.engine.work import Work


class Ledger:
    """One model's. A pass that failed as a whole gave nothing and is charged to nobody."""

    def __init__(self, costs: Costs, mixtures: tuple[MixtureShape, ...]) -> None:
        self._costs = costs
        self._looked_once = costs.looked_once()
        self._layers = len(mixtures)
        self._most_experts = max((shape.experts for shape in mixtures), default=0)

    def tally(self, began: float, now: float) -> Tally:
        """Of a step whose tokens all have the time `now`."""
        loads = np.zeros((self._layers, self._most_experts), np.int64)
        return Tally(began, now, loads, np.zeros(self._layers), np.zeros(self._layers, np.int64))

    def charge(self, seats: Sequence[Seat], result: StepResult, tally: Tally) -> None:
        """Enter a pass before anything it gave is taken: its work, its routing and whom it kept waiting."""
        tokens = sum([seat.row.count for seat in seats])
        load = sum([seat.row.load for seat in seats]) if self._costs.state else tokens
        weights, seconds = self._costs.weight_bytes(tokens, self._route(result.routes, tally)), result.forward_seconds
        delay = seconds * sum(_prompt_tokens(seat.row) for seat in seats) / load if load > len(seats) else 0.0
        once, several, scores, read, logits, passed = self._looked_once, self._costs.looked, 0, 0, 0, Work()
        shares: list[float] = []
        encoder = iter(result.encoder_experts)
        for entry, row in seats:
            count, start, account = row.count, row.start, entry.account
            share = count / load
            account.forward_seconds += seconds
            if account.lost_at is not None:  # it computes again; the time of this pass is not lost twice
                account.preempted_seconds -= seconds
            if count == 1:
                seen, found = once(start)
                wanted = 1
            else:
                seen, found = several(start, start + count)
                wanted = len(row.wanted) or 1
            if row.source:
                share = row.load / load
                if row.encodes:
                    account.encoder_experts = next(encoder, ())
                    self._encoded(row, account, passed)
                seen, found = self._remembered(row, seen, found)
            if self._costs.carried:
                kept = self._costs.kept(start, start + count)
                account.work.kept += kept
                passed.kept += kept
            if delay and not _prompt_tokens(row):
                account.delayed_seconds += delay
            account.work.add(count, wanted, seen, found, weights * share, share, seconds * share)
            shares.append(share)
            scores += seen
            read += found
            logits += wanted
        passed.add(tokens, logits, scores, read, weights, 1.0, seconds)
        self._bound(seats, passed, shares)
        tally.work.join(passed)

    def take_back(self, routes: Routes | None, wrong: list[int], tally: Tally) -> None:
        """These tokens of the pass were drafts that nobody said: their routing is no request's."""
        if wrong and routes is not None and self._layers:
            tally.loads -= expert_loads(routes.experts[wrong], self._most_experts)[0]
            tally.margins -= routes.margins[wrong].sum(axis=0, dtype=np.float64)

    def bill(self, account: Account, routing: tuple[LayerRouting, ...]) -> Compute:
        """What a request cost that ends now."""
        distinct = [sum(tokens > 0 for tokens in layer.expert_tokens) for layer in routing]
        known = account.work.tokens and len(distinct) == self._layers
        return account.work.bill(self._costs, self._costs.touched(distinct, account.encoder_experts) if known else 0)

    def step_bill(self, tally: Tally) -> Compute:
        return tally.work.bill(self._costs)

    def _route(self, routes: Routes | None, tally: Tally) -> list[int]:
        """How many experts of each layer the pass touched."""
        if routes is None or not self._layers:
            return [0] * self._layers
        loads = expert_loads(routes.experts, self._most_experts)[0]
        distinct = np.count_nonzero(loads, axis=1)
        tally.loads += loads
        tally.distinct += distinct
        tally.margins += routes.margins.sum(axis=0, dtype=np.float64)
        touched: list[int] = distinct.tolist()
        return touched

    def _bound(self, seats: Sequence[Seat], passed: Work, shares: Sequence[float]) -> None:
        """The least that the pass could have taken on this machine, to each row its share."""
        if self._costs.machine is None:
            return
        bill = passed.bill(self._costs)
        moved = bill.weight_bytes + bill.cache_read_bytes + bill.cache_written_bytes
        memory, compute = self._costs.machine.least_seconds(moved, bill.operations.total)
        passed.memory_bound, passed.compute_bound = memory, compute
        for (entry, _), share in zip(seats, shares, strict=True):
            work = entry.account.work
            work.memory_bound += memory * share
            work.compute_bound += compute * share

    def _encoded(self, row: Row, account: Account, step: Work) -> None:
        """Charge the reading of a source to whose it is, and to the step."""
        states, costs = len(row.request.source), self._costs
        operations, weights = costs.encoding(states), costs.encoder_bytes(states, account.encoder_experts)
        account.work.encoded(states, operations, weights)
        step.encoded(states, operations, weights)

    def _remembered(self, row: Row, scores: int, read: int) -> tuple[int, int]:
        """(scores, cache bytes read) of a row with what it looks at in the memory of its source."""
        states, costs = len(row.request.source), self._costs
        return scores + row.count * states * costs.crossing, read + states * costs.state


def _prompt_tokens(row: Row) -> int:
    """Tokens of a row that does more than feed back one token, those of a source that is read included; a single one
    costs what any decode does."""
    known = row.load - len(row.drafts)
    return known if known > 1 else 0
