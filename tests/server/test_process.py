"""A server process from its first line to its exit code: start, readiness, drain, signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dyno.inference.v1 import inference_pb2 as pb
from dyno.inference.v1.inference_pb2_grpc import InferenceServiceStub
from tests.server.doors import Authority

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
LONG = {"model": "slow", "prompt": "abc", "max_tokens": 40, "ignore_eos": True, "stream": True}


@dataclass
class Server:
    process: asyncio.subprocess.Process
    url: str
    target: str
    session: aiohttp.ClientSession

    async def status(self, path: str) -> int:
        async with self.session.get(self.url + path) as response:
            return response.status

    async def ready(self) -> None:
        async with asyncio.timeout(10):
            while await self.status("/readyz") != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    async def exit_code(self) -> int:
        return await asyncio.wait_for(self.process.wait(), 10)

    async def sse(self, **more: Any) -> bytes:
        """A streamed completion, as it came."""
        async with self.session.post(f"{self.url}/v1/completions", json=LONG | more) as response:
            return await response.read()


async def launch(*flags: str) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "tests.server.entry", "--port", "0", "--grpc-port", "0", *flags]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)


@asynccontextmanager
async def serving(*flags: str) -> AsyncIterator[Server]:
    """A server process that listens; it is killed at the end if it still runs."""
    process = await launch(*flags)
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        found = re.fullmatch(r"listening http=(\S+) grpc=(\S+)\n", line)
        assert found, line
        async with aiohttp.ClientSession() as session:
            yield Server(process, f"http://{found[1]}", found[2], session)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_drain_lets_what_is_in_flight_finish() -> None:
    async with serving("--model", "slow") as server, grpc.aio.insecure_channel(server.target) as channel:
        await server.ready()
        stub, health = InferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel)
        sampling = pb.SamplingParameters(max_tokens=40, ignore_eos=True)
        request = pb.GenerateRequest(model="slow", prompt="abc", sampling=sampling)
        messages = aiter(stub.StreamGenerate(pb.StreamGenerateRequest(request=request)))
        watch = health.Watch(health_pb2.HealthCheckRequest())  # must not hold up the end
        streams = [asyncio.create_task(server.sse()) for _ in range(4)]
        await anext(messages)
        server.signal()
        await asyncio.sleep(0.1)
        assert await server.status("/readyz") == 503
        assert await server.status("/livez") == 200
        async with server.session.post(f"{server.url}/v1/completions", json=LONG) as response:
            assert response.status == 503 and response.headers["retry-after"] == "1"
            assert response.headers["connection"] == "close"
            assert (await response.json())["error"]["code"] == "draining"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Generate(request)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        for raw in await asyncio.gather(*streams):
            assert raw.endswith(b"data: [DONE]\n\n") and raw.count(b"data: ") == 41
        last = [message async for message in messages][-1]
        assert last.finished.usage.completion_tokens == 40
        assert await server.exit_code() == 0
        watch.cancel()


async def test_a_drain_that_takes_too_long_ends_streams_as_failed() -> None:
    drain = ("--drain-seconds", "0.3")
    async with serving("--model", "slow", *drain) as server, grpc.aio.insecure_channel(server.target) as channel:
        await server.ready()
        sampling = pb.SamplingParameters(max_tokens=200, ignore_eos=True)
        request = pb.GenerateRequest(model="slow", prompt="abc", sampling=sampling)
        messages = aiter(InferenceServiceStub(channel).StreamGenerate(pb.StreamGenerateRequest(request=request)))
        await anext(messages)
        stream = asyncio.create_task(server.sse(max_tokens=200))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        server.signal()
        raw = await stream
        assert b"[DONE]" not in raw
        last = json.loads(raw.rstrip().rsplit(b"data: ", 1)[1])
        assert last["error"]["code"] == "draining"
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for _ in messages:
                pass
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await server.exit_code() == 0
        assert time.monotonic() - began < 0.3 + 2


async def test_a_log_that_nobody_reads_any_more_ends_nothing() -> None:
    async with serving("--model", "slow") as server:
        await server.ready()
        nobody_reads(server.process, 2)
        stream = asyncio.create_task(server.sse())
        await asyncio.sleep(0.1)
        server.signal()
        raw = await stream
        assert raw.endswith(b"data: [DONE]\n\n") and raw.count(b"data: ") == 41
        assert await server.exit_code() == 0


async def test_a_second_signal_ends_it_fast() -> None:
    async with serving("--model", "slow") as server:
        await server.ready()
        stream = asyncio.create_task(server.sse(max_tokens=200))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        server.signal(signal.SIGINT)
        await asyncio.sleep(0.1)
        server.signal(signal.SIGTERM)
        await server.exit_code()
        assert time.monotonic() - began < 2
        assert b"[DONE]" not in await stream


async def test_an_idle_server_ends_at_once_and_its_ports_are_free() -> None:
    async with serving("--model", "fake") as server:
        await server.ready()
        began = time.monotonic()
        server.signal()
        assert await server.exit_code() == 0
        assert time.monotonic() - began < 1.5
        port = server.url.rpartition(":")[2]
    process = await launch("--model", "fake", "--port", port)
    assert process.stdout is not None
    assert f":{port} " in (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    process.kill()
    await process.communicate()


async def test_without_its_engine_it_leaves_by_itself_and_says_so() -> None:
    async with serving("--model", "mortal") as server:
        await server.ready()
        assert b"engine_down" in await server.sse(model="mortal", prompt="poison")
        code, told = await complaint(server.process)
    lines = [json.loads(line) for line in told.splitlines()]
    assert code == 1 and [line["event"] for line in lines][-2:] == ["drained", "stopped"], told
    (why,) = [line for line in lines if line["event"] == "leaving: the engine thread is gone"]
    assert why["level"] == "critical"


async def test_it_answers_while_it_loads_and_ends_when_told_to() -> None:
    async def told_to_end() -> int:
        async with serving("--model", "late") as server:
            server.signal()
            return await server.exit_code()

    ending = asyncio.create_task(told_to_end())
    async with serving("--model", "late") as server:
        assert await server.status("/livez") == 200
        async with server.session.get(f"{server.url}/readyz") as response:
            assert response.status == 503 and (await response.json())["error"]["code"] == "loading"
        async with server.session.post(f"{server.url}/v1/completions", json={"prompt": "x"}) as response:
            assert response.status == 503 and "retry-after" in response.headers
        await server.ready()
    assert await ending == 0


async def complaint(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    _, stderr = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, stderr.decode()


async def test_a_model_that_cannot_be_loaded_is_one_clear_line() -> None:
    assert await complaint(await launch("--model", "bad")) == (1, "dyno serve: model bad: the file ends too early\n")


async def begin(*flags: str, stdout: Any = asyncio.subprocess.PIPE, **environment: str) -> asyncio.subprocess.Process:
    """`python -m server` itself with these flags."""
    command, env = [sys.executable, "-m", "server", *flags], {**os.environ, **environment}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=stdout, stderr=pipe, env=env)


async def real(*flags: str, **environment: str) -> tuple[int | None, str]:
    """How `python -m server` itself ends with these flags, before any model is looked for."""
    return await complaint(await begin(*flags, **environment))


def nobody_reads(process: asyncio.subprocess.Process, stream: int) -> None:
    """Close our end of what it writes there."""
    pipe = process._transport.get_pipe_transport(stream)  # type: ignore[attr-defined]
    assert pipe is not None
    pipe.close()


async def test_what_cannot_be_said_does_not_change_the_exit_code() -> None:
    process = await begin("--model", "x", "--port", "x")
    nobody_reads(process, 2)
    with Path("/dev/full").open("wb") as full:  # noqa: ASYNC230
        code, words = await complaint(await begin("--model", "x", "--port", "0", "--grpc-port", "0", stdout=full))
    assert code == 1 and words.startswith("dyno serve: model 'x': no folder") and words.count("\n") == 1, words
    assert await asyncio.wait_for(process.wait(), 20) == 2
    await process.communicate()


async def test_a_port_in_use_is_one_clear_line() -> None:
    async with serving("--model", "fake") as server:
        ports = [server.url.rpartition(":")[2], server.target.rpartition(":")[2]]
        rest, rpc = await asyncio.gather(
            real("--model", "x", "--port", ports[0], "--grpc-port", "0"),
            real("--model", "x", "--port", "0", "--grpc-port", ports[1]),
        )
        for (code, words), transport, port in zip((rest, rpc), ("REST", "gRPC"), ports, strict=True):
            assert code == 1
            start = f"dyno serve: cannot listen on 127.0.0.1 port {port} for {transport}: in use"
            assert words.startswith(start) and words.count("\n") == 1, words


async def test_wrong_settings_are_one_clear_line() -> None:
    typed, (code, words) = await asyncio.gather(
        real("--model", "x", "--port", "x"), real(DYNO_MODEL="x", DYNO_HOST="0.0.0.0")
    )
    assert typed == (
        2,
        "dyno serve: port: Input should be a valid integer, unable to parse string as an integer, got 'x'\n",
    )
    assert code == 2 and words.count("\n") == 1 and "--allow-unauthenticated" in words


async def test_an_operator_ends_it_as_a_signal_does() -> None:
    async with serving("--model", "slow") as server:
        await server.ready()
        stream = asyncio.create_task(server.sse())
        await asyncio.sleep(0.1)
        async with server.session.post(f"{server.url}/admin/v1/drain", json={}) as response:
            assert response.status == 200 and (await response.json()) == {"requests": 1}
        assert await server.status("/readyz") == 503
        assert (await stream).endswith(b"data: [DONE]\n\n")
        assert await server.exit_code() == 0


@pytest.mark.parametrize(
    ("text", "mode", "words"),
    [
        (None, 0o600, "No such file or directory"),
        ("", 0o600, "there is no key"),
        ('[[keys]]\nname = "a"\nkey = "0123456789abcdef"\nroles = ["admin"]', 0o644, "everybody may read it"),
        ('[[keys]]\nname = "a"\nkey = "0123456789abcdef', 0o600, "not TOML"),
    ],
    ids=["missing", "empty", "open", "broken"],
)
async def test_a_key_file_that_cannot_be_used_is_one_clear_line(
    text: str | None, mode: int, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.toml"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    code, told = await real("--model", "x", "--host", "0.0.0.0", "--port", "0", "--api-keys-file", str(path))
    assert code == 1 and told.startswith(f"dyno serve: key file {path}: ") and words in told
    assert told.count("\n") == 1 and "0123456789abcdef" not in told


async def test_certificates_that_cannot_be_used_are_one_clear_line(tmp_path: Path) -> None:
    flags = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    code, told = await real("--model", "x", "--port", "0", "--grpc-port", "0", *flags)
    assert code == 1 and told == f"dyno serve: certificate file {tmp_path / 'cert.pem'}: No such file or directory\n"


async def test_the_log_is_records_and_nothing_else() -> None:
    async with serving("--model", "fake") as server, grpc.aio.insecure_channel(server.target) as channel:
        await server.ready()
        with pytest.raises(grpc.aio.AioRpcError):  # the library has a line of its own to say about it
            await InferenceServiceStub(channel).Generate(pb.GenerateRequest(), compression=grpc.Compression.Gzip)
        server.signal()
        code, told = await complaint(server.process)
    assert code == 0 and all(isinstance(json.loads(line), dict) for line in told.splitlines()), told


async def test_handshakes_that_fail_write_nothing(tmp_path: Path) -> None:
    own = Authority(tmp_path).issue("server")
    process = await launch("--model", "fake", "--tls-cert", str(own.cert), "--tls-key", str(own.key))
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
    for port in re.findall(r":(\d+)", line):
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
            writer.write(b"\x16\x03\x01\x00\x04nope")
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), 5)
            writer.close()
    process.send_signal(signal.SIGTERM)
    code, told = await complaint(process)
    assert code == 0 and "ssl" not in told.lower() and "handshake" not in told.lower(), told
