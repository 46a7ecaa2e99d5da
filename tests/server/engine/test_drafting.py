"""Guesses worked out by hand: what is looked up, how far it is trusted, and that looking stays cheap."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from server.engine.drafting import CATCH_UP, LONGEST_REST, MOST_PLACES, Drafter, Drafting, PromptLookup
from server.engine.request import Request
from tests.fakes import make_request


def lookup(text: Sequence[int], **more: Any) -> PromptLookup:
    return PromptLookup(make_request(text, 8, **more))


class Always:
    """Guesses 7 as often as it is asked to, and counts how often that is."""

    def __init__(self, longest: int = 99) -> None:
        self.longest, self.asked = longest, 0

    def draft(self, most: int) -> Sequence[int]:
        self.asked += 1
        return [7] * min(most, self.longest)


def test_what_followed_before_follows_again() -> None:
    assert lookup([1, 2, 3, 4, 5, 6, 9, 1, 2, 3, 4]).draft(3) == [5, 6, 9]
    assert lookup([8, 3, 4, 5, 6, 9, 1, 3, 4]).draft(2) == [5, 6]


def test_nothing_is_guessed_where_the_text_is_new() -> None:
    assert list(lookup([1, 2, 3, 4, 5, 6]).draft(4)) == []
    assert list(lookup([1]).draft(4)) == list(lookup([1, 2]).draft(4)) == []


def test_the_longer_gram_is_believed_first_and_of_equals_the_later() -> None:
    assert lookup([1, 2, 3, 4, 50, 3, 4, 60, 1, 2, 3, 4]).draft(1) == [50]
    assert lookup([3, 4, 50, 3, 4, 60, 9, 3, 4]).draft(1) == [60]


def test_a_loop_goes_on() -> None:
    assert lookup([1, 2, 3, 1, 2, 3, 1, 2]).draft(7) == [3, 1, 2, 3, 1, 2, 3]
    assert lookup([5, 5, 5]).draft(4) == [5, 5, 5, 5]


def test_outputs_are_text_as_well() -> None:
    request = make_request([1, 2, 3], 8)
    drafter = PromptLookup(request)
    assert list(drafter.draft(2)) == []
    request.outputs += [4, 5, 1, 2]
    assert drafter.draft(3) == [3, 4, 5]
    request.outputs += [8, 4, 5]
    assert drafter.draft(3) == [1, 2, 8]


def test_the_source_of_an_encoder_is_text_as_well() -> None:
    assert lookup([0, 4, 5], source=(3, 4, 5, 6, 7)).draft(2) == [6, 7]


def test_a_long_text_is_looked_through_in_several_steps() -> None:
    """What is looked for ends just behind what the second step has looked at."""
    first = list(range(1000, 1000 + 3 * CATCH_UP))
    drafter = lookup([*first, *first[: 2 * CATCH_UP]])
    found = [list(drafter.draft(1)) for _ in range(4)]
    assert found == [[], [], [first[2 * CATCH_UP]], [first[2 * CATCH_UP]]]


def test_memory_is_bounded() -> None:
    drafter = lookup(range(3 * MOST_PLACES))
    assert all(len(ends) == MOST_PLACES for ends in drafter._ends.values())


@pytest.mark.parametrize("vocab", [2, 30])
def test_every_guess_stood_after_the_same_tokens(vocab: int) -> None:
    draws = random.Random(vocab)
    request = make_request([draws.randrange(vocab) for _ in range(50)], 300)
    drafter, guesses = PromptLookup(request), 0
    for _ in range(300):
        text = [*request.prompt, *request.outputs]
        guess = list(drafter.draft(3))
        guesses += bool(guess)
        windows = [text[i : i + 5] for i in range(len(text) - 2)]
        whole = [*text, *guess]
        assert not guess or any(w[:3] == [*text[-2:], guess[0]] for w in windows)
        assert len(guess) in (0, 3) and set(whole) <= set(range(vocab))
        request.outputs.append(draws.randrange(vocab))
    assert guesses > 200 / vocab


# ------------------------------------------------------------------------------------------------------------ trust


def test_a_draft_is_twice_as_long_as_what_was_right_and_one() -> None:
    drafting = Drafting(Always(), 6)
    lengths = []
    for accepted in (6, 2, 1, 3, 6):
        lengths.append(len(drafting.draft(99)))
        drafting.judge(accepted)
    assert lengths == [6, 6, 5, 3, 6]


def test_who_is_wrong_rests_twice_as_long_each_time() -> None:
    drafter = Always()
    drafting, asked_at = Drafting(drafter, 4), []
    for step in range(140):
        before = drafter.asked
        if drafting.draft(4):
            drafting.judge(0)
        if drafter.asked > before:
            asked_at.append(step)
    gaps = [b - a for a, b in pairwise(asked_at)]
    assert gaps == [2, 3, 5, 9, 17, 33, 65]  # a step with a draft, then 1, 2, 4 ... without
    assert gaps[-1] == LONGEST_REST + 1


def test_one_right_token_ends_the_rests() -> None:
    drafting = Drafting(Always(), 4)
    for accepted in (0, 0, 1, 0):
        while not drafting.draft(4):
            pass
        drafting.judge(accepted)
    assert [bool(drafting.draft(4)) for _ in range(2)] == [False, True]


def test_no_more_is_guessed_than_is_asked_for() -> None:
    class Talker(Always):
        def draft(self, most: int) -> Sequence[int]:
            return [7] * (most + 5)

    assert Drafting(Talker(), 4).draft(2) == (7, 7)
    assert Drafting(Talker(), 4).draft(0) == Drafting(Talker(), 4).draft(-3) == ()


def test_a_drafter_that_fails_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        asked = 0

        def draft(self, most: int) -> Sequence[int]:
            self.asked += 1
            raise LookupError("lost")

    drafter = Broken()
    drafting = Drafting(drafter, 4)
    assert [drafting.draft(4) for _ in range(3)] == [(), (), ()]
    assert drafter.asked == 1 and "goes on without" in caplog.text


def test_prompt_lookup_is_a_drafter() -> None:
    def make(request: Request) -> Drafter:
        return PromptLookup(request)

    assert list(make(make_request([1, 1, 1], 4)).draft(1)) == [1]
