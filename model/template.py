"""Chat templates: programs of strangers that write a conversation down as a model was trained to read it."""

from __future__ import annotations

import math
import secrets
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

WATCHED = "items_while_there_is_time"


class ChatTemplate:
    """A Jinja template of a model directory, rendered in a sandbox; its size, time and output are bounded."""

    LONGEST = 64 * 1024  # characters of template
    MOST_WRITTEN = 8 << 20  # characters of one conversation
    SECONDS = 0.5  # of one conversation

    def __init__(self, source: str, special: dict[str, str]) -> None:
        if len(source) > self.LONGEST:
            raise ValueError(f"chat template has {len(source)} characters, at most {self.LONGEST} are taken")
        self._environment = environment = _Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
        self._special = special
        try:
            self._template = environment.from_string(source)
        except Exception as error:  # of the parser, or of the interpreter where the nesting is too deep for it
            raise ValueError(f"chat template: {error}") from None

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation as the template writes it. ValueError when it refuses, or goes on for too long."""
        pieces = self._template.generate(
            messages=list(messages), add_generation_prompt=True, tools=None, documents=None, **self._special
        )
        try:
            self._environment.allow(self.SECONDS)
            return self._joined(pieces)
        except Exception as error:  # a template is a program of others: it may fail as it likes
            raise ValueError(f"messages: the chat template refused them: {error}") from None

    def _joined(self, pieces: Iterable[str]) -> str:
        written, size = [], 0
        for piece in pieces:
            written.append(piece)
            size += len(piece)
            if size > self.MOST_WRITTEN:
                raise TemplateError(f"it writes more than {self.MOST_WRITTEN} characters")
        return "".join(written)

    def parts(self, messages: Sequence[dict[str, str]]) -> list[tuple[str, bool]]:
        """(text, plain) parts in order: what the template wrote, and the contents as the user wrote them.

        Contents go through the template as marks, so that nothing in them can pass for markup.
        """
        nonce = secrets.token_hex(8)
        marks = {f"\ue000{nonce}.{i}\ue001": message["content"] for i, message in enumerate(messages)}
        marked = [{**message, "content": mark} for message, mark in zip(messages, marks, strict=True)]
        parts: list[tuple[str, bool]] = []
        for piece in self.render(marked).split("\ue000"):
            mark, found, rest = piece.partition("\ue001")
            content = marks.get(f"\ue000{mark}\ue001") if found else None
            parts += [(piece, False)] if content is None else [(content, True), (rest, False)]
        return [part for part in parts if part[0]]


class _Sandbox(ImmutableSandboxedEnvironment):
    """Without the products that fill the memory in one stroke; and every call and every round of a loop looks at the
    clock, so that a template is ended wherever it is but inside a single operation of the library."""

    intercepted_binops = frozenset({"*", "**"})
    LARGEST = 1 << 20

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.filters[WATCHED] = self._watched
        self._time = threading.local()  # of each thread that renders

    def allow(self, seconds: float) -> None:
        """From now on, for what this thread renders."""
        self._time.over, self._time.allowed = time.monotonic() + seconds, seconds

    def call(__self, __context: Context, __callee: Any, *arguments: Any, **named: Any) -> Any:
        __self._look()
        return super().call(__context, __callee, *arguments, **named)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        if operator == "**" and not (numbers and abs(left) <= self.LARGEST and abs(right) <= 16):
            raise TemplateError("a power is too large")
        if operator == "*" and not numbers and _size(left) * _size(right) > self.LARGEST:
            raise TemplateError("a repetition is too long")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        """Every loop goes over what `_watched` gives of its items."""
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, WATCHED, [], [], None, None, lineno=loop.lineno)
        return tree

    def _watched(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._look()
            yield item

    def _look(self) -> None:
        if time.monotonic() > getattr(self._time, "over", math.inf):
            raise TemplateError(f"it takes longer than {self._time.allowed:g} s")


def _size(value: Any) -> int:
    return abs(value) if isinstance(value, int) else len(value)


class _Generation(Extension):
    """{% generation %}…{% endgeneration %} marks the assistant's words for training; here it is what stands inside."""

    tags = {"generation"}  # noqa: RUF012 - jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
