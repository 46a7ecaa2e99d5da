"""The `dyno` command. Exit codes: 0 done, 1 it failed, 2 it was called wrongly, 3 `compare --against` found something
worse, 4 it could not tell, 130 it was interrupted."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Annotated, NoReturn, ParamSpec

import typer
from rich.console import Console

from client import demo as demonstration
from client import interrupts, launch, replay, talk
from client.access import Access
from client.api import ClientError, GenerateRequest, ModelCard, RoutingDetail, Sampling
from client.compare.command import compare
from client.compare.plan.section import ExperimentError
from client.compare.tell.document import ResultsError
from client.connect import TargetError, connect
from client.load import trace_commands
from client.load.command import load
from client.load.trace import TraceError
from client.load.workload import WorkloadError
from client.options import LOCAL, ApiKey, Ca, Cert, Json, Key, Model, Seed, Target, Temperature, print_json
from client.show import facts_view, models_table
from client.version import Version
from client.watch import watch

_P = ParamSpec("_P")

app = typer.Typer(
    name="dyno",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode=None,  # it would take the [words] of helps for styles
)
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}  # --help too


def told(command: Callable[_P, None]) -> Callable[_P, None]:
    """The command, with what can go wrong told in one line and as an exit code."""

    @wraps(command)
    def guarded(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ExperimentError, ResultsError, TargetError, TraceError) as error:
            _fail(str(error), 2)
        except (ClientError, WorkloadError, OSError) as error:
            _fail(str(error), 1)
        except interrupts.Interrupted as error:
            _fail(str(error), 130)

    return guarded


def _fail(message: str, code: int) -> NoReturn:
    Console(stderr=True).print(f"dyno: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@app.callback()
def dyno(version: Version = False) -> None:
    """A dynamometer for language-model architectures."""


@app.command(context_settings=_PASSED_ON)
@told
def serve(context: typer.Context) -> None:
    """Serve models over REST and gRPC; `dyno serve --help` lists every flag."""
    launch.require_server()
    _become("server", *context.args)


@app.command(context_settings=_PASSED_ON)
@told
def train(context: typer.Context) -> None:
    """Train a small model; `dyno train --help` lists every flag."""
    launch.require_server()
    _become("model", "train", *context.args)


@app.command(context_settings=_PASSED_ON)
@told
def inspect(context: typer.Context) -> None:
    """Report what an architecture costs, from its values alone: NAME… [--scale S] [--json] [--memory GIB]."""
    launch.require_server()
    _become("model", "inspect", *context.args)


def _become(module: str, *arguments: str) -> NoReturn:
    """Replace this process by the program: signals reach it, its exit code is ours, its help names what was typed."""
    command = launch.command(module, *arguments)
    os.execve(command[0], command, launch.environment() | {"CALLED_AS": "dyno"})


@app.command()
@told
def generate(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    target: Target = LOCAL,
    model: Model = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens to generate.")] = 128,
    temperature: Temperature = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many of the likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the likeliest with this total probability.")] = None,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the generation; may be repeated.")] = None,
    json: Json = False,
    api_key: ApiKey = "",
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
    routing: Annotated[bool, typer.Option("--routing", help="Also the experts of every single token.")] = False,
) -> None:
    """Continue a text, then report where the time went and which experts the tokens went to."""
    sampling = Sampling(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        stop=tuple(stop or ()) or None,
    )
    detail = RoutingDetail.TOKENS if routing else RoutingDetail.LAYERS
    request = GenerateRequest(prompt, model, sampling, routing=detail)
    heard = interrupts.run(talk.ask(target, request, Access(api_key, ca, cert, key), echo=not json))
    if json:
        print_json(talk.document(target, request, heard))
    else:
        console = Console()
        console.print("\n")
        console.print(facts_view(heard.choice.facts))


@app.command()
@told
def chat(
    target: Target = LOCAL,
    model: Model = "",
    max_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.")] = 256,
    temperature: Temperature = None,
    seed: Seed = None,
    api_key: ApiKey = "",
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """Talk with a model that has a chat template."""
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    talk.chat(target, GenerateRequest("", model, sampling), Console(), Access(api_key, ca, cert, key))


@app.command()
@told
def models(
    target: Target = LOCAL,
    json: Json = False,
    api_key: ApiKey = "",
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    """List the served models with their architecture cards."""

    async def ask() -> tuple[ModelCard, ...]:
        async with connect(target, Access(api_key, ca, cert, key)) as client:
            return await client.models()

    cards = interrupts.run(ask())
    if json:
        print_json(cards)
    else:
        Console().print(models_table(cards))


app.command()(told(watch))
app.command()(told(load))
app.command()(told(compare))
app.command("replay")(told(replay.command))
trace = typer.Typer(help="Make, import, record and describe traces.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(trace, name="trace")
for _command in (trace_commands.make, trace_commands.import_, trace_commands.record, trace_commands.show):
    trace.command(_command.__name__.rstrip("_"))(told(_command))


@app.command()
@told
def demo() -> None:
    """Show Dyno at work on its embedded models, in under a minute."""
    interrupts.run(demonstration.show(Console()))


def main() -> None:
    """The entry point of the `dyno` script."""
    app()


if __name__ == "__main__":
    main()
