from __future__ import annotations

from client.load.salt import Salt
from client.load.trace import TraceRow


def salted(word: str, *prompts: tuple[int, ...], vocab: int = 64) -> list[tuple[int, ...]]:
    return [Salt(word, vocab).on(TraceRow(0.0, prompt, 1)).prompt for prompt in prompts]  # type: ignore[misc]


def test_another_salt_is_another_beginning_of_the_same_length() -> None:
    prompt = tuple(range(10))
    (one,), (other,) = salted("a", prompt), salted("b", prompt)
    assert one[:4] != other[:4] != prompt[:4]
    assert one[4:] == other[4:] == prompt[4:]
    assert all(0 <= token < 64 for token in one + other)
    assert salted("a", (1, 2)) != salted("b", (1, 2))


def test_what_prompts_share_they_still_share() -> None:
    one, other, apart = salted("a", (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 7), (9, 2, 3, 4, 5, 6))
    assert one[:5] == other[:5]
    assert one != other
    assert apart[0] != one[0]


def test_a_text_begins_with_the_word() -> None:
    assert Salt("a1", 64).on(TraceRow(0.0, "once upon", 1)).prompt == "a1 once upon"


def test_ids_beyond_the_known_vocabulary_are_left() -> None:
    assert salted("a", (300, 300, 300, 300), vocab=256) == [(300, 300, 300, 300)]
