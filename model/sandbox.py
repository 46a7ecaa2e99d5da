"""The cage of chat templates: Jinja that ends in time and never makes much at once.

Every call and every round of a loop looks at the clock. Whatever makes a text or a list longer than what it is made of
(repetition, joining, padding, formatting, writing out) is bounded before it is done: a single operation of the library
cannot be interrupted, and some fill the memory.
"""

from __future__ import annotations

import functools
import itertools
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST = 8 << 20
"""Characters that any text may have."""
LARGEST = 1 << 20
"""Items of a repetition, and any number that is given to the library."""
PIECE = 64  # characters that whatever is no text counts as
LONGEST_INTEGER = 1 << 14  # bits

WATCHED, JOINED = "items_while_there_is_time", "joined_while_short"
SIZELESS = frozenset({"expandtabs", "format_map", "maketrans", "to_bytes", "translate"})
"""Methods whose result can be of any size, and that no published template uses."""
UNWRITTEN = frozenset(
    {"attr", "batch", "count", "d", "default", "dictsort", "first", "groupby", "items", "last", "length", "list", "map"}
    | {"max", "min", "random", "reject", "rejectattr", "reverse", "round", "select", "selectattr", "slice", "sort"}
    | {"unique"}
)
"""Filters that do not write out what they are given."""


class Sandbox(ImmutableSandboxedEnvironment):
    """A Jinja environment that raises TemplateError when a template takes too long or makes too much."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_writable, **options)
        self.concat = joined  # type: ignore[method-assign]  # of blocks and macros
        del self.globals["lipsum"]
        self.filters["tojson"] = to_json
        self.filters = {name: _guarded(name, found) for name, found in self.filters.items()}
        self.filters |= {WATCHED: self._watched, JOINED: lambda items: joined(map(str, items))}
        self._time = threading.local()  # of each thread that renders

    def allow(self, seconds: float) -> None:
        """Give what this thread renders so many seconds, from now on."""
        self._time.over, self._time.allowed = time.monotonic() + seconds, seconds

    def call(__self, __context: Context, __callee: Any, *arguments: Any, **named: Any) -> Any:
        __self._look()
        method = getattr(__callee, "__wrapped__", __callee)  # the sandbox wraps `format`
        owner = getattr(method, "__self__", None)
        if isinstance(owner, str | bytes | int | float):
            arguments = _bounded(owner, method.__name__, arguments, named)
        return super().call(__context, __callee, *arguments, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(left) <= LARGEST and abs(right) <= 16):
            raise TemplateError("a power is too large")
        if operator == "*":
            _check_product(left, right)
        elif operator == "+" and not numbers and isinstance(left, str | list | tuple):
            _check(len(left) + len(right), MOST if isinstance(left, str) else LARGEST)
        elif operator == "%" and isinstance(left, str):
            _check(_formatted(left, "%", right if isinstance(right, tuple) else (right,)))
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Parse a template so that every loop watches the clock and every ~ checks the size of what it joins."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, WATCHED, [], [], None, None, lineno=loop.lineno)
        whole: nodes.Template = _without_concat(tree)
        return whole

    def _watched(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._look()
            yield item

    def _look(self) -> None:
        if time.monotonic() > getattr(self._time, "over", math.inf):
            raise TemplateError(f"it takes longer than {self._time.allowed:g} s")


def to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """The `tojson` of Transformers: unlike Jinja's it neither escapes HTML nor sorts keys."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def joined(pieces: Iterable[str]) -> str:
    found, size = [], 0
    for piece in pieces:
        found.append(piece)
        size += len(piece)
        _check(size)
    return "".join(found)


def weight(*values: Any) -> int:
    """About how many characters values have when they are written out; counted no further than MOST."""
    left, total = list(values), 0
    while left and total <= MOST:
        value = left.pop()
        if isinstance(value, str | bytes):
            total += len(value)
        elif isinstance(value, dict):
            total += PIECE + 2 * len(value)
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            total += PIECE + len(value)
            left += value
        else:
            total += PIECE
    return total


def _check(size: int, most: int = MOST) -> None:
    if size > most:
        raise TemplateError(f"it makes more than {most} characters or items at once")


def _check_product(left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        if left.bit_length() + right.bit_length() > LONGEST_INTEGER:
            raise TemplateError("a product is too large")
    elif (
        not (isinstance(left, int | float) and isinstance(right, int | float)) and _size(left) * _size(right) > LARGEST
    ):
        raise TemplateError("a repetition is too long")


def _size(value: Any) -> int:
    return abs(value) if isinstance(value, int) else len(value)


def _check_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > LARGEST:
            raise TemplateError(f"{value if value.bit_length() < 99 else 'a number'} is more than {LARGEST}")


def _bounded(owner: Any, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments for a method of a text or number; TemplateError where its result could be too large."""
    if name in SIZELESS:
        raise TemplateError(f"{name} may not be called")
    given = (*arguments, *named.values())
    _check_numbers(given)
    if name == "join" and arguments:
        items = _items(arguments[0])
        _check(weight(items) + len(owner) * len(items))
        return (items,)
    if name == "replace":
        _check(_replaced(owner, given))
    elif name == "format":
        _check(_formatted(owner, "{", given))
    return arguments


def _guarded(name: str, found: Callable[..., Any]) -> Callable[..., Any]:
    """The filter `found`, with a TemplateError where its result could be too large."""
    before = 1 if hasattr(found, "jinja_pass_arg") else 0  # its first argument may be the environment

    @functools.wraps(found)
    def guarded(*arguments: Any, **named: Any) -> Any:
        first, value, rest = arguments[:before], arguments[before], arguments[before + 1 :]
        if name == "join":
            value = _items(value)
        given = (*rest, *named.values())
        _check_numbers(given)
        if name == "sum" and any(isinstance(item, list | tuple) for item in given):
            raise TemplateError("lists may not be summed")
        if name not in UNWRITTEN:
            _check(_filtered(name, value, given))
        return found(*first, value, *rest, **named)

    return guarded


def _filtered(name: str, value: Any, given: tuple[Any, ...]) -> int:
    """At most how many characters a filter makes of `value`."""
    own = weight(value, *given)
    if own > MOST:
        return own
    if name == "replace":
        return own + _replaced(str(value), given)
    if name == "format":
        return own + _formatted(str(value), "%", given)
    longest = max((_size(item) for item in given if isinstance(item, int | str | list | tuple)), default=0)
    return own + longest * _places(name, value, own)


def _places(name: str, value: Any, own: int) -> int:
    """In how many places of its result a filter may put what it is given."""
    match name:
        case "join":
            return len(value)
        case "indent":
            return str(value).count("\n") + 1
        case "tojson" | "wordwrap":
            return own
        case _:
            return 0


def _items(value: Any) -> list[Any]:
    items = list(itertools.islice(value, LARGEST + 1))
    _check(len(items), LARGEST)
    return items


def _replaced(text: Any, given: tuple[Any, ...]) -> int:
    if len(given) < 2 or not all(isinstance(part, type(text)) for part in given[:2]):
        return 0
    old, new = given[:2]
    return len(text) + len(new) * (text.count(old) if old else len(text) + 1)


def _formatted(text: str, mark: str, given: Iterable[Any]) -> int:
    """At most how many characters formatting makes: each place takes the longest value or number."""
    given = list(given)
    numbers = [abs(value) for value in given if isinstance(value, int)]
    widths = [int(digits) if len(digits) < 10 else MOST for digits in re.findall(r"\d+", text)]
    return len(text) + text.count(mark) * max([weight(*given), *numbers, *widths])


def _writable(value: Any) -> Any:
    """The value of a {{ }}; TemplateError where it would write too much."""
    if not isinstance(value, str):
        _check(weight(value))
    return value


def _without_concat(node: Any) -> Any:
    """The tree with every a ~ b replaced by a filter over a list, which bounds it."""
    for field, value in node.iter_fields():
        if isinstance(value, list):
            setattr(node, field, [_without_concat(item) if isinstance(item, nodes.Node) else item for item in value])
        elif isinstance(value, nodes.Node):
            setattr(node, field, _without_concat(value))
    if isinstance(node, nodes.Concat):
        listed = nodes.List(node.nodes, lineno=node.lineno)
        return nodes.Filter(listed, JOINED, [], [], None, None, lineno=node.lineno)
    return node
