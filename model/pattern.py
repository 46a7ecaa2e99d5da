"""How a stack of layers is written: names, repeats and repeated groups, as in "dense*3 (local*5 global)*8"."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import TypeVar

from model.config import ConfigError
from model.values.base import shown

MOST_LAYERS = 4096
LONGEST_COUNT = 18  # digits that are worth reading
TOKEN = re.compile(r"(?:(?P<open>\()|(?:(?P<name>[A-Za-z0-9_.-]+)|\))(?:\s*\*\s*(?P<count>[0-9]+))?)\s*")

Item = TypeVar("Item")


def expand(text: str) -> list[str]:
    """The names of a pattern in order. ConfigError when it is not one, or has more than MOST_LAYERS names."""
    text = text.strip()
    open_groups: list[list[str]] = [[]]
    position = 0
    while position < len(text):
        match = TOKEN.match(text, position)
        closes = text[position] == ")"
        if match is None or (closes and len(open_groups) == 1):
            raise ConfigError(
                f"layers: unexpected {text[position]!r}, character {position + 1} of {shown(text)}; "
                "a pattern is such as 'dense*3 (local*5 global)*8'"
            )
        if match["open"]:
            open_groups.append([])
        else:
            group = open_groups.pop() if closes else [match["name"]]
            _extend(open_groups[-1], group, match["count"] or "1")
        position = match.end()
    if len(open_groups) > 1:
        raise ConfigError(f"layers: {shown(text)} has a group that is not closed")
    return open_groups[0]


def write(names: Sequence[str]) -> list[str]:
    """The names as patterns one after another: repeats and repeated groups are found, `expand` gives them back."""
    return [_written(group, count) for group, count in segments(names)]


def segments(items: Sequence[Item]) -> list[tuple[tuple[Item, ...], int]]:
    """Items as (group, repeats), read from the left: what covers most is taken, of equals the shortest group."""
    found: list[tuple[tuple[Item, ...], int]] = []
    start = 0
    while start < len(items):
        size, count = max(_repeats(items[start:]), key=lambda repeat: (repeat[0] * repeat[1], -repeat[0]))
        found.append((tuple(items[start : start + size]), count))
        start += size * count
    return found


def _repeats(items: Sequence[Item]) -> list[tuple[int, int]]:
    """(group size, repeats) of every group that the items begin with and that repeats; else the first item alone."""
    found = [(1, 1)]
    for size in range(1, len(items) // 2 + 1):
        count = 1
        while items[count * size : (count + 1) * size] == items[:size]:
            count += 1
        if count > 1:
            found.append((size, count))
    return found


def _extend(names: list[str], group: list[str], count: str) -> None:
    if len(count) > LONGEST_COUNT:
        raise ConfigError(f"layers: a repeat of {len(count)} digits is more than {MOST_LAYERS} layers")
    total = len(names) + len(group) * int(count)
    if total > MOST_LAYERS:
        raise ConfigError(f"layers: {total} layers are more than {MOST_LAYERS}")
    names += group * int(count)


def _written(group: tuple[str, ...], count: int) -> str:
    inner = " ".join(_times(name, len(list(run))) for name, run in groupby(group))
    return _times(inner if len(group) == 1 else f"({inner})", count)


def _times(text: str, count: int) -> str:
    return text if count == 1 else f"{text}*{count}"
