"""config.json of a foreign checkpoint, read key by key: what is refused is named with its value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from model.checkpoint.error import CheckpointError
from model.values.base import LARGEST as LARGEST_REAL
from model.values.base import shown

Choice = TypeVar("Choice")
LARGEST = 2**24  # of any size or count: keeps a broken file from asking for absurd amounts of memory


class Settings:
    """A JSON object whose keys are asked for by name; several names are tried in order, null counts as absent.

    CheckpointError when a key is missing (a default makes it optional) or its value is of the wrong kind.
    """

    def __init__(self, data: Mapping[str, Any], path: str = "") -> None:
        self._data, self._path = data, path

    def has(self, *keys: str) -> bool:
        return self._find(keys) is not None

    def first(self, *keys: str) -> str:
        """The first of these keys that is there; keys[0] when none is."""
        return self._find(keys) or keys[0]

    def size(self, *keys: str, default: int | None = None, most: int = LARGEST) -> int:
        """A whole number from 1 to `most`."""
        return self.whole(*keys, default=default, most=most, least=1)

    def whole(self, *keys: str, default: int | None = None, most: int = LARGEST, least: int = 0) -> int:
        key, value = self._get(keys, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refusal(key, "a whole number is needed")
        if not least <= value <= most:
            raise self.refusal(key, f"it must be from {least} to {most}")
        return value

    def optional_whole(self, key: str, absent: int | None = None) -> int | None:
        """A whole number, None when the file says null, `absent` when it says nothing."""
        return self.whole(key) if self.has(key) else None if key in self._data else absent

    def real(self, *keys: str, default: float | None = None) -> float:
        key, value = self._get(keys, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.refusal(key, "a number is needed")
        if not -LARGEST_REAL <= value <= LARGEST_REAL:
            raise self.refusal(key, f"it must be from {-LARGEST_REAL:g} to {LARGEST_REAL:g}")
        return float(value)

    def positive(self, *keys: str, default: float | None = None) -> float:
        """A number above zero."""
        key, _ = self._get(keys, default)
        value = self.real(*keys, default=default)
        if value <= 0:
            raise self.refusal(key, "it must be positive")
        return value

    def optional_positive(self, key: str, absent: float | None = None) -> float | None:
        """A number above zero, None when the file says null, `absent` when it says nothing."""
        return self.positive(key) if self.has(key) else None if key in self._data else absent

    def flag(self, *keys: str, default: bool | None = None) -> bool:
        key, value = self._get(keys, default)
        if not isinstance(value, bool):
            raise self.refusal(key, "true or false is needed")
        return value

    def choice(self, *keys: str, among: Mapping[Any, Choice], default: Any = None) -> Choice:
        """What a known value stands for; every other value is refused."""
        key, value = self._get(keys, default)
        if isinstance(value, bool | int | float | str) and value in among:
            return among[value]
        raise self.refusal(key, f"not supported; known are {', '.join(map(repr, among))}")

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse any value but these; an absent key is fine."""
        if self.has(key) and self._data[key] not in allowed:
            raise self.refusal(key, f"not supported; only {', '.join(map(repr, allowed)) or 'null'}")

    def wholes(self, key: str, count: int) -> list[int] | None:
        """A list of `count` whole numbers (true counts as 1); None when the key is absent or its list is empty."""
        values = self._data.get(key)
        if values is None or values == []:
            return None
        if not isinstance(values, list) or len(values) != count or not all(isinstance(v, int) for v in values):
            raise self.refusal(key, f"a list of {count} whole numbers is needed")
        return [int(value) for value in values]

    def per_layer(self, *keys: str, count: int) -> list[int]:
        """One whole number for all layers, or a list of one for each."""
        key = self.first(*keys)
        if not isinstance(self._data.get(key), list):
            return [self.whole(key)] * count
        return self.wholes(key, count) or []

    def indices(self, key: str) -> frozenset[int] | None:
        """A list of whole numbers of any length."""
        values = self._data.get(key)
        if values is None:
            return None
        if not isinstance(values, list) or not all(isinstance(v, int) for v in values):
            raise self.refusal(key, "a list of whole numbers is needed")
        return frozenset(values)

    def words(self, key: str, count: int | None, allowed: Collection[str]) -> list[str] | None:
        """A list of `count` of the allowed words, or of any number of them; None when absent."""
        values = self._data.get(key)
        if values is None:
            return None
        if not isinstance(values, list) or len(values) != (len(values) if count is None else count):
            raise self.refusal(key, "a list is needed" if count is None else f"a list of {count} is needed")
        unknown = [value for value in values if not isinstance(value, str) or value not in allowed]
        if unknown:
            raise CheckpointError(
                f"config.json: {self._path}{key} has {unknown[0]!r}, which is not supported; "
                f"known are {', '.join(map(repr, sorted(allowed)))}"
            )
        return list(values)

    def letters(self, key: str, among: Mapping[str, Choice]) -> list[Choice] | None:
        """What each letter of a string stands for; None when absent."""
        value = self._data.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not set(value) <= set(among):
            raise self.refusal(key, f"a string of the letters {', '.join(map(repr, among))} is needed")
        return [among[letter] for letter in value]

    def table(self, key: str) -> Settings:
        """A nested object; an empty one when absent."""
        value = self._data.get(key)
        if value is None:
            return Settings({}, f"{self._path}{key}.")
        if not isinstance(value, dict):
            raise self.refusal(key, "an object is needed")
        return Settings(value, f"{self._path}{key}.")

    @property
    def empty(self) -> bool:
        return not self._data

    def refusal(self, key: str, why: str) -> CheckpointError:
        """An error that names the key and its value."""
        return CheckpointError(f"config.json: {self._path}{key}={shown(self._data.get(key))}: {why}")

    def _find(self, keys: tuple[str, ...]) -> str | None:
        return next((key for key in keys if self._data.get(key) is not None), None)

    def _get(self, keys: tuple[str, ...], default: Any) -> tuple[str, Any]:
        key = self._find(keys)
        if key is not None:
            return key, self._data[key]
        if default is None:
            raise CheckpointError(f"config.json: {self._path}{keys[0]} is missing")
        return keys[0], default
