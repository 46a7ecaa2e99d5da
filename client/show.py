"""What one request cost, drawn for a terminal."""

from __future__ import annotations

import unicodedata

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from client.api import ModelCard
from client.facts import Compute, Facts, Latency, Routing, TokenRouting
from client.units import bar, counted, milliseconds, percent, plain, sparks

_WIDEST_SPARKS = 64


def printable(text: str) -> str:
    """The text without characters that would steer a terminal: a model may write anything."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text)


def facts_view(facts: Facts) -> RenderableType:
    """The usage line, the latency breakdown and the routing; what the server did not tell is left out."""
    parts: list[RenderableType] = [_usage_line(facts)]
    if facts.latency is not None:
        parts.append(latency_table(facts.latency))
    if facts.compute is not None:
        parts.append(compute_table(facts.compute))
    if facts.routing is not None and facts.routing.layers:
        parts.append(routing_table(facts.routing))
        if facts.routing.token_routing is not None:
            parts.append(token_view(facts.routing, facts.routing.token_routing))
    return Group(*parts)


def _usage_line(facts: Facts) -> Text:
    usage = facts.usage
    line = f"{usage.prompt_tokens} prompt tokens ({usage.cached_tokens} cached), {usage.completion_tokens} generated"
    line += f", ended by {facts.finish_reason}"
    if facts.steps is not None:
        line += f"; {facts.steps.count} forward passes, {plain(facts.steps.mean_batch)} requests in each on average"
        if facts.steps.drafted_tokens:
            line += f"; {facts.steps.accepted_tokens} of {facts.steps.drafted_tokens} guessed tokens were right"
    return Text(line, style="dim")


def latency_table(latency: Latency) -> Table:
    """Where the time went: a bar for each part, as its share of the total."""
    table = Table(title="Latency", title_justify="left", box=None, pad_edge=False)
    table.add_column("phase")
    table.add_column("ms", justify="right")
    table.add_column("of the total")
    for name, seconds in (("queued", latency.queued), ("prefill", latency.prefill), ("decode", latency.decode)):
        share = seconds / latency.total if latency.total else 0.0
        table.add_row(name, milliseconds(seconds), Text(bar(share, 24), style="cyan"))
    table.add_row("total", milliseconds(latency.total), "")
    if latency.forward:
        table.add_row("in the model", milliseconds(latency.forward), _delays(latency))
    table.add_row("first token", milliseconds(latency.first_token), "after arrival")
    gaps = latency.inter_token
    if gaps.count:
        spread = f"median of {gaps.count} gaps; p90 {milliseconds(gaps.p90)}, p99 {milliseconds(gaps.p99)}"
        table.add_row("inter-token", milliseconds(gaps.p50), f"{spread}, longest {milliseconds(gaps.maximum)}")
    return table


def _delays(latency: Latency) -> str:
    delays = []
    if latency.delayed:
        delays.append(f"{milliseconds(latency.delayed)} for neighbours' prompts while decoding")
    if latency.preempted:
        delays.append(f"and {milliseconds(latency.preempted)} without a place in the cache")
    return ", ".join(delays)


def compute_table(compute: Compute) -> Table:
    """Operations by part, and what was moved for them."""
    table = Table(title="Work", title_justify="left", box=None, pad_edge=False)
    table.add_column("part")
    table.add_column("FLOP", justify="right")
    table.add_column("of all operations")
    flops = compute.flops
    for name in ("projections", "scores", "feed_forward", "experts", "router", "head"):
        if count := getattr(flops, name):
            share = count / flops.total
            table.add_row(name.replace("_", "-"), counted(count), Text(bar(share, 24), style="cyan"))
    table.add_row("total", counted(flops.total), f"{compute.tokens} tokens, {counted(compute.parameters)} parameters")
    cache = f"{_bytes(compute.cache_read_bytes)} of cache read, {_bytes(compute.cache_written_bytes)} written"
    table.add_row("moved", _bytes(compute.weight_bytes), f"of weights, {cache}")
    memory, operations = compute.memory_bound_seconds, compute.compute_bound_seconds
    if memory or operations:
        waited = f"{milliseconds(memory)} bound by memory, {milliseconds(operations)} by operations"
        share = percent((memory + operations) / compute.seconds) if compute.seconds else "–"
        at_best = f"at the machine's best ({waited}), {share} of what its passes took"
        table.add_row("at least", f"{milliseconds(memory + operations)} ms", at_best)
    return table


def _bytes(count: float) -> str:
    return f"{counted(round(count))}B" if count >= 1000 else f"{count:.0f} B"


def routing_table(routing: Routing) -> Table:
    """One row a mixture layer: how the tokens spread over its experts."""
    title = f"Routing of {routing.tokens} tokens"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    dropping = any(one.dropped for one in routing.layers)
    for name in ("layer", "entropy", "max/mean", "busiest", "gate", "margin", *(["dropped"] if dropping else [])):
        table.add_column(name, justify="right")
    table.add_column("tokens of each expert")
    for one in routing.layers:
        numbers = (one.entropy, one.imbalance, one.busiest_share, one.mean_gate, one.margin)
        load = Text(sparks(one.expert_tokens[:_WIDEST_SPARKS]), style="cyan")
        if len(one.expert_tokens) <= 8:
            load.append("  " + " ".join(map(str, one.expert_tokens)), style="dim")
        dropped = [str(one.dropped)] if dropping else []
        table.add_row(str(one.layer), *(f"{number:.2f}" for number in numbers), *dropped, load)
    return table


def token_view(routing: Routing, detail: TokenRouting) -> Text:
    """One line a mixture layer, one character a token: its first expert, 0-9, a-z, + beyond; ! where it was dropped."""
    first = detail.array()[-_WIDEST_SPARKS:, :, 0]
    lines = [
        f"{layer.layer:>5}  " + "".join(_expert_letter(int(expert)) for expert in first[:, column])
        for column, layer in enumerate(routing.layers)
    ]
    head = f"First expert of the last {len(first)} tokens"
    return Text("\n".join([head, *lines]))


def _expert_letter(expert: int) -> str:
    letters = "0123456789abcdefghijklmnopqrstuvwxyz"
    return "!" if expert < 0 else letters[expert] if expert < len(letters) else "+"


def models_table(cards: tuple[ModelCard, ...]) -> Table:
    """What is served, one row a model."""
    table = Table(box=None, pad_edge=False)
    table.add_column("model", style="bold", overflow="fold")
    for name in ("parameters", "active", "context", "B/token"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("architecture", overflow="fold")
    for card in cards:
        sizes = (counted(card.total_parameters), counted(card.active_parameters))
        table.add_row(card.id, *sizes, str(card.context or "–"), _kept(card), _words(card))
    return table


def _kept(card: ModelCard) -> str:
    """Cache bytes of a token, and of a request's state where it carries one."""
    if card.state_bytes:
        return f"{card.cache_bytes_per_token} + {counted(card.state_bytes)}"
    return str(card.cache_bytes_per_token or "–")


def _words(card: ModelCard) -> str:
    """The architecture in words: "grouped-query, rotary, 2 of 8 experts, float32, chat"."""
    words = (card.attention, card.position, card.feed_forward, card.dtype, "chat" if card.chat else "")
    return ", ".join(word for word in words if word) or "–"
