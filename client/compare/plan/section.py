"""Reading a table of a TOML file with errors that name the key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

_MISSING: Any = object()
_ALIKE = 0.85  # a letter or two amiss; no two keys of one table are as close


class ExperimentError(ValueError):
    """An experiment that says something impossible; the message has the key, the value and what it may be."""


class Section:
    """One table. Every key is taken once; `close` refuses what nobody took."""

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        self._data = dict(data)
        self._path = path

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def name(self, key: str) -> str:
        """The key as the file has it."""
        return f"{self._path}.{key}" if self._path else key

    def text(self, key: str, default: str = _MISSING) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            raise self._bad(key, value, "a text")
        return value

    def word(self, key: str) -> str:
        """A text or a number, as text; empty when the key is absent."""
        value = self._take(key, "")
        if not isinstance(value, str) and not _is_number(value):
            raise self._bad(key, value, "a text or a number")
        return value if isinstance(value, str) else f"{value:g}"

    def choice(self, key: str, choices: Sequence[str], default: str = _MISSING) -> str:
        value = self.text(key, default)
        if value not in choices:
            raise self._bad(key, value, f"one of {', '.join(choices)}")
        return value

    def whole(self, key: str, default: int = _MISSING, *, least: int = 0) -> int:
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self._bad(key, value, f"a whole number of at least {least}")
        return value

    def number(self, key: str, default: float = _MISSING, *, above: float = 0.0) -> float:
        value = self._take(key, default)
        if not _is_number(value) or not value > above:
            raise self._bad(key, value, f"a number above {above:g}")
        return float(value)

    def share(self, key: str, default: float) -> float:
        value = self._take(key, default)
        if not _is_number(value) or not 0 <= value <= 1:
            raise self._bad(key, value, "a number from 0 to 1")
        return float(value)

    def truth(self, key: str) -> bool:
        """True or false; false when the key is absent."""
        value = self._take(key, False)
        if not isinstance(value, bool):
            raise self._bad(key, value, "true or false")
        return value

    def places(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers from 0, such as cores; none when the key is absent."""
        values = self._take(key, [])
        if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
            raise self._bad(key, values, "a list of whole numbers from 0")
        return tuple(values)

    def is_table(self, key: str) -> bool:
        """Whether the key is there and holds a table."""
        return isinstance(self._data.get(key), dict)

    def is_list(self, key: str) -> bool:
        """Whether the key is there and holds a list."""
        return isinstance(self._data.get(key), list)

    def numbers(self, key: str, *, above: float = 0.0) -> tuple[float, ...]:
        values = self._take(key, _MISSING)
        if not isinstance(values, list) or not values or not all(_is_number(v) and v > above for v in values):
            raise self._bad(key, values, f"a list of numbers above {above:g}")
        return tuple(float(v) for v in values)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; none when the key is absent."""
        values = self._take(key, [])
        if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise self._bad(key, values, "a list of texts")
        return tuple(values)

    def section(self, key: str) -> Section:
        """A table of its own; empty when the key is absent."""
        value = self._take(key, {})
        if not isinstance(value, dict):
            raise self._bad(key, value, "a table")
        return Section(value, self.name(key))

    def sections(self, key: str) -> tuple[Section, ...]:
        values = self._take(key, [])
        if not isinstance(values, list) or not all(isinstance(v, dict) for v in values):
            raise self._bad(key, values, "a list of tables, [[" + self.name(key) + "]]")
        return tuple(Section(value, f"{self.name(key)}[{i}]") for i, value in enumerate(values))

    def close(self) -> None:
        """Raises ExperimentError when a key was never taken."""
        if self._data:
            unknown = ", ".join(self.name(key) for key in sorted(self._data))
            raise ExperimentError(f"unknown key: {unknown}")

    def _take(self, key: str, default: Any) -> Any:
        value = self._data.pop(key, default)
        if value is _MISSING:
            meant = get_close_matches(key, self._data, n=1, cutoff=_ALIKE)
            unknown = "".join(f"; unknown key: {self.name(other)}" for other in meant)
            raise ExperimentError(f"{self.name(key)} is missing{unknown}")
        return value

    def _bad(self, key: str, value: object, wanted: str) -> ExperimentError:
        return ExperimentError(f"{self.name(key)} must be {wanted}, got {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
