"""Nobody calls what the table does not give them: every route and every method of the running server, enumerated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from starlette.routing import Route

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from server.transport.auth import access as authorisation
from server.transport.auth.access import Access, Standing
from server.transport.auth.keys import Role
from server.transport.auth.table import ACCESS
from server.transport.rest.admin import AdminRoutes
from server.transport.rest.application import routed
from server.transport.rest.routes import Routes
from tests.server.doors import KEYS, channel_of, header, write_keys
from tests.server.kit import Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOLDERS = {Role.INFERENCE: "alice", Role.METRICS: "prom", Role.ADMIN: "root"}
ROUTES = sorted(name for name in ACCESS if not name.startswith("/"))
METHODS = sorted(name for name in ACCESS if name.startswith("/"))
HEALTH = ("/livez", "/readyz", "/health", "/ready")
OPEN = {f"{method} {path}" for path in HEALTH for method in ("GET", "HEAD")}
OPEN |= {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
UNREADABLE = b"\xff\xff\xff"  # nothing is done for a caller who may


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    path = write_keys(tmp_path_factory.mktemp("keys") / "keys.toml", *KEYS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(authorisation, "FAILURES_A_SECOND", 1 << 20)  # there are many here, however fast they come
        async with running(fake_model(), api_keys_file=path) as server:
            yield server


def others(access: Access) -> list[str]:
    """Keys that are good, but not for this."""
    return [] if isinstance(access, Standing) else [name for role, name in HOLDERS.items() if role is not access]


def someone(access: Access) -> str:
    return HOLDERS[access] if isinstance(access, Role) else "prom"


# ---------------------------------------------------------------------------------------------- the table


async def test_every_route_of_the_application_is_in_the_table_and_no_other(guarded: Harness) -> None:
    app = guarded.app
    routes = Routes(app.service, app.observer.exposition, app.state)
    found = set()
    for route in routed(routes, AdminRoutes(app.administration, app.service.limits)).routes:
        assert isinstance(route, Route), f"{route} cannot be enumerated"
        found |= {f"{method} {route.path}" for method in route.methods or ()}
    assert found == set(ROUTES)


async def test_every_method_of_the_server_is_in_the_table_and_no_other(guarded: Harness) -> None:
    found = set()
    async with channel_of(guarded, "alice") as channel:
        (answer,) = await reflect(channel, list_services="")
        for service in (one.name for one in answer.list_services_response.service):
            (answer,) = await reflect(channel, file_containing_symbol=service)
            for raw in answer.file_descriptor_response.file_descriptor_proto:
                file = FileDescriptorProto.FromString(raw)
                found |= {f"/{file.package}.{s.name}/{m.name}" for s in file.service for m in s.method}
    assert found == set(METHODS)


async def reflect(channel: grpc.aio.Channel, **asked: str) -> list[Any]:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(**asked)])
    return [answer async for answer in stub.ServerReflectionInfo(requests)]


async def test_what_is_open_is_health_and_nothing_else() -> None:
    assert {name for name, access in ACCESS.items() if access is Standing.OPEN} == OPEN


# ---------------------------------------------------------------------------------------------- REST


async def status(server: Harness, route: str, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """How a route answers a body that asks for nothing it could do."""
    method, _, path = route.partition(" ")
    async with server.session.request(method, server.url + path.split("{")[0], json=[], headers=headers) as response:
        endless = response.content_type == "text/event-stream"
        raw = b"" if endless else await response.read()
        assert all(key not in raw.decode() for key, _ in KEYS.values())
        json = response.content_type == "application/json" and raw != b""
        body: dict[str, Any] = await response.json() if json else {}
        if response.status == 401:
            assert response.headers["www-authenticate"] == "Bearer"
        return response.status, body.get("error", {})


@pytest.mark.parametrize("route", ROUTES)
async def test_a_route_is_closed_to_all_but_those_it_is_for(route: str, guarded: Harness) -> None:
    access = ACCESS[route]
    code, error = await status(guarded, route, {})
    if access is Standing.OPEN:
        assert code == 200
        return
    assert code == 401
    if not route.startswith("HEAD"):
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
    for name in others(access):
        code, error = await status(guarded, route, header(name))
        assert code == 403
        if not route.startswith("HEAD"):
            assert (error["type"], error["code"]) == ("permission_error", "permission_denied")
    code, _ = await status(guarded, route, header(someone(access)))
    assert code in (200, 400, 404), "nothing but the call itself is wrong"


@pytest.mark.parametrize(
    "path",
    [
        *("/nothing", "//v1/models", "/v1/models/", "/V1/models", "/v1/%6dodels/../x", "/v1/completions;a", "/docs"),
        *("/openapi.json", "/metrics/", "/admin/v1/drain/", "/admin", "/livez/", "/readyz/x"),
    ],
)
async def test_paths_that_lead_nowhere_are_told_to_key_holders_only(path: str, guarded: Harness) -> None:
    assert (await status(guarded, f"GET {path}", {}))[0] == 401
    assert (await status(guarded, f"GET {path}", header("alice")))[0] in (200, 404)


@pytest.mark.parametrize("route", ["DELETE /v1/models", "GET /v1/completions", "OPTIONS /metrics", "PUT /livez"])
async def test_methods_that_are_not_offered_too(route: str, guarded: Harness) -> None:
    assert (await status(guarded, route, {}))[0] == 401
    assert (await status(guarded, route, header("alice")))[0] == 405


@pytest.mark.parametrize(
    "value",
    [
        *("", "Bearer", "Bearer ", "Basic {}", "Bearer{}", "{}", "Bearer {}x", "Bearer  {}", "Bearer {} "),
        *("Bearer {},{}", "Bearer ' OR 1=1--", "Bearer " + "x" * 8000, "Bearer 🐻", "Bearer %00", "Bearer {}é"),
    ],
)
async def test_only_the_whole_key_is_the_key(value: str, guarded: Harness) -> None:
    key = KEYS["alice"][0]
    code, error = await status(guarded, "GET /v1/models", {"authorization": value.format(key, key)})
    assert (code, error["code"]) == (401, "invalid_api_key")
    for cut in (key[:-1], key[1:]):
        assert (await status(guarded, "GET /v1/models", {"authorization": f"Bearer {cut}"}))[0] == 401


@pytest.mark.parametrize("scheme", ["bearer", "BEARER", "bEaReR"])
async def test_the_scheme_is_read_in_any_case(scheme: str, guarded: Harness) -> None:
    key = KEYS["alice"][0]
    assert (await status(guarded, "GET /v1/models", {"authorization": f"{scheme} {key}"}))[0] == 200
    assert (await status(guarded, "GET /v1/models", {"authorization": f"{scheme} {key.swapcase()}"}))[0] == 401
    metadata = (("authorization", f"{scheme} {key}"),)
    async with channel_of(guarded, None) as channel:
        listed = await InferenceServiceStub(channel).ListModels(pb.ListModelsRequest(), metadata=metadata)
    assert [model.id for model in listed.models] == ["fake"]


async def test_two_headers_are_one_too_many(guarded: Harness) -> None:
    headers = [("authorization", f"Bearer {KEYS['alice'][0]}")] * 2
    async with guarded.session.get(f"{guarded.url}/v1/models", headers=headers) as response:
        assert response.status == 401


async def test_no_origin_is_let_in(guarded: Harness) -> None:
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    async with guarded.session.options(f"{guarded.url}/v1/completions", headers=headers) as response:
        assert response.status == 401 and "access-control-allow-origin" not in response.headers


# ---------------------------------------------------------------------------------------------- gRPC


async def code_of(server: Harness, method: str, name: str | None) -> grpc.StatusCode:
    async with channel_of(server, name) as channel:
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        try:
            await call(UNREADABLE, timeout=5)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.mark.parametrize("method", METHODS)
async def test_a_method_is_closed_to_all_but_those_it_is_for(method: str, guarded: Harness) -> None:
    access = ACCESS[method]
    refusals = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    if access is Standing.OPEN:
        assert await code_of(guarded, method, None) not in refusals
        return
    assert await code_of(guarded, method, None) is grpc.StatusCode.UNAUTHENTICATED
    for name in others(access):
        assert await code_of(guarded, method, name) is grpc.StatusCode.PERMISSION_DENIED
    assert await code_of(guarded, method, someone(access)) not in refusals


async def test_an_unknown_method_is_told_to_key_holders_only(guarded: Harness) -> None:
    for method in ("/dyno.inference.v1.InferenceService/Nonsense", "/a/b", "/grpc.health.v1.Health/Check2"):
        assert await code_of(guarded, method, None) is grpc.StatusCode.UNAUTHENTICATED
        assert await code_of(guarded, method, "alice") is grpc.StatusCode.UNIMPLEMENTED


async def test_a_refusal_has_details(guarded: Harness) -> None:
    async with channel_of(guarded, None) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health_pb2_grpc.HealthStub(channel).List(health_pb2.HealthListRequest())  # type: ignore[attr-defined]
    status = rpc_status.from_call(refused.value)
    info = error_details_pb2.ErrorInfo()
    assert status is not None and status.details[0].Unpack(info)
    assert (info.reason, info.domain) == ("INVALID_API_KEY", "dyno")


# ---------------------------------------------------------------------------------------------- both


async def test_refusals_are_counted_under_names_that_are_known(guarded: Harness) -> None:
    for labels in (
        {"transport": "rest", "method": "/v1/models", "code": "401"},
        {"transport": "rest", "method": "/metrics", "code": "403"},
        {"transport": "grpc", "method": "GetModel", "code": "UNAUTHENTICATED"},
        {"transport": "grpc", "method": "AdminService/Drain", "code": "PERMISSION_DENIED"},
    ):
        async with guarded.session.get(f"{guarded.url}/metrics", headers=header("prom")) as response:
            text = await response.text()
        wanted = {f'{name}="{value}"' for name, value in labels.items()}
        assert any(all(part in line for part in wanted) for line in text.splitlines()), labels
        assert not any(key in text for key, _ in KEYS.values())


async def test_a_method_that_the_table_forgot_is_nobodys(
    guarded: Harness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delitem(ACCESS, "GET /version")
    monkeypatch.delitem(ACCESS, "/dyno.inference.v1.InferenceService/Tokenize")
    for name in KEYS:
        assert (await status(guarded, "GET /version", header(name)))[0] == 403
        code = await code_of(guarded, "/dyno.inference.v1.InferenceService/Tokenize", name)
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_without_keys_others_may_not_administer() -> None:
    async with running(fake_model(), host="0.0.0.0", allow_unauthenticated=True) as server:
        assert (await status(server, "GET /v1/models", {}))[0] == 200
        assert (await status(server, "GET /metrics", {}))[0] == 200
        assert (await status(server, "GET /admin/v1/models", {}))[0] == 403
        assert (await status(server, "POST /admin/v1/drain", {}))[0] == 403
    async with running(fake_model()) as server:
        assert (await status(server, "GET /admin/v1/models", {}))[0] == 200


LOCAL = ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8000", "127.9.9.9:1", "[::1]", "[::1]:8000"]
FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "192.168.0.1",
    "0.0.0.0:8000",
    "[::]",
    "localhost.evil.example",
    "",
    "::1",
]
FOREIGN += ["127.0.0.1.nip.io", "localhost:80@evil.example", "localhost evil", "127.0.0.1:8000:1", "2130706433", "é"]


async def test_a_web_page_that_goes_by_another_name_does_nothing_on_loopback() -> None:
    async with running(fake_model()) as server:
        for host in LOCAL:
            assert (await status(server, "GET /admin/v1/models", {"host": host}))[0] == 200, host
        for host in FOREIGN:
            for route in ("GET /admin/v1/models", "POST /v1/completions", "GET /metrics", "GET /nothing"):
                code, error = await status(server, route, {"host": host})
                assert (code, error["code"]) == (403, "permission_denied"), host
                assert "localhost" in error["message"] and "API keys" in error["message"]
            assert (await status(server, "GET /livez", {"host": host}))[0] == 200, "it tells nothing"


async def test_a_server_with_keys_or_for_others_may_have_any_name(guarded: Harness) -> None:
    headers = header("root") | {"host": "dyno.example"}
    assert (await status(guarded, "GET /admin/v1/models", headers))[0] == 200
    async with running(fake_model(), host="0.0.0.0", allow_unauthenticated=True) as server:
        assert (await status(server, "GET /v1/models", {"host": "dense:8000"}))[0] == 200
