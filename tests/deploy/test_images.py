"""The Dockerfile builds from what is here, runs as nobody in particular, and answers for its health."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from pathlib import Path

import pytest

from tests.deploy import artifacts
from tests.deploy.artifacts import ROOT

IMAGES = ("client", "server")


def copied() -> list[str]:
    """Every path that the images take from this repository."""
    lines = (line for stage in artifacts.stages().values() for line in stage.all("COPY"))
    return [source for line in lines if not line.startswith("--from") for source in line.split()[:-1]]


@pytest.mark.parametrize("source", copied())
def test_what_is_copied_exists_and_is_not_ignored(source: str) -> None:
    assert (ROOT / source).exists()
    assert f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_every_package_of_the_wheel_is_copied() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {Path(package).parts[0] for package in packages} <= set(copied())
    assert {settings["project"]["readme"], "LICENSE", "pyproject.toml", "constraints.txt"} <= set(copied())


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_runs_as_an_ordinary_user_with_a_read_only_root(image: str) -> None:
    stages = artifacts.stages()
    stage = stages[image]
    assert stage.last("USER") == "10001:10001"
    assert "--uid 10001" in stages["base"].last("RUN")
    assert stage.base == "base"
    assert stages["base"].environment()["HOME"] == stage.last("WORKDIR") == "/tmp"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_starts_without_a_shell(image: str) -> None:
    stage = artifacts.stages()[image]
    assert artifacts.exec_form(stage.last("ENTRYPOINT"))
    assert artifacts.exec_form(stage.last("CMD"))


def test_the_base_image_has_a_tag_and_room_for_a_digest() -> None:
    assert artifacts.stages()["base"].base == "python:${PYTHON_TAG}${PYTHON_DIGEST}"
    assert "ARG PYTHON_TAG=3.11-slim" in artifacts.DOCKERFILE.read_text()


def test_every_installation_is_constrained() -> None:
    runs = [line for stage in artifacts.stages().values() for line in stage.all("RUN")]
    installs = [command for run in runs for command in run.split("&&") if "pip install" in command]
    assert installs
    assert [command for command in installs if "-c constraints.txt" not in command and "--no-deps" not in command] == []


def test_the_client_image_has_no_torch() -> None:
    stages = artifacts.stages()
    lineage = [line for name in ("build", "wheel", "build-client", "client") for line in stages[name].all("RUN")]
    assert [line for line in lineage if "torch" in line or "-r server.txt" in line] == []
    base = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [name for name in base if name.startswith(("torch", "fastapi", "tokenizers"))] == []


def test_the_server_image_starts_the_server() -> None:
    assert artifacts.exec_form(artifacts.stages()["server"].last("ENTRYPOINT")) == ["python", "-m", "server"]
    assert importlib.util.find_spec("server.__main__")


def test_the_client_image_starts_the_installed_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert artifacts.exec_form(artifacts.stages()["client"].last("ENTRYPOINT")) == list(scripts)


def test_the_health_check_is_a_program_that_asks_for_readiness() -> None:
    _, _, command = artifacts.stages()["server"].last("HEALTHCHECK").partition("CMD")
    interpreter, flag, program = artifacts.exec_form(command.strip())
    assert (interpreter, flag) == ("python", "-c")
    ast.parse(program)
    assert "/readyz" in program
