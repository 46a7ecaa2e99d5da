"""Where clients are installed, and how they are run against a server of ours.

`make test-clients` makes the environments; DYNO_CLIENTS names another folder with the same. Clients are programs of
their own in environments of their own: nothing of them is imported here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
EXAMPLES = ROOT / "docs" / "examples"
ENVIRONMENTS = Path(os.environ.get("DYNO_CLIENTS", ROOT / "build" / "clients"))
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "NO_PROXY": "127.0.0.1",
    "no_proxy": "127.0.0.1",
    "DO_NOT_TRACK": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
}


@dataclass(frozen=True, slots=True)
class Served:
    """A server with tales-dense, tales-moe and chat, which is tales-dense with a template."""

    url: str
    target: str
    chat: Path  # the folder of the model that talks
    work: Path  # for what clients write


def program(environment: str, name: str) -> str:
    """A program of one of the environments; skips the test where it is not installed."""
    for folder in ("bin", "node_modules/.bin"):
        found = ENVIRONMENTS / environment / folder / name
        if found.exists():
            return str(found)
    pytest.skip(f"{name} is not installed in {ENVIRONMENTS / environment}: make test-clients")


def node(*packages: str) -> str:
    """Node itself, where these packages are installed."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    for package in packages:
        if not (ENVIRONMENTS / "node" / "node_modules" / package).exists():
            pytest.skip(f"{package} is not installed in {ENVIRONMENTS / 'node'}: make test-clients")
    return found


def python(environment: str, module: str) -> str:
    """The Python of one of the environments, where this module is installed."""
    found = program(environment, "python")
    if subprocess.run([found, "-c", f"import {module}"], capture_output=True, timeout=100).returncode:
        pytest.skip(f"{module} is not installed in {ENVIRONMENTS / environment}: make test-clients")
    return found


def run(served: Served, *command: str, seconds: float = 240, online: bool = False, **more: str) -> str:
    """What the program writes; it must end well. `online`: without the settings that keep the hub away."""
    here = {"DYNO_URL": served.url, "DYNO_TARGET": served.target, "DYNO_PROTO": str(ROOT / "proto")}
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= OFFLINE | here | more
    if online:
        environment.pop("HF_HUB_OFFLINE")
    done = subprocess.run(
        command, cwd=served.work, env=environment, capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout + done.stderr
