"""Stacks as patterns: every sequence of names comes back, and what is no pattern is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import ConfigError
from model.pattern import expand, segments, write


@given(st.lists(st.sampled_from(["a", "b", "c.2", "local-dense"]), min_size=1, max_size=40))
def test_what_is_written_is_read_back(names: list[str]) -> None:
    assert expand(" ".join(write(names))) == names


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["d"] * 3 + ["s"] * 58, "d*3 s*58"),
        ((["l"] * 5 + ["g"]) * 8, "(l*5 g)*8"),
        ((["l"] * 5 + ["g"]) * 5 + ["l"] * 4, "(l*5 g)*5 l*4"),
        (["a", "b", "a", "c"] * 12, "(a b a c)*12"),
        ((["d"] * 3 + ["x", "d"]) * 8, "(d*3 x d)*8"),
        (["d"], "d"),
    ],
)
def test_patterns_of_published_models(names: list[str], text: str) -> None:
    assert " ".join(write(names)) == text


def test_groups_may_stand_in_groups() -> None:
    assert expand("((a*2 b)*2 c)*2 ") == list("aabaabcaabaabc")


def test_spaces_may_stand_around_a_repeat_and_names_have_any_letters() -> None:
    assert expand("(Local * 3 global) *2") == ["Local", "Local", "Local", "global"] * 2


def test_segments_are_read_from_the_left() -> None:
    assert segments("ababccc") == [(("a", "b"), 2), (("c",), 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a*5000", "5000 layers are more than 4096"),
        ("(a*4000)*4000", "16000000 layers are more than 4096"),
        ("a*99999999999", "99999999999 layers are more than 4096"),
        ("a*" + "9" * 5000, "a repeat of 5000 digits is more than 4096 layers"),
        ("a*4096 a", "4097 layers are more than 4096"),
        ("(a b", "a group that is not closed"),
        ("a)", "unexpected ')', character 2 of 'a)'; a pattern is such as 'dense*3 (local*5 global)*8'"),
        ("a**2", "unexpected '*', character 2 of"),
        ("*2", "unexpected '*', character 1 of"),
        ("local, global", "unexpected ',', character 6 of 'local, global'"),
        (" a Ä", "unexpected 'Ä', character 3 of 'a Ä'"),
        ("(*2 a)", "unexpected '*', character 2 of"),
    ],
)
def test_what_is_no_pattern_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match="layers: ") as error:
        expand(text)
    assert message in str(error.value)
