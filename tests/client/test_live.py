"""Watching experts: both clients see the same, the command draws it, and a stream that was cut is told as such."""

from __future__ import annotations

import pytest
from rich.console import Console

from client.api import Client, ClientError, StreamCut
from client.connect import connect
from client.live import LayerLoad, RoutingLoad, load_from_json
from client.watch import follow, load_view
from tests.client.answers import LOAD
from tests.client.fake_server import FakeServer

LAYER = LayerLoad(3, (8, 4, 0, 0), 0.459, 2.667, 0.667, 1.5, 0.125)


async def test_both_transports_tell_the_same(client: Client, fake: FakeServer) -> None:
    loads = [load async for load in client.watch_routing("fake", 0.5)]
    assert loads == [RoutingLoad("fake", 0.5, 4, 6, 2, 1, (LAYER,))] * 2
    _, asked = fake.seen[-1]
    told = asked if isinstance(asked, dict) else {"model": asked.model, "interval": str(asked.interval)}
    assert told == {"model": "fake", "interval": "0.5"}


async def test_a_refusal_is_the_servers(client: Client) -> None:
    with pytest.raises(ClientError) as caught:
        [_ async for _ in client.watch_routing("other")]
    assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")


async def test_an_error_at_the_end_is_an_error(client: Client, fake: FakeServer) -> None:
    fake.behave(fault_after=0)
    seen = []
    with pytest.raises(ClientError, match="the server failed"):
        async for load in client.watch_routing("fake"):
            seen.append(load)
    assert len(seen) == 2


async def test_a_stream_without_its_last_word_was_cut(fake: FakeServer) -> None:
    fake.behave(cut_after=0)
    async with connect(fake.http) as client:
        with pytest.raises(StreamCut):
            [_ async for _ in client.watch_routing("fake")]


def test_every_layer_has_a_row() -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(load_view(load_from_json(LOAD)))
    screen = captured.get()
    assert "fake: 6 tokens in 4 forward passes, 0.5 s; 2 running, 1 waiting" in screen
    assert screen.splitlines()[-1].split() == ["3", "0.46", "2.67", "0.67", "0.12", "1.50", "█▄··"]


async def test_without_tokens_there_is_no_spread_to_tell_of(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """null from REST; what gRPC leaves unset reads as 0, which would be a collapse."""
    idle = dict.fromkeys(("entropy", "imbalance", "busiest_share", "distinct_experts", "margin"))
    for name, value in {"passes": 0, "tokens": 0, "layers": [{"layer": 3, "expert_tokens": [0, 0], **idle}]}.items():
        monkeypatch.setitem(LOAD, name, value)
    load, *_ = [load async for load in client.watch_routing("fake")]
    assert load.layers == (LayerLoad(3, (0, 0), None, None, None, None, None),)
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(load_view(load))
    assert captured.get().splitlines()[-1].split()[:6] == ["3", "–", "–", "–", "–", "–"]


@pytest.mark.parametrize(("count", "lines"), [(None, 2), (1, 1)])
async def test_the_command_prints_a_line_of_json_a_load(count: int | None, lines: int, fake: FakeServer) -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        await follow(connect(fake.http), "fake", 0.5, count, console, json=True)
    printed = [line for line in captured.get().splitlines() if line]
    assert len(printed) == lines and all(line.startswith('{"model":"fake","seconds":0.5') for line in printed)


async def test_the_command_draws(fake: FakeServer) -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        await follow(connect(fake.grpc), "fake", 0.5, None, console, json=False)
    assert "2 running, 1 waiting" in captured.get()
