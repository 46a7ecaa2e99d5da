"""One server process for all clients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.launch import ServerProcess
from tests.clients.kit import ROOT, Served

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    work = tmp_path_factory.mktemp("clients")
    chat = _talking(work / "chat")
    flags = ["--model", "tales-dense", "--model", "tales-moe", "--model", f"chat={chat}", "--cache-tokens", "16384"]
    with ServerProcess(flags) as server:
        yield Served(server.http, server.grpc.removeprefix("grpc://"), chat, work)


def _talking(folder: Path) -> Path:
    """tales-dense with a chat template, in a folder of its own."""
    shutil.copytree(ROOT / "model" / "zoo" / "tales-dense", folder)
    settings = folder / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATE}))
    return folder
