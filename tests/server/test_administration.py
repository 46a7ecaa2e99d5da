"""Models come and go while others are served, on both transports."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from server.config import Settings
from server.engine.engine import Engine
from server.errors import ModelNotFound
from server.metrics import PrometheusObserver
from server.models import ServedModel
from tests.server.callers import Refused
from tests.server.doors import until
from tests.server.kit import Harness, fake_model
from tests.server.operators import LONG, administered, refusal

STATUS = health_pb2.HealthCheckResponse


def engines_built_by(server: Harness) -> list[weakref.ref[Engine]]:
    """Those of the models that it loads from now on."""
    engines: list[weakref.ref[Engine]] = []
    premises = server.app.premises
    build = premises._build

    def watched(settings: Settings, observer: PrometheusObserver, *, measures: bool = True) -> Sequence[ServedModel]:
        models = build(settings, observer, measures=measures)
        engines.extend(weakref.ref(model.engine) for model in models)
        return models

    premises._build = watched
    return engines


@pytest.mark.parametrize("transport", ["rest", "grpc"])
class TestModels:
    async def test_a_model_is_loaded_while_others_stream(self, transport: str) -> None:
        async with administered(transport) as (server, operator, caller):
            stream = asyncio.create_task(caller.stream(**LONG))
            await until(lambda: server.app.service.active)
            loaded = await operator.load("new=late")
            assert (loaded["name"], loaded["state"], loaded["error"]) == ("new", "ready", None)
            assert not stream.done()
            assert await caller.whole(model="new", prompt="abc", max_tokens=3)
            assert set(await operator.models()) == {"fake", "slow", "new"}
            server.hurry()
            assert len((await stream)[0].tokens) == 100
            assert await server.total("dyno_requests_total", model="new", outcome="length") == 1
            await server.settled()

    async def test_it_is_built_as_the_settings_say_but_for_the_wish(self, transport: str) -> None:
        async with administered(transport, seed=3, scale="tiny", cache_tokens=64) as (_, operator, caller):
            await operator.load("a=seeded")
            await operator.load("b=seeded", seed=9, scale="small", cache_tokens=128)
            texts = [(await caller.whole(model=model, prompt="abc", max_tokens=40))[0].text for model in "ab"]
            assert texts == ["3 tiny 64", "9 small 128"]

    async def test_detached_it_is_told_of_later(self, transport: str) -> None:
        async with administered(transport) as (_, operator, _):
            assert (await operator.load("new=late", detached=True))["state"] == "loading"
            assert (await operator.models())["new"]["state"] == "loading"
            assert (await refusal(operator.load("new=late"))).kind == "exists"
            async with asyncio.timeout(5):
                while (await operator.models())["new"]["state"] != "ready":  # noqa: ASYNC110
                    await asyncio.sleep(0.05)

    @pytest.mark.parametrize(
        ("spec", "why"),
        [("new=bad", "ends too early"), ("new=failing", "model new fails: nan"), ("new=dying", "device is gone")],
    )
    async def test_a_load_that_fails_says_why_and_changes_nothing(self, transport: str, spec: str, why: str) -> None:
        async with administered(transport) as (server, operator, caller):
            engines = engines_built_by(server)
            stream = asyncio.create_task(caller.stream(**LONG))
            await until(lambda: server.app.service.active)
            refused = await refusal(operator.load(spec))
            assert [engine() for engine in engines] == [None] * (spec != "new=bad"), "its memory is free again"
            assert (refused.kind, refused.code, refused.param) == ("invalid", "load_failed", "model")
            assert why in refused.message
            failed = (await operator.models())["new"]
            assert failed["state"] == "failed" and why in failed["error"]
            assert await operator.unload("new") == 0 and "new" not in await operator.models()
            assert (await refusal(operator.unload("new"))).kind == "not found"
            assert set(server.app.service.models) == set(server.app.premises.running._engines) == {"fake", "slow"}
            server.hurry()
            assert len((await stream)[0].tokens) == 100
            assert (await operator.load("new=fake"))["state"] == "ready", "it may be tried again"

    @pytest.mark.parametrize(
        ("wish", "kind", "param"),
        [
            ({"model": ""}, "invalid", "model"),
            ({"model": "x" * 4097}, "invalid", "model"),
            ({"model": "a\nb"}, "invalid", "model"),
            ({"model": "=fake"}, "invalid", "model"),
            ({"model": "new="}, "invalid", "model"),
            ({"model": "<b>=fake"}, "invalid", "model"),
            ({"model": "<b>"}, "invalid", "model"),
            ({"model": "x" * 65 + "=fake"}, "invalid", "model"),
            ({"model": "fake"}, "exists", "model"),
            ({"model": "slow=fake"}, "exists", "model"),
            ({"model": "new=fake", "cache_tokens": 0}, "invalid", "cache_tokens"),
            ({"model": "new=fake", "seed": -1}, "invalid", "seed"),
        ],
        ids=str,
    )
    async def test_what_cannot_be_loaded_is_not_begun(
        self, transport: str, wish: dict[str, Any], kind: str, param: str
    ) -> None:
        async with administered(transport) as (_, operator, _):
            refused = await refusal(operator.load(**wish))
            assert refused.kind == kind and (kind == "exists" or refused.param == param)
            assert set(await operator.models()) == {"fake", "slow"}

    async def test_an_unloaded_model_is_gone_and_its_memory_with_it(self, transport: str) -> None:
        async with administered(transport) as (server, operator, caller):
            await operator.load("new=fake")
            assert await caller.whole(model="new", prompt="abc", max_tokens=3)
            engine = weakref.ref(server.app.service.models["new"].engine)
            assert await operator.unload("new") == 0
            refused = await refusal(caller.whole(model="new", prompt="abc", max_tokens=3))
            assert (refused.kind, refused.code) == ("not found", "model_not_found")
            assert set(await operator.models()) == {"fake", "slow"}
            gc.collect()
            assert engine() is None
            assert not [labels for (_, labels) in await server.series() if ("model", "new") in labels]
            assert await caller.whole(model="fake", prompt="abc", max_tokens=3)
            await server.settled()

    async def test_requests_finish_before_their_model_goes(self, transport: str) -> None:
        async with administered(transport) as (server, operator, caller):
            stream = asyncio.create_task(caller.stream(**LONG | {"max_tokens": 30}))
            await until(lambda: server.app.service.active)
            unloading = asyncio.create_task(operator.unload("slow"))
            await until(lambda: "slow" not in server.app.service.models)
            assert (await operator.models())["slow"]["state"] == "unloading"
            assert (await refusal(caller.whole(**LONG))).kind == "not found", "nobody new is let in"
            assert await unloading == 0
            assert len((await stream)[0].tokens) == 30

    async def test_requests_that_take_too_long_are_ended_and_told(self, transport: str, tmp_path: Path) -> None:
        path = tmp_path / "requests.jsonl"  # the model's series end with it
        async with administered(transport, request_log=str(path)) as (server, operator, caller):
            stream = asyncio.create_task(caller.stream(**LONG | {"max_tokens": 200}))
            other = asyncio.create_task(caller.stream(model="fake", prompt="abc", max_tokens=200, ignore_eos=True))
            await until(lambda: server.app.service.active)
            assert await operator.unload("slow", drain_seconds=0.1) == 1
            refused = await refusal(stream)
            assert refused.code == "draining" and "unloaded" in refused.message
            assert len((await other)[0].tokens) == 200
            await server.settled()
        ends = {line["model"]: line["outcome"] for line in map(json.loads, path.read_text().splitlines())}
        assert ends == {"slow": "error", "fake": "length"}

    async def test_who_is_not_there_cannot_be_unloaded(self, transport: str) -> None:
        async with administered(transport) as (_, operator, _):
            assert (await refusal(operator.unload("nobody"))).code == "model_not_found"
            assert (await refusal(operator.unload("slow", drain_seconds=-1.0))).param == "drain_seconds"
            assert (await refusal(operator.unload("slow", drain_seconds=1e6))).param == "drain_seconds"

    async def test_without_models_nothing_is_ready_until_one_is_loaded(self, transport: str) -> None:
        async with administered(transport, fake_model("fake")) as (server, operator, caller):
            await operator.unload("fake")
            assert (await refusal(caller.whole(prompt="abc", max_tokens=1))).code == "no_model"
            for path, status in (("/readyz", 503), ("/livez", 200)):
                async with server.session.get(server.url + path) as response:
                    assert response.status == status
            await operator.load("fake")
            assert await caller.whole(prompt="abc", max_tokens=1)


async def test_of_two_who_unload_a_model_at_once_one_finds_it_gone() -> None:
    """Nor does either of them take down what is loaded under that name after it."""
    async with administered("rest") as (server, operator, caller):
        administration = server.app.administration
        for _ in range(3):
            await operator.load("new=fake")
            ends = await asyncio.gather(
                *(administration.unload("new", by=by) for by in ("one", "other")), return_exceptions=True
            )
            assert [type(end) for end in ends] == [int, ModelNotFound], ends
            await operator.load("new=fake")
            assert await caller.whole(model="new", prompt="abc", max_tokens=3)
            assert await operator.unload("new") == 0
        assert set(server.app.premises.running._engines) == {"fake", "slow"}


@pytest.mark.parametrize("transport", ["rest", "grpc"])
class TestTheEnd:
    async def test_a_load_that_the_server_does_not_wait_for_is_told_so(self, transport: str) -> None:
        async with administered(transport) as (server, operator, _):
            loading = asyncio.create_task(operator.load("new=late"))
            await until(lambda: server.app.administration.models()[2:])
            await server.leave()
            refused = await refusal(loading)
            assert (refused.kind, refused.code, refused.retry) == ("unavailable", "draining", 1)

    async def test_a_load_that_a_drain_overtakes_is_no_fault_of_the_model(self, transport: str) -> None:
        async with administered(transport) as (server, operator, _):
            loading = asyncio.create_task(operator.load("new=late"))
            await operator.load("other=late", detached=True)
            await until(lambda: len(server.app.administration.models()) == 4)
            await operator.drain()
            refused = await refusal(loading)
            assert (refused.kind, refused.code, refused.retry) == ("unavailable", "draining", 1)
            await until(lambda: not server.app.administration._work)
            told = await operator.models()
            assert {told[name]["state"] for name in ("new", "other")} == {"failed"}
            assert set(server.app.premises.running._engines) == {"fake", "slow"}

    async def test_an_unload_that_the_server_does_not_wait_for_is_told_so(self, transport: str) -> None:
        async with administered(transport, drain_seconds=0.1) as (server, operator, caller):
            stream = asyncio.create_task(caller.stream(**LONG))
            await until(lambda: server.app.service.active)
            unloading = asyncio.create_task(operator.unload("slow", drain_seconds=60))
            await until(lambda: "slow" not in server.app.service.models)
            await server.leave()
            refused = await refusal(unloading)
            assert (refused.kind, refused.code, refused.retry) == ("unavailable", "draining", 1)
            assert (await refusal(stream)).code == "draining"


async def test_a_load_under_way_does_not_outlive_the_server() -> None:
    async with administered("rest") as (server, operator, _):
        await operator.load("new=late", detached=True)
        (loading,) = server.app.administration._work
    await asyncio.wait([loading], timeout=1)
    assert loading.cancelled()


@pytest.mark.parametrize("spec", ["new=late", "new=compiling"])
async def test_a_slow_load_holds_nobody_up(spec: str) -> None:
    """While a model is read, and while its first pass builds what it needs."""
    async with administered("rest") as (_, operator, caller):
        loading = asyncio.create_task(operator.load(spec))
        await asyncio.sleep(0.05)
        assert await asyncio.wait_for(caller.whole(model="fake", prompt="abc", max_tokens=3), 0.25)
        assert not loading.done()
        await loading


async def test_health_speaks_of_each_model() -> None:
    async with administered("grpc") as (server, operator, _), grpc.aio.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="new"))
        assert (await watch.read()).status == STATUS.SERVICE_UNKNOWN
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="new"))
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        await operator.load("new=late", detached=True)
        seen = [(await watch.read()).status]
        if seen[-1] == STATUS.NOT_SERVING:
            seen.append((await watch.read()).status)
        assert seen[-1] == STATUS.SERVING
        whole = health_pb2.HealthCheckRequest()
        for service in ("fake", "new", "dyno.inference.v1.InferenceService", "dyno.admin.v1.AdminService", ""):
            assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == STATUS.SERVING
        await operator.unload("new")
        while (status := (await watch.read()).status) == STATUS.NOT_SERVING:
            pass
        assert status == STATUS.SERVICE_UNKNOWN
        assert (await health.Check(whole)).status == STATUS.SERVING
        await operator.drain()
        fake = health.Watch(health_pb2.HealthCheckRequest(service="fake"))
        async with asyncio.timeout(2):
            while (await fake.read()).status != STATUS.NOT_SERVING:
                pass
        assert (await health.Check(whole)).status == STATUS.NOT_SERVING


async def test_models_come_and_go_under_load() -> None:
    """Nothing is lost in between: every request ends, is counted, and leaves no place, stream or engine behind."""
    async with administered("rest") as (server, operator, caller):
        end = asyncio.get_running_loop().time() + 2
        ends: set[str] = set()

        async def ask(number: int) -> None:
            while asyncio.get_running_loop().time() < end:
                model = ("fake", "slow", "new")[number % 3]
                try:
                    await caller.stream(model=model, prompt="abc" * number, max_tokens=5 + number, n=1 + number % 2)
                    ends.add("whole")
                except Refused as refused:
                    ends.add(refused.code)

        async def change() -> None:
            while asyncio.get_running_loop().time() < end:
                await operator.load("new=slow")
                await asyncio.sleep(0.1)
                await operator.unload("new", drain_seconds=0.05)

        await asyncio.gather(change(), *(ask(number) for number in range(1, 13)))
        assert {"whole", "model_not_found"} <= ends <= {"whole", "model_not_found", "draining"}
        await server.settled()
        loop = server.app.premises.running
        assert set(loop._engines) == set(loop._unseen) == {"fake", "slow"}
        assert not loop._streams and not loop._jobs and not server.app.service._places._taken
