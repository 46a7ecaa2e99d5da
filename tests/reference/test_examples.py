"""The programs of docs/examples do what they say, against a server over fakes. Those that need a client which is not
installed here are tried by `make test-clients`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.reference.pages import DOCS
from tests.server.kit import Harness, fake_model, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXAMPLES = DOCS / "examples"
ELSEWHERE = {"openai_client.py", "openai_client.mjs", "grpc_client.mjs", "buf.sh"}  # tests/clients
REFUSED = "temperature must be between 0 and 2, got 3"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Harness]:
    async with running(fake_model("tales-moe")) as harness:
        yield harness


async def told(server: Harness, *command: str) -> str:
    """What the program writes; it must end well."""
    here = {"DYNO_URL": server.url, "DYNO_TARGET": server.target, "NO_PROXY": "127.0.0.1"}
    process = await asyncio.create_subprocess_exec(
        *command,
        env=os.environ | here,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, (out + err).decode()
    return out.decode()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_curl(server: Harness) -> None:
    said = await told(server, "sh", str(EXAMPLES / "rest.sh"))
    assert '"object":"list"' in said and '"token_logprobs":[null,' in said
    assert said.count("data: [DONE]") == 1 and '"usage":{"prompt_tokens":16' in said
    assert REFUSED in said


@pytest.mark.parametrize("program", ["rest.py", "grpc_client.py"])
async def test_python(server: Harness, program: str) -> None:
    said = await told(server, sys.executable, str(EXAMPLES / program))
    assert "first token after" in said and REFUSED in said
    assert ("tokens of each expert" if program == "rest.py" else "mean entropy") in said


async def test_the_python_client_as_its_page_has_it(server: Harness) -> None:
    text = (DOCS / "clients.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for target in (f"grpc://{server.target}", server.url):
        said = await told(server, sys.executable, "-c", program.replace("grpc://127.0.0.1:50051", target))
        assert re.search(r"\nfirst token after [0-9.e-]+ s\n$", said)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_node(server: Harness) -> None:
    said = await told(server, "node", str(EXAMPLES / "rest.mjs"))
    assert "first token after" in said and f"400 invalid_value temperature {REFUSED}" in said


@pytest.mark.parametrize("arguments", [(), ("localhost:1",), ("localhost:1", "show"), ("localhost:1", "call", "a/B")])
async def test_reflection_called_wrongly_tells_its_usage(arguments: tuple[str, ...]) -> None:
    command = (sys.executable, str(EXAMPLES / "reflect.py"), *arguments)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    _, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 1 and "reflect.py HOST:PORT list" in err.decode()
    assert "Traceback" not in err.decode()


@pytest.mark.skipif(shutil.which("grpcurl") is None, reason="grpcurl is not installed")
async def test_grpcurl(server: Harness) -> None:
    said = await told(server, "sh", str(EXAMPLES / "grpc.sh"))
    assert "dyno.inference.v1.InferenceService" in said and "SERVING" in said and '"completionTokens": 8' in said


async def test_reflection(server: Harness) -> None:
    reflect = (sys.executable, str(EXAMPLES / "reflect.py"), server.target)
    services = await told(server, *reflect, "list")
    assert {"dyno.inference.v1.InferenceService", "grpc.health.v1.Health"} <= set(services.split())
    message = await told(server, *reflect, "describe", "dyno.inference.v1.GenerateRequest")
    assert 'name: "guidance"' in message
    assert "StreamGenerate" in await told(server, *reflect, "describe", "dyno.inference.v1.InferenceService")
    health = await told(server, *reflect, "call", "grpc.health.v1.Health/Check", "{}")
    assert json.loads(health) == {"status": "SERVING"}
    asked = {"model": "tales-moe", "prompt": "abc", "sampling": {"maxTokens": 3}}
    inference = "dyno.inference.v1.InferenceService"
    whole = json.loads(await told(server, *reflect, "call", f"{inference}/Generate", json.dumps(asked)))
    stream = await told(server, *reflect, "call", f"{inference}/StreamGenerate", json.dumps({"request": asked}))
    pieces = [json.loads(line) for line in stream.splitlines()]
    # What is there together may come as one message.
    assert sum(len(piece.get("tokens", ())) for piece in pieces) == 3
    assert [number for number, piece in enumerate(pieces, 1) if "finished" in piece] == [len(pieces)]
    assert "".join(piece.get("text", "") for piece in pieces) == whole["choices"][0]["text"]


async def test_no_example_is_left_out() -> None:
    tried = {"rest.sh", "rest.py", "grpc_client.py", "rest.mjs", "grpc.sh", "reflect.py"}
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == tried | ELSEWHERE
