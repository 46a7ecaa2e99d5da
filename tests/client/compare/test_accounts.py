from __future__ import annotations

from dataclasses import asdict
from math import isnan, log

import orjson
import pytest
from aiohttp import web

from client.api import ModelCard
from client.compare.measure.accounts import between, capacity, parse, read, together
from client.compare.measure.quality import ScoringError, quality, quality_from_json
from tests.client.fake_server import silent

BEFORE = """# HELP dyno_flops Operations.
dyno_flops_total{model="m",part="head"} 10.0
dyno_flops_total{model="m",part="scores"} 20.0
dyno_flops_total{model="other",part="scores"} 1000.0
dyno_forward_passes_total{model="m"} 4.0
dyno_distinct_experts_total{model="m",layer="0"} 8.0
dyno_distinct_experts_total{model="m",layer="1"} 8.0
vllm:cache_config_info{model_name="m",block_size="16",num_gpu_blocks="100"} 1.0
process_open_fds 7
"""
AFTER = """dyno_flops_total{model="m",part="head"} 110.0
dyno_forward_passes_total{model="m"} 14.0
dyno_computed_tokens_total{model="m",phase="decode"} 50.0
dyno_forward_seconds_total{model="m",phase="decode"} 2.0
dyno_forward_least_seconds_total{model="m",phase="decode"} 0.5
dyno_forward_bound_seconds_total{model="m",bound="memory"} 0.4
dyno_forward_bound_seconds_total{model="m",bound="compute"} 0.1
dyno_distinct_experts_total{model="m",layer="0"} 48.0
dyno_distinct_experts_total{model="m",layer="1"} 28.0
"""


def test_what_lies_between_two_readings() -> None:
    before, after = parse(BEFORE, "m"), parse(AFTER, "m")
    account = between(before, after)
    assert account is not None
    assert (account.flops, account.passes, account.tokens) == (80.0, 10.0, 50.0)
    assert account.batch == pytest.approx(5.0)
    assert account.roofline_share == pytest.approx(0.25)
    assert account.memory_bound == pytest.approx(0.8)
    assert account.experts_a_pass == pytest.approx(60 / 10 / 2)
    assert between(None, after) is None


def test_a_cache_of_windows_alone_has_no_most() -> None:
    def held(sees: str) -> int:
        return capacity(parse(BEFORE, "m"), ModelCard("m", card={"description": {"sees": sees}}))

    assert capacity(parse(BEFORE, "m"), ModelCard("m")) == 1600, "of a server without cards"
    assert (held("everything before"), held("the last 64 (5 layers); everything before (1 layers)")) == (1600, 1600)
    assert (held("the last 64"), held("the last 64 (1 layers); its chunk of 32 (1 layers)")) == (0, 0)
    assert capacity(None, ModelCard("m")) == 0


def test_several_stretches_together() -> None:
    one = between(parse(BEFORE, "m"), parse(AFTER, "m"))
    both = together([one, None, one])
    assert both is not None
    assert both.passes == 20.0
    assert both.batch == pytest.approx(5.0)
    assert together([None]) is None
    empty = between(parse("", "m"), parse("", "m"))
    assert empty is not None
    assert isnan(empty.roofline_share)


async def test_a_server_that_tells_and_scores_and_one_that_does_not() -> None:
    """Two tokens of one byte each but the first; each later byte has a probability of 1/2: one bit per byte."""

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(text=BEFORE)

    async def score(request: web.Request) -> web.Response:
        tokens = list((await request.json())["prompt"])
        bits = [None, *(-0.6931471805599453 * len(token.encode()) for token in tokens[1:])]
        told = {"tokens": tokens, "token_logprobs": bits}
        return web.json_response({"choices": [{"text": "".join(tokens), "logprobs": told}]})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.post("/v1/completions", score)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    target = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        reading = await read(target, "m")
        assert reading is not None
        assert reading.values["dyno_flops"] == 30.0
        assert await read(target, "nobody") is None
        told = await quality(target, "m", (0, 2))
        assert told.passages == 2 and told.places == [0, 2]
        assert told.bits_per_byte == pytest.approx(1.0) and told.bands == ()
        assert told.tokens == told.bytes, "a token a letter"
    finally:
        await runner.cleanup()
    assert await read(target, "m") is None
    with pytest.raises(ScoringError, match="nothing answers at"):
        await quality(target, "m", (0,))


async def test_a_server_that_never_answers_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("accounts", "quality"):
        monkeypatch.setattr(f"client.compare.measure.{module}.MOST_SECONDS", 0.05)
    async with silent() as target:
        assert await read(target, "m") is None
        with pytest.raises(ScoringError, match=r"no answer within 0\.05 s"):
            await quality(target, "m", (0,))


async def test_long_texts_are_told_apart_by_position() -> None:
    """Token n is the letter n, of one byte below 100 and of two from there; it costs n // 100 bits a byte."""

    async def tokenize(request: web.Request) -> web.Response:
        words = (await request.json())["prompt"].split()
        return web.json_response({"tokens": list(range(len(words)))})

    async def score(request: web.Request) -> web.Response:
        prompt = (await request.json())["prompt"]
        places = range(len(prompt))
        letters = ["a" if at < 100 else "ä" for at in places]
        logs = [None, *(-log(2) * (at // 100) * len(letters[at].encode()) for at in places[1:])]
        told = {"tokens": letters, "token_logprobs": logs, "text_offset": list(places)}
        return web.json_response({"choices": [{"text": "".join(letters), "logprobs": told}]})

    app = web.Application()
    app.add_routes([web.post("/tokenize", tokenize), web.post("/v1/completions", score)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        told = await quality(f"http://127.0.0.1:{runner.addresses[0][1]}", "m", (0,), bounds=(100, 200, 300))
    finally:
        await runner.cleanup()
    assert [(band.start, band.stop) for band in told.bands] == [(1, 100), (100, 200), (200, 300)]
    assert [band.bits_per_byte for band in told.bands] == pytest.approx([0, 1, 2])
    assert quality_from_json(orjson.loads(orjson.dumps(asdict(told)))) == told
