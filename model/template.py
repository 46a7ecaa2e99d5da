"""Chat templates: programs of strangers that write a conversation down as a model was trained to read it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

from model.sandbox import Sandbox, joined


class ChatTemplate:
    """A Jinja template of a model directory, rendered in a sandbox; its size, time and output are bounded."""

    LONGEST = 64 * 1024  # characters of template
    SECONDS = 0.5  # of one conversation

    def __init__(self, source: str, special: dict[str, str]) -> None:
        """special: the special tokens by name; others are undefined. ValueError for a template too long or broken."""
        if len(source) > self.LONGEST:
            raise ValueError(f"chat template has {len(source)} characters, at most {self.LONGEST} are taken")
        self._environment = environment = Sandbox(
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
            return joined(pieces)
        except Exception as error:  # a template is a program of others: it may fail as it likes
            raise ValueError(f"messages: the chat template refused them: {error}") from None

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
