"""One way to administer, two transports that carry it: every case of a test goes over both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from dyno.admin.v1 import admin_pb2 as pb
from dyno.admin.v1.admin_pb2_grpc import AdminServiceStub
from tests.server.callers import Caller, Refused, RestCaller, RpcCaller, refused, rpc_refused
from tests.server.kit import Harness, fake_model, running

LONG = {"model": "slow", "prompt": "abc", "max_tokens": 100, "ignore_eos": True}


class Operator(Protocol):
    """Answers have the names of REST on both transports; what is refused raises Refused."""

    async def models(self) -> dict[str, dict[str, Any]]: ...
    async def load(self, model: str, **wish: Any) -> dict[str, Any]: ...
    async def unload(self, model: str, **wish: Any) -> int: ...
    async def requests(self) -> list[dict[str, Any]]: ...
    async def cancel(self, id: str) -> None: ...
    async def reset(self, model: str = "") -> list[str]: ...
    async def drain(self) -> int: ...


class RestOperator:
    def __init__(self, server: Harness) -> None:
        self._server = server

    async def models(self) -> dict[str, dict[str, Any]]:
        return {model["name"]: model for model in (await self._get("/models"))["models"]}

    async def load(self, model: str, **wish: Any) -> dict[str, Any]:
        loaded: dict[str, Any] = (await self._post("/models/load", {"model": model, **wish}))["model"]
        return loaded

    async def unload(self, model: str, **wish: Any) -> int:
        return int((await self._post("/models/unload", {"model": model, **wish}))["ended_requests"])

    async def requests(self) -> list[dict[str, Any]]:
        return list((await self._get("/requests"))["requests"])

    async def cancel(self, id: str) -> None:
        assert await self._post("/requests/cancel", {"id": id}) == {}

    async def reset(self, model: str = "") -> list[str]:
        return list((await self._post("/prefix-cache/reset", {"model": model} if model else {}))["models"])

    async def drain(self) -> int:
        return int((await self._post("/drain", {}))["requests"])

    async def _get(self, path: str) -> dict[str, Any]:
        return await self._ask("GET", path, None)

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return await self._ask("POST", path, body)

    async def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        url = f"{self._server.url}/admin/v1{path}"
        async with self._server.session.request(method, url, json=body) as response:
            answer: dict[str, Any] = await response.json()
            if response.status >= 300:
                raise refused(response.status, answer, response.headers)
            return answer


class RpcOperator:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = AdminServiceStub(channel)

    async def models(self) -> dict[str, dict[str, Any]]:
        answer = await self._ask(self._stub.ListModels, pb.ListModelsRequest())
        return {model.name: _model(model) for model in answer.models}

    async def load(self, model: str, **wish: Any) -> dict[str, Any]:
        return _model((await self._ask(self._stub.LoadModel, pb.LoadModelRequest(model=model, **wish))).model)

    async def unload(self, model: str, **wish: Any) -> int:
        answer = await self._ask(self._stub.UnloadModel, pb.UnloadModelRequest(model=model, **wish))
        return int(answer.ended_requests)

    async def requests(self) -> list[dict[str, Any]]:
        answer = await self._ask(self._stub.ListRequests, pb.ListRequestsRequest())
        return [_request(request) for request in answer.requests]

    async def cancel(self, id: str) -> None:
        await self._ask(self._stub.CancelRequest, pb.CancelRequestRequest(id=id))

    async def reset(self, model: str = "") -> list[str]:
        answer = await self._ask(self._stub.ResetPrefixCache, pb.ResetPrefixCacheRequest(model=model))
        return list(answer.models)

    async def drain(self) -> int:
        return int((await self._ask(self._stub.Drain, pb.DrainRequest())).requests)

    @staticmethod
    async def _ask(method: Any, request: Any) -> Any:
        try:
            return await method(request)
        except grpc.aio.AioRpcError as error:
            raise rpc_refused(error, begun=False) from None


def _model(model: pb.Model) -> dict[str, Any]:
    state = pb.ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower()
    return {
        "name": model.name,
        "state": state,
        "error": model.error or None,
        "running": model.running,
        "waiting": model.waiting,
    }


def _request(request: pb.Request) -> dict[str, Any]:
    told = MessageToDict(request, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    for choice in told["choices"]:
        choice["phase"] = choice["phase"].removeprefix("PHASE_").lower()
    return told


@contextlib.asynccontextmanager
async def administered(transport: str, *models: Any, **more: Any) -> AsyncIterator[tuple[Harness, Operator, Caller]]:
    """A server with `fake` and `slow`, its operator and a caller, both over this transport."""
    models = models or (fake_model("fake"), fake_model("slow", sleep=0.01))
    async with running(*models, **more) as server, grpc.aio.insecure_channel(server.target) as channel:
        if transport == "rest":
            yield server, RestOperator(server), RestCaller(server)
        else:
            yield server, RpcOperator(channel), RpcCaller(channel)


async def refusal(work: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await work
    return caught.value
