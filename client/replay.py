"""A stored answer, read by another model token for token: how probable it finds each, and where it would have gone on
differently. Stored is what `dyno generate --json` printed; REST servers that tell `prompt_logprobs` can replay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from client import interrupts
from client.access import Access
from client.api import ClientError
from client.options import LOCAL, print_json
from client.rest import RestClient
from client.units import milliseconds, plain

_SCHEMA = "dyno.generate/1"
MOST_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Stored:
    """A request and its answer."""

    model: str
    prompt: str
    text: str
    token_ids: tuple[int, ...]
    prompt_tokens: int
    seconds: float  # the client's, when it was generated


@dataclass(frozen=True, slots=True)
class ReplayedToken:
    """One token of the answer, under another model; `best` is what that model would have taken."""

    id: int
    text: str
    logprob: float
    rank: int
    best_id: int
    best_text: str


@dataclass(frozen=True, slots=True)
class Replayed:
    """The answer under one model. `seconds`: the one pass over prompt and answer, as the client saw it."""

    model: str
    tokens: tuple[ReplayedToken, ...]
    seconds: float

    @property
    def mean_logprob(self) -> float:
        return sum(token.logprob for token in self.tokens) / len(self.tokens)

    @property
    def divergence(self) -> int | None:
        """The first token that the model, taking its likeliest, would not have taken."""
        return next((i for i, token in enumerate(self.tokens) if token.rank > 1), None)


def read(path: Path) -> Stored:
    """Raises ClientError where the file is no answer, and OSError."""
    try:
        data = orjson.loads(path.read_bytes())
        if data["schema"] != _SCHEMA:
            raise ClientError(f"{path} has the schema {data['schema']!r}, not {_SCHEMA}: store `dyno generate --json`")
        told = data["client"]["total"]
        ids, usage = tuple(data["token_ids"]), data["usage"]
        stored = Stored(data["model"], data["prompt"], data["text"], ids, usage["prompt_tokens"], told)
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise ClientError(f"{path} is no stored answer of `dyno generate --json`: {error!r}") from error
    if not stored.token_ids:
        raise ClientError(f"{path} has an answer of no tokens: there is nothing to replay")
    return stored


async def replay(target: str, stored: Stored, model: str) -> Replayed:
    """Raises ClientError, also where the model's tokenizer is another than the one the answer was made with."""
    if not target.startswith("http"):
        raise ClientError(f"a replay needs REST: target {target!r} is not http:// or https://")
    try:
        async with asyncio.timeout(MOST_SECONDS), RestClient(target, Access.from_environment()) as client:
            return await _replay(client, stored, model)
    except TimeoutError as error:
        raise ClientError(f"{target} did not read the answer within {MOST_SECONDS} s") from error


async def _replay(client: RestClient, stored: Stored, model: str) -> Replayed:
    prompt = await client.tokenize(stored.prompt, model)
    text = (await client.json("POST", "/detokenize", {"model": model, "tokens": stored.token_ids}))["prompt"]
    if len(prompt) != stored.prompt_tokens or not text.startswith(stored.text.rstrip("\ufffd")):
        raise ClientError(f"model {model!r} has another tokenizer than the one of {stored.model!r}: tokens differ")
    body = {"model": model, "prompt": (*prompt, *stored.token_ids), "max_tokens": 0, "prompt_logprobs": 1}
    began = time.perf_counter()
    answer = await client.json("POST", "/v1/completions", body)
    seconds = time.perf_counter() - began
    try:
        places = answer["choices"][0]["prompt_logprobs"][len(prompt) :]
        tokens = tuple(_token(id, place) for id, place in zip(stored.token_ids, places, strict=True))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ClientError(f"{client.target} does not tell prompt_logprobs: {error!r}") from error
    return Replayed(model, tokens, seconds)


def _token(id: int, place: dict[str, Any]) -> ReplayedToken:
    own = place[str(id)]
    best = next(key for key, one in place.items() if one["rank"] == 1)
    return ReplayedToken(id, own["decoded_token"], own["logprob"], own["rank"], int(best), place[best]["decoded_token"])


def view(stored: Stored, sides: Sequence[Replayed], console: Console) -> None:
    """A line a model, and the place where each would have gone on differently."""
    table = Table(box=None, pad_edge=False)
    for head in ("", "log-probability a token", "perplexity", "first divergence", "pass, ms"):
        table.add_column(head, justify="right" if head else "left")
    for one in sides:
        place = one.divergence
        said = "none" if place is None else f"token {place}: {_quoted(one.tokens[place])}"
        mean = one.mean_logprob
        table.add_row(*map(Text, (one.model, f"{mean:.3f}", plain(exp(-mean)), said, milliseconds(one.seconds))))
    console.print(table)
    made = (
        f"{len(stored.token_ids)} tokens of {stored.model or 'a model'}, generated in {milliseconds(stored.seconds)} ms"
    )
    console.print(made, markup=False, highlight=False)


def _quoted(token: ReplayedToken) -> str:
    return f"{token.best_text!r} instead of {token.text!r}"


def command(
    request: Annotated[Path, typer.Argument(help="What `dyno generate --json` printed.")],
    on: Annotated[list[str], typer.Option(help="The model that reads it; may be repeated.")],
    target: Annotated[str, typer.Option(envvar="DYNO_TARGET", help="REST server that has the models.")] = LOCAL,
    json: Annotated[bool, typer.Option("--json", help="Every token, as one JSON object.")] = False,
) -> None:
    """Report how probable a stored answer is to another model, token for token, and where it would have differed."""
    stored = read(request)

    async def ask() -> list[Replayed]:
        return [await replay(target, stored, model) for model in on]

    sides = interrupts.run(ask())
    if json:
        told = [asdict(one) | {"mean_logprob": one.mean_logprob, "divergence": one.divergence} for one in sides]
        document = {"schema": "dyno.replay/1", "stored": asdict(stored), "replayed": told}
        print_json(document)
    else:
        view(stored, sides, Console())
