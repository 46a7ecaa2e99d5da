"""The tokens a request has had, against counting them all anew."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from server.engine.seen import Seen

TOKENS = st.lists(st.integers(0, 9), max_size=30)


@given(prompt=TOKENS, parts=st.lists(st.tuples(TOKENS, TOKENS), max_size=5))
def test_it_is_what_counting_gives(prompt: list[int], parts: list[tuple[list[int], list[int]]]) -> None:
    seen, outputs = Seen(prompt), list[int]()
    for new, drafted in parts:
        outputs += new
        for guess in (drafted, []):  # what was only guessed leaves nothing behind
            tokens, times = seen.after(outputs, guess)
            counts = Counter([*outputs, *guess])
            assert dict(zip(tokens.tolist(), times.tolist(), strict=True)) == dict.fromkeys(prompt, 0) | counts
            assert len(set(tokens.tolist())) == len(tokens)


def test_a_step_pays_for_what_is_new() -> None:
    looked_at: list[int] = []

    class Outputs(list[int]):
        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            looked_at.append(len(part))
            return part

    seen, outputs = Seen(range(500)), Outputs(range(1000))
    seen.after(outputs)
    outputs.append(7)
    seen.after(outputs)
    assert looked_at == [1000, 1]
