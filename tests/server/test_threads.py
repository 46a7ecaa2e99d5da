"""The threads of the gRPC library do not take the core of whoever wakes them, on the server's and the client's side."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from client.access import Access
from client.rpc import RpcClient
from client.threads import patient_threads as of_the_client
from server.process import patient_threads as of_the_server
from tests.server.test_process import serving

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's policies")

Patience = Callable[[], AbstractContextManager[None]]


def policy_of_a_thread() -> int:
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return told[0]


def policies(pid: int) -> dict[int, int]:
    """By thread."""
    return {int(task.name): os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}


@pytest.mark.parametrize("patient", [of_the_server, of_the_client], ids=["server", "client"])
def test_only_threads_started_inside_are_patient(patient: Patience) -> None:
    with pytest.raises(KeyError), patient():
        assert policy_of_a_thread() == os.SCHED_BATCH
        raise KeyError
    assert os.sched_getscheduler(0) == os.SCHED_OTHER
    assert policy_of_a_thread() == os.SCHED_OTHER


@pytest.mark.parametrize("patient", [of_the_server, of_the_client], ids=["server", "client"])
def test_what_others_decided_stays(patient: Patience) -> None:
    told: list[int] = []

    def run() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with patient():
            told.append(policy_of_a_thread())
        told.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert told == [os.SCHED_IDLE, os.SCHED_IDLE]


@pytest.mark.parametrize("patient", [of_the_server, of_the_client], ids=["server", "client"])
def test_a_system_that_does_not_let_us_is_no_failure(patient: Patience, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    with patient():
        assert policy_of_a_thread() == os.SCHED_OTHER


@pytest.mark.asyncio
async def test_of_a_server_only_the_library_is_patient() -> None:
    async with serving("--model", "fake") as server:
        await server.ready()
        async with RpcClient(f"grpc://{server.target}", Access()) as client:
            assert await client.models()
        found = policies(server.process.pid)
        assert found.pop(server.process.pid) == os.SCHED_OTHER
        assert set(found.values()) == {os.SCHED_OTHER, os.SCHED_BATCH}, "the engine's thread, and the library's"
