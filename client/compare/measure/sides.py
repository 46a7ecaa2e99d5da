"""Brings the architectures of an experiment up: each a server of its own, or one that runs already."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, replace
from secrets import token_hex
from urllib.parse import urlsplit

from client.api import Client, ClientError
from client.compare.plan.experiment import Architecture, Experiment
from client.connect import connect
from client.launch import ServerProcess
from client.load.salt import Salt
from client.load.workload import Subject, WorkloadError, find, least_vocab

_LEAST_VOCAB = 256  # where no endpoint tells; none has less
_TELLING = ("--peer-metrics",)  # among them, how large the cache is


@dataclass(frozen=True, slots=True)
class Side:
    """An architecture that is up; `http` is where its counters are read, empty where that is not known."""

    subject: Subject
    http: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where an architecture is served: for us, and where its counters are read."""

    target: str
    http: str


Starting = Callable[[Architecture], None]


async def start(stack: AsyncExitStack, experiment: Experiment, one: Architecture, starting: Starting) -> Address:
    """A server of its own until `stack` is closed, unless it runs already; its own flags count more than those of all,
    as the last one given does. Raises LaunchError."""
    if one.target:
        return Address(one.target, one.target if one.target.startswith("http") else "")
    starting(one)
    process = ServerProcess((*experiment.flags, *_TELLING, *one.server_flags()), cores=experiment.cores)
    with _named(one):
        server = await stack.enter_async_context(process)
    grpc = (one.transport or experiment.transport) == "grpc"
    return Address(server.grpc if grpc else server.http, server.http)


async def reach(stack: AsyncExitStack, one: Architecture, address: Address) -> Side:
    """Connects to it. Raises ClientError, and WorkloadError where it has not the model."""
    with _named(one):
        client: Client = await stack.enter_async_context(connect(address.target))
        card = find(await client.models(), one.model if one.target else "")
    return Side(Subject(client, card, name=one.name), address.http)


@contextmanager
def _named(one: Architecture) -> Iterator[None]:
    """What is wrong within is wrong with this architecture."""
    try:
        yield
    except (ClientError, WorkloadError) as error:
        raise type(error)(f"{one.name}: {error}") from error


def salted(sides: list[Side], experiment: Experiment) -> list[Side]:
    """Servers that run already may have seen these very requests: in an earlier run, or just now, where two
    architectures are one model on one host, reached in two ways. A trace from a file is sent as it is."""
    if experiment.trace is not None:
        return sides
    word, before, marked = token_hex(3), Counter[tuple[str | None, str]](), []
    vocab = least_vocab(side.subject for side in sides) or _LEAST_VOCAB
    for side, architecture in zip(sides, experiment.architectures, strict=True):
        card = side.subject.card
        place = (urlsplit(architecture.target).hostname, card.id)
        salt = Salt(f"{word}{before[place] or ''}", card.vocab or vocab) if architecture.target else None
        before[place] += 1
        marked.append(replace(side, subject=replace(side.subject, salt=salt)))
    return marked
