"""Who gets tokens: worked out by hand, row by row."""

from __future__ import annotations

from model.config import Full, Window
from server.engine.account import Account
from server.engine.entry import Entry
from server.engine.scheduler import Scheduler
from server.engine.stats import Scarce
from server.engine.step import CacheGroup
from server.engine.tables import Cache
from tests.fakes import make_request

Plan = list[tuple[str, int, int]]  # (id, start, count) of each row


class Bench:
    """A scheduler, and a model that answers 1 to everything."""

    def __init__(self, *, tokens: int = 16, rows: int = 8, blocks: int = 65, prefix: bool = False) -> None:
        group = CacheGroup(Full(), blocks, 1)
        self.cache = Cache((group,), 4, chunk=tokens, prefix=prefix, memory=group)
        self.scheduler = Scheduler(self.cache, max_batch_tokens=tokens, max_rows=rows)
        self.entries: dict[str, Entry] = {}

    def add(self, name: str, prompt: int, first: int = 0, source: int = 0) -> Entry:
        request = make_request(range(first, first + prompt), 100, id=name, source=tuple(range(source)))
        entry = self.entries[name] = Entry(request, self.cache.holding(), Account(0.0))
        self.scheduler.add(entry)
        return entry

    def step(self, chunk: int | None = None) -> Plan:
        seats = self.scheduler.schedule(chunk)
        plan = [(seat.row.request.id, seat.row.start, seat.row.count) for seat in seats]
        for seat in seats:
            draws = bool(seat.row.wanted)
            self.scheduler.computed(seat)
            if draws:
                seat.row.request.outputs.append(1)
        self.scheduler.check()
        return plan

    def end(self, name: str) -> None:
        self.scheduler.remove(self.entries.pop(name))

    @property
    def queue(self) -> list[str]:
        return [entry.request.id for entry in self.scheduler.waiting]

    @property
    def running(self) -> list[str]:
        return [entry.request.id for entry in self.scheduler.running]


def test_prompts_share_a_step_in_order_of_arrival() -> None:
    bench = Bench()
    for name, prompt in (("a", 5), ("b", 6), ("c", 9)):
        bench.add(name, prompt)
    assert bench.step() == [("a", 0, 5), ("b", 0, 6), ("c", 0, 5)]
    assert bench.step() == [("a", 5, 1), ("b", 6, 1), ("c", 5, 4)]
    assert bench.step() == [("a", 6, 1), ("b", 7, 1), ("c", 9, 1)]


def test_a_long_prompt_is_computed_in_chunks_between_decodes() -> None:
    bench = Bench()
    bench.add("a", 2)
    bench.step()
    bench.add("long", 40)
    assert bench.step() == [("a", 2, 1), ("long", 0, 15)]
    assert bench.step() == [("a", 3, 1), ("long", 15, 15)]
    assert bench.step() == [("a", 4, 1), ("long", 30, 10)]
    assert bench.step() == [("a", 5, 1), ("long", 40, 1)]


def test_beside_others_prompts_have_so_many_tokens_in_all() -> None:
    bench = Bench(tokens=32)
    bench.add("a", 2)
    bench.step()
    for name, prompt in (("b", 5), ("c", 9), ("d", 3)):
        bench.add(name, prompt)
    assert bench.step(6) == [("a", 2, 1), ("b", 0, 5), ("c", 0, 1)]
    assert bench.step(6) == [("a", 3, 1), ("b", 5, 1), ("c", 1, 6)]
    assert bench.step(6) == [("a", 4, 1), ("b", 6, 1), ("c", 7, 2), ("d", 0, 3)]


def test_prompts_that_hold_up_nobody_have_the_whole_step() -> None:
    bench = Bench()
    bench.add("a", 12)
    bench.add("b", 6)
    assert bench.step(4) == [("a", 0, 12), ("b", 0, 4)]
    assert bench.step(4) == [("a", 12, 1), ("b", 4, 2)]


def test_prompts_that_are_short_share_a_chunk() -> None:
    bench = Bench()
    bench.add("z", 2)
    bench.step()
    for name in "abc":
        bench.add(name, 3)
    assert bench.step(7) == [("z", 2, 1), ("a", 0, 3), ("b", 0, 3), ("c", 0, 1)]


def test_a_long_prompt_shares_its_chunk_with_those_behind_it() -> None:
    bench = Bench()
    bench.add("z", 2)
    bench.step()
    bench.add("long", 40)
    bench.add("b", 3)
    assert bench.step(8) == [("z", 2, 1), ("long", 0, 5), ("b", 0, 3)]  # 4, and the one that nobody else could use
    assert bench.step(8) == [("z", 3, 1), ("b", 3, 1), ("long", 5, 8)]
    bench.end("b")
    bench.end("z")
    assert bench.step(8) == [("long", 13, 16)]


def test_a_prompt_of_several_steps_leaves_half_to_those_behind_it() -> None:
    bench = Bench()
    bench.add("long", 40)
    bench.add("b", 3)
    bench.add("c", 4)
    assert bench.step() == [("long", 0, 9), ("b", 0, 3), ("c", 0, 4)]  # 8, and the one nobody else could use
    assert bench.step() == [("b", 3, 1), ("c", 4, 1), ("long", 9, 14)]


def test_sources_are_tokens_of_the_step_that_lets_their_requests_in() -> None:
    bench = Bench()
    for name, source in (("a", 5), ("b", 7), ("c", 2), ("d", 3)):
        bench.add(name, 1, source=source)
    assert bench.step() == [("a", 0, 1), ("b", 0, 1)]  # 5 + 1 + 7 + 1: two are left, and c needs three
    assert bench.step() == [("a", 1, 1), ("b", 1, 1), ("c", 0, 1), ("d", 0, 1)]


def test_a_source_longer_than_a_step_is_read_alone() -> None:
    bench = Bench()
    bench.add("z", 2)
    bench.step()
    for name in "abc":
        bench.add(name, 1, source=40)
    assert bench.step() == [("z", 2, 1), ("a", 0, 1)]
    assert bench.step() == [("z", 3, 1), ("a", 1, 1), ("b", 0, 1)]


def test_beside_others_sources_have_so_many_tokens_in_all() -> None:
    bench = Bench(tokens=64)
    bench.add("z", 2)
    bench.step()
    for name in "abcd":
        bench.add(name, 1, source=6)
    assert bench.step(14) == [("z", 2, 1), ("a", 0, 1), ("b", 0, 1)]
    assert bench.step(6) == [("z", 3, 1), ("a", 1, 1), ("b", 1, 1), ("c", 0, 1)]
    assert bench.step()[-1] == ("d", 0, 1)


def test_a_long_prompt_takes_all_when_those_behind_it_cannot_be_seated() -> None:
    bench = Bench(rows=1)
    bench.add("long", 40)
    bench.add("b", 3)
    assert bench.step() == [("long", 0, 16)]


def test_what_blocked_requests_cannot_use_goes_to_the_long_prompt() -> None:
    bench = Bench(blocks=13)  # twelve blocks: ten for the long prompt, two are left
    bench.add("long", 40)
    bench.step()
    bench.add("b", 30)
    assert bench.step() == [("long", 16, 16)]
    assert bench.queue == ["b"]


def test_two_long_prompts_share() -> None:
    bench = Bench()
    bench.add("a", 100)
    bench.add("b", 100)
    assert bench.step() == [("a", 0, 8), ("b", 0, 8)]


def test_decodes_come_before_an_older_prompt() -> None:
    bench = Bench(tokens=4)
    bench.add("long", 30)
    bench.add("b", 1)
    assert bench.step() == [("long", 0, 3), ("b", 0, 1)]
    for start in range(1, 4):
        assert bench.step()[0] == ("b", start, 1)


def test_no_more_run_than_there_are_tokens() -> None:
    bench = Bench(tokens=3, rows=8)
    for name in "abcde":
        bench.add(name, 1)
    assert bench.step() == [("a", 0, 1), ("b", 0, 1), ("c", 0, 1)]
    assert bench.step() == [("a", 1, 1), ("b", 1, 1), ("c", 1, 1)]
    bench.end("b")
    assert bench.step() == [("a", 2, 1), ("c", 2, 1), ("d", 0, 1)]


def test_the_youngest_is_preempted_and_comes_back_first() -> None:
    bench = Bench(blocks=6)  # five blocks of four
    for name, prompt in (("a", 8), ("b", 4), ("c", 3)):
        bench.add(name, prompt, first=ord(name))
    assert bench.step() == [("a", 0, 8), ("b", 0, 4), ("c", 0, 3)]  # 2 + 1 + 1 blocks
    bench.add("d", 1)
    # a needs its third block: the last free one. b needs its second: c is preempted for it.
    assert bench.step() == [("a", 8, 1), ("b", 4, 1)]
    assert bench.running == ["a", "b"] and bench.queue == ["c", "d"]
    c = bench.entries["c"]
    assert c.request.outputs == [1] and c.request.num_computed == 0 and c.account.preemptions == 1
    assert bench.step() == [("a", 9, 1), ("b", 5, 1)]  # nobody overtakes c, which needs one block: none is free
    bench.end("b")
    assert bench.step() == [("a", 10, 1), ("c", 0, 4), ("d", 0, 1)]
    assert c.account.recomputed_tokens == 3


def test_a_decode_already_granted_can_be_preempted_for_an_older_prompt() -> None:
    bench = Bench(tokens=8, blocks=6)  # five blocks
    bench.add("a", 20)
    bench.add("b", 3, first=50)
    assert bench.step() == [("a", 0, 5), ("b", 0, 3)]  # a: 2 blocks, b: 1
    assert bench.step() == [("b", 3, 1), ("a", 5, 7)]  # a: 3, b: 1
    # b has its token and the fifth block; a needs two blocks for positions 12 .. 18 and gets those of b.
    assert bench.step() == [("a", 12, 7)]
    assert bench.queue == ["b"] and bench.entries["b"].request.num_computed == 0
    assert bench.step() == [("a", 19, 1)]


def test_tokens_of_a_preempted_request_go_to_somebody_else() -> None:
    bench = Bench(tokens=8, blocks=5)  # four blocks
    for name, prompt in (("a", 12), ("c", 10), ("b", 1)):
        bench.add(name, prompt)
    assert bench.step() == [("a", 0, 5), ("c", 0, 2), ("b", 0, 1)]  # 2 + 1 + 1 blocks
    # b has its token; a takes seven and b's block; the token that b had is c's.
    assert bench.step() == [("a", 5, 7), ("c", 2, 1)]
    assert bench.queue == ["b"]


def test_a_prompt_preempted_before_its_turn_has_none() -> None:
    bench = Bench(tokens=8, blocks=6)  # five blocks
    bench.add("a", 14)
    bench.add("c", 12)
    assert bench.step() == [("a", 0, 4), ("c", 0, 4)]
    assert bench.step() == [("a", 4, 4), ("c", 4, 4)]
    assert bench.step() == [("a", 8, 6)]  # a needs two blocks, one is free; two tokens are left, but not for c
    assert bench.queue == ["c"]


def test_a_prefix_found_is_not_computed() -> None:
    bench = Bench(prefix=True)
    bench.add("a", 9)
    bench.step()
    entry = bench.add("b", 11)
    assert bench.step() == [("a", 9, 1), ("b", 8, 3)]
    assert entry.account.cached_tokens == 8


def test_a_prefix_that_is_being_computed_is_waited_for() -> None:
    bench = Bench(prefix=True)
    bench.add("a", 33)
    bench.add("b", 37)
    assert bench.step() == [("a", 0, 16)]
    assert bench.queue == ["b"] and bench.scheduler.scarce is Scarce.PREFIX
    assert bench.step() == [("a", 16, 16)]
    assert bench.step() == [("a", 32, 1), ("b", 32, 5)]
    assert bench.scheduler.scarce is None


def test_a_prefix_that_has_come_is_not_what_its_waiter_is_short_of() -> None:
    bench = Bench(prefix=True, rows=2)
    bench.add("a", 33)
    bench.step()
    bench.add("b", 37)
    bench.add("c", 3)
    bench.step()
    assert bench.queue == ["b"] and bench.scheduler.scarce is Scarce.PREFIX
    bench.step()
    assert bench.queue == ["b"] and bench.scheduler.scarce is Scarce.ROWS


def test_who_waits_for_a_prefix_lets_others_pass() -> None:
    bench = Bench(prefix=True)
    for name, prompt, first in (("a", 33, 0), ("b", 37, 0), ("c", 6, 100), ("d", 20, 200)):
        bench.add(name, prompt, first)
    assert bench.step() == [("a", 0, 9), ("c", 0, 6), ("d", 0, 1)]
    assert bench.queue == ["b"]


def test_a_prefix_that_will_not_come_is_not_waited_for() -> None:
    bench = Bench(prefix=True)
    bench.add("a", 33)
    bench.add("b", 37)
    bench.step()
    bench.end("a")
    assert bench.step() == [("b", 16, 16)]


def test_a_small_part_that_is_being_computed_is_not_waited_for() -> None:
    bench = Bench(prefix=True)
    bench.add("a", 5)
    bench.add("b", 20)
    assert bench.step() == [("a", 0, 5), ("b", 0, 11)]


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    bench = Bench(blocks=7, prefix=True)
    bench.add("a", 4, first=50)
    b = bench.add("b", 12)
    assert bench.step() == [("a", 0, 4), ("b", 0, 12)]
    bench.scheduler._preempt_youngest()
    assert bench.step() == [("a", 4, 1), ("b", 12, 1)]
    assert (b.account.preemptions, b.account.recomputed_tokens) == (1, 0)
    assert b.account.cached_tokens == 0, "what it computed itself is no hit"


def test_windows_let_more_requests_in() -> None:
    group = CacheGroup(Window(4), 9, 1)
    cache = Cache((group,), 4, chunk=4)
    scheduler = Scheduler(cache, max_batch_tokens=4, max_rows=4)
    for name in "ab":
        scheduler.add(Entry(make_request(range(60), 1, id=name), cache.holding(), Account(0.0)))
    for _ in range(40):
        for seat in scheduler.schedule():
            scheduler.computed(seat)
        scheduler.check()
    assert all(entry.request.num_computed == 60 for entry in scheduler.running)
