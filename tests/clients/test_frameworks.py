"""Libraries that people write programs with."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.clients.kit import ENVIRONMENTS, EXAMPLES, PROGRAMS, Served, node, program, python, run

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

REFUSED = "temperature must be between 0 and 2, got 3"


@pytest.mark.parametrize(
    ("name", "module"), [("openai", "openai"), ("langchain", "langchain_openai"), ("litellm", "litellm")]
)
def test_python(served: Served, name: str, module: str) -> None:
    told = run(served, python("python", module), str(PROGRAMS / f"with_{name}.py"))
    assert ("together holds" if name == "openai" else f"{name} holds") in told


def test_the_example_with_openai_s_client(served: Served) -> None:
    told = run(served, python("python", "openai"), str(EXAMPLES / "openai_client.py"))
    assert "first token after" in told and "8 tokens" in told


def beside_packages(served: Served, program: Path) -> str:
    """A copy of a program for Node beside the packages it needs: Node looks for them from where the program is."""
    packages = served.work / "node_modules"
    if not packages.exists():
        packages.symlink_to(ENVIRONMENTS / "node" / "node_modules")
    return shutil.copy(program, served.work)


def test_openai_s_client_for_node(served: Served) -> None:
    found = node("openai")
    told = run(served, found, beside_packages(served, EXAMPLES / "openai_client.mjs"))
    assert "8 tokens" in told and f"400 invalid_value temperature 400 {REFUSED}" in told


def test_grpc_js(served: Served) -> None:
    found = node("@grpc/grpc-js", "@grpc/proto-loader")
    told = run(served, found, beside_packages(served, EXAMPLES / "grpc_client.mjs"))
    assert "first token after" in told
    assert f"INVALID_ARGUMENT {REFUSED}" in told and "1 of google.rpc.Status" in told


def test_grpc_js_leaves_and_is_late(served: Served) -> None:
    found = node("@grpc/grpc-js", "@grpc/proto-loader")
    told = run(served, found, beside_packages(served, PROGRAMS / "grpc_js.mjs"))
    assert told.count("\n") == 4 and "nobody is not served" in told


def test_buf_curl_learns_the_contract_by_reflection(served: Served) -> None:
    folder = str(program("node", "buf")).rpartition("/")[0]
    told = run(served, "sh", str(EXAMPLES / "buf.sh"), PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")
    assert '"status": "SERVING"' in told and told.count("FINISH_REASON_LENGTH") == 2
