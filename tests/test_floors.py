"""The house keeps its floors (the import contracts of pyproject.toml), and every contract is able to break."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TOWERS = ("model", "server", "client")

# One import per contract that it has to refuse: where it is written, and what it says.
CRIMES = {
    "floors": ("server/engine/scheduler.py", "import server.service"),
    "model": ("model/transformer.py", "import server.engine.step"),
    "core": ("server/engine/engine.py", "import prometheus_client"),
    "transports": ("server/transport/rest/routes.py", "import server.transport.rpc"),
    "metrics": ("server/app.py", "import prometheus_client"),
    "tracing": ("server/app.py", "import opentelemetry"),
    "comparison": ("client/compare/judge/findings.py", "import client.compare.tell.report"),
    "statistics": ("client/compare/judge/paired.py", "import client.compare.plan.experiment"),
    "http": ("client/compare/measure/accounts.py", "import aiohttp"),
    "contract": ("server/service.py", "import dyno.inference.v1.inference_pb2"),
    "client": ("client/cli.py", "import model.config"),
    "tensors": ("server/service.py", "import torch"),
    "torch": ("server/engine/request.py", "import torch"),
}


def contracts() -> list[str]:
    """Ids of the contracts in force."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [contract["id"] for contract in settings["tool"]["importlinter"]["contracts"]]


def lint(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """import-linter's verdict on the packages in a folder."""
    program = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command()"
    command = [sys.executable, "-c", program, "--no-logo", "--no-cache", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """A house with every module of ours, all of them empty."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for base in (*(ROOT / tower for tower in TOWERS), ROOT / "proto"):
        for source in base.rglob("*.py"):
            room = tmp_path / source.relative_to(ROOT / "proto" if base.name == "proto" else ROOT)
            room.parent.mkdir(parents=True, exist_ok=True)
            room.touch()
    return tmp_path


def test_the_house_keeps_its_floors() -> None:
    verdict = lint(ROOT)
    assert verdict.returncode == 0, verdict.stdout + verdict.stderr


def test_every_contract_has_its_crime() -> None:
    assert sorted(contracts()) == sorted(CRIMES)


def test_an_empty_house_breaks_no_contract(skeleton: Path) -> None:
    innocent = lint(skeleton)
    assert innocent.returncode == 0, innocent.stdout + innocent.stderr


@pytest.mark.parametrize("contract", CRIMES)
def test_a_contract_breaks_on_its_crime(contract: str, skeleton: Path) -> None:
    room, crime = CRIMES[contract]
    assert (skeleton / room).is_file(), f"{room} is not a room of ours any more"
    (skeleton / room).write_text(crime + "\n")
    guilty = lint(skeleton, "--contract", contract)
    assert guilty.returncode == 1, guilty.stdout + guilty.stderr
    assert "BROKEN" in guilty.stdout
