"""What the house shows to the outside is what it says it shows: files, names, generated code, size of its rooms."""

from __future__ import annotations

import ast
import functools
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from client.cli import app
from dyno.inference.v1 import inference_pb2

ROOT = Path(__file__).parent.parent
CONTRACTS = [Path("dyno/inference/v1/inference.proto"), Path("dyno/admin/v1/admin.proto")]
LONGEST_FUNCTION = 60
LONGEST_FILE = {"model": 300, "server": 300, "client": 300, "tests": 400}  # tests are lists, and read like lists

# The rooms that scripts, documents and people rely on finding where the plan puts them.
ROOMS = {
    "model": """
        config.py transformer.py attention.py position.py feedforward.py moe.py norm.py cache.py paged.py reference
        parameters.py operations.py footprint.py roofline.py routing.py sampling.py tokenizer.py training.py __main__.py
        presets kernels checkpoint zoo
    """,
    "server/engine": "request.py blocks.py scheduler.py batch.py runner.py engine.py stats.py loop.py",
    "server": """
        limits.py errors.py service.py metrics transport/rest transport/rpc config.py app.py __main__.py
    """,
    "client": "api.py rest.py rpc.py load compare launch.py cli.py",
    "tests": "fakes.py model server client deploy bench",
    "deploy": "Dockerfile prometheus grafana kubernetes",
    ".": """
        proto/dyno/inference/v1/inference.proto pyproject.toml constraints.txt docker-compose.yml Makefile
        README.md CHANGELOG.md CONTRIBUTING.md LICENSE .ci/run docs/LOG.md
    """,
}

FORBIDDEN_FILES = {"grpc.py", "http.py", "types.py", "logging.py", "utils.py", "helpers.py"}
FORBIDDEN_NAME = re.compile(r"Manager|Helper|Utils?$")

RPCS = {"Generate", "StreamGenerate", "GenerateMany", "Score", "WatchRouting", "ListModels", "GetModel"} | {
    "Tokenize",
    "Detokenize",
}
COMMANDS = {"serve", "generate", "chat", "models", "inspect", "watch", "load", "compare", "train", "demo"}


def sources() -> Iterator[Path]:
    """Every Python file that a person wrote."""
    return (path for tower in LONGEST_FILE for path in sorted((ROOT / tower).rglob("*.py")))


@functools.cache
def trees() -> tuple[tuple[Path, ast.Module], ...]:
    """The sources, parsed."""
    return tuple((path, ast.parse(path.read_text())) for path in sources())


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("floor", ROOMS)
def test_the_rooms_are_where_the_plan_puts_them(floor: str) -> None:
    assert [room for room in ROOMS[floor].split() if not (ROOT / floor / room).exists()] == []


def test_no_file_shadows_a_library_or_is_a_drawer() -> None:
    assert [name(path) for path in sources() if path.name in FORBIDDEN_FILES] == []


def test_no_class_is_called_by_what_it_is_not() -> None:
    classes = [
        (name(path), node.name)
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and FORBIDDEN_NAME.search(node.name)
    ]
    assert classes == []


def test_rooms_of_tests_are_packages_and_the_folder_of_protocols_is_not() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    assert [name(folder) for folder in folders if not (folder / "__init__.py").exists()] == []
    assert not (ROOT / "proto" / "__init__.py").exists()


@pytest.mark.parametrize("tower", LONGEST_FILE)
def test_every_file_is_one_reading_long(tower: str) -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in sorted((ROOT / tower).rglob("*.py"))}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE[tower]} == {}


def test_every_function_is_one_reading_long() -> None:
    lengths = {
        f"{name(path)}:{node.name}": (node.end_lineno or node.lineno) - node.lineno + 1
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {function: length for function, length in lengths.items() if length > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_generated_code_is_up_to_date(contract: Path, tmp_path: Path) -> None:
    plugins = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    outputs = [f"--{kind}_out={tmp_path}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", *outputs, str(contract)]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": plugins}, capture_output=True, check=True)
    fresh = {path.name: path.read_text() for path in (tmp_path / contract.parent).iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "proto" / contract.parent).glob("*_pb2*.py*")}
    assert fresh == kept, "run `make proto`"


def test_the_contract_offers_these_calls() -> None:
    service = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]
    assert service.full_name == "dyno.inference.v1.InferenceService"
    assert {method.name for method in service.methods} == RPCS


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_everything_in_the_contract_is_commented(contract: Path) -> None:
    text = (ROOT / "proto" / contract).read_text()
    lines = [line.strip() for line in text.splitlines()]
    opening = re.compile(r"(message|enum|service|rpc) \w+")
    spoken = (line for above, line in pairwise(lines) if above.startswith("//") or "//" in line)
    bare = {line for line in lines if opening.match(line)} - set(spoken)
    assert bare == set()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_dyno_command_offers_this_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "execve", _leave)
    answer = CliRunner().invoke(app, [command, "--help"])
    assert answer.exit_code == 0, answer.output


def _leave(*_: object) -> NoReturn:
    """In place of os.execve; tests/client/test_cli.py runs the help of other programs."""
    raise SystemExit(0)


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_what_a_page_tells_people_to_make_can_be_made(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = (ROOT / page).read_text()
    assert set(re.findall(r"(?:^|`|\$ )make ([a-z-]+)", text, re.MULTILINE)) - targets == set()


def test_a_block_of_code_begins_and_ends_on_lines_of_its_own() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    fences = [(name(page), line) for page in pages for line in page.read_text().splitlines() if "```" in line]
    assert [fence for fence in fences if not re.fullmatch(r" *```\w*", fence[1])] == []


def test_the_embedded_models_are_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "model" / "zoo").rglob("*.safetensors")) < 40e6


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert importlib.metadata.version("dyno") == project["version"]
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_dependency_is_pinned() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = settings["project"]
    asked = [
        *project["dependencies"],
        *project["optional-dependencies"]["server"],
        *settings["dependency-groups"]["dev"],
    ]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    names = {re.split(r"[<>=\[; ]", requirement)[0].lower().replace("_", "-") for requirement in asked}
    assert names - pinned == {"triton"}, "all but what PyTorch for CUDA brings in a version of its own"


def test_nothing_pinned_belongs_to_one_machine() -> None:
    assert re.findall(r"^(?:nvidia|cuda|triton).*|^.*\+.*|^.*@ .*", (ROOT / "constraints.txt").read_text(), re.M) == []
