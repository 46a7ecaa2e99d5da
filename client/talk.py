"""Asking a model at the terminal: one prompt, or a conversation."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from client import loop
from client.access import Access
from client.api import Choice, Client, ClientError, Conversation, GenerateRequest, Message, StreamCut
from client.connect import connect
from client.facts import Facts, facts_to_json
from client.load.workload import find
from client.show import printable

_LEAVE = ("/quit", "/exit")
_ANEW = "/new"


@dataclass(frozen=True, slots=True)
class Heard:
    """An answer as it was heard here: the choice, and the client's own clock in seconds."""

    id: str
    choice: Choice
    first_token: float
    total: float


async def stream(client: Client, request: GenerateRequest, *, echo: bool = True) -> Heard:
    """The answer to a request of one choice; with `echo` its text appears as it comes. Raises ClientError."""
    began = time.perf_counter()
    first = 0.0
    text, identity = "", ""
    ids: tuple[int, ...] = ()
    facts: Facts | None = None
    async with aclosing(client.generate(request)) as pieces:
        async for piece in pieces:
            first = first or time.perf_counter() - began
            text, ids, facts, identity = text + piece.text, ids + piece.token_ids, piece.facts or facts, piece.id
            if echo:
                sys.stdout.write(printable(piece.text))
                sys.stdout.flush()
    if facts is None:
        raise StreamCut("the stream ended before the answer was whole")
    return Heard(identity, Choice(0, text, ids, facts), first, time.perf_counter() - began)


def document(target: str, request: GenerateRequest, heard: Heard) -> dict[str, Any]:
    """An answer as JSON values."""
    return {
        "schema": "dyno.generate/1",
        "id": heard.id,
        "target": target,
        "model": request.model,
        "prompt": request.prompt if isinstance(request.prompt, str) else None,
        "text": heard.choice.text,
        "token_ids": list(heard.choice.token_ids),
        "client": {"first_token": heard.first_token, "total": heard.total},
        **facts_to_json(heard.choice.facts),
    }


async def ask(target: str, request: GenerateRequest, access: Access | None = None, *, echo: bool) -> Heard:
    """Ask over a connection of its own, and `stream` the answer."""
    async with connect(target, access) as client:
        return await stream(client, request, echo=echo)


def chat(target: str, request: GenerateRequest, console: Console, access: Access | None = None) -> None:
    """A conversation until the end of input or /quit. Ctrl-C ends an answer, not the conversation."""
    with asyncio.Runner(loop_factory=loop.factory()) as runner:
        client = connect(target, access)
        try:
            card = runner.run(_chatty(client, request.model))
            console.print(f"{card} listens. {_ANEW} begins anew, {_LEAVE[0]} leaves.", style="dim")
            _converse(runner, client, request, console)
        finally:
            runner.run(client.close())


async def _chatty(client: Client, model: str) -> str:
    """The name of the model. Raises ClientError when it has no chat template."""
    card = find(await client.models(), model)
    if not card.chat:
        raise ClientError(f"model {card.id} has no chat template; `dyno generate` continues a text with it")
    return card.id


def _converse(runner: asyncio.Runner, client: Client, request: GenerateRequest, console: Console) -> None:
    messages: tuple[Message, ...] = ()
    while (line := _line(console)) is not None:
        if line == _ANEW:
            messages = ()
        elif line:
            messages = _turn(runner, client, request, console, (*messages, Message("user", line)))


def _line(console: Console) -> str | None:
    """What the user says; None when they leave."""
    try:
        line = console.input("[bold]> [/bold]").strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return None
    return None if line in _LEAVE else line


def _turn(
    runner: asyncio.Runner, client: Client, request: GenerateRequest, console: Console, messages: tuple[Message, ...]
) -> tuple[Message, ...]:
    """The conversation after one more answer; unchanged but for the last message when there was none."""
    asked = GenerateRequest(Conversation(messages), request.model, request.sampling, routing=request.routing)
    try:
        heard = runner.run(stream(client, asked))
    except KeyboardInterrupt:
        console.print("\n(stopped)", style="dim")
        return messages[:-1]
    except ClientError as error:
        console.print(f"\n{error.message}", style="red", markup=False)
        return messages[:-1]
    console.print()
    console.print(_one_line(heard.choice.facts), style="dim")
    return (*messages, Message("assistant", heard.choice.text))


def _one_line(facts: Facts) -> str:
    line = f"{facts.usage.prompt_tokens} prompt tokens ({facts.usage.cached_tokens} cached)"
    line += f", {facts.usage.completion_tokens} generated"
    if facts.latency is not None:
        line += f"; first token after {facts.latency.first_token * 1e3:.0f} ms, {facts.latency.total:.2f} s in all"
    return line
