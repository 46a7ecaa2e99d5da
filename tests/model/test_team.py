"""The threads of the compiled kernels by themselves: nobody is left waiting, nothing is read before it is written."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

from model.kernels import native

COMPILER = shutil.which("g++")


@pytest.mark.skipif(COMPILER is None, reason="no compiler here")
@pytest.mark.parametrize("flags", ["-O2", pytest.param("-O1 -g -fsanitize=thread", marks=pytest.mark.slow)])
def test_teams_of_several_callers(tmp_path: Path, flags: str) -> None:
    source, built = Path(__file__).with_name("team.cpp"), str(tmp_path / "team")
    command = [str(COMPILER), *flags.split(), "-pthread", f"-I{native.FOLDER}", str(source), "-o", built]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
    done = subprocess.run([built], check=False, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout, done.stderr) == (0, "right\n", "")


@pytest.mark.skipif(COMPILER is None or platform.machine() != "x86_64", reason="no compiler here, or another processor")
@pytest.mark.parametrize("source", sorted(native.FOLDER.glob("*.cpp")), ids=lambda source: source.stem)
def test_a_processor_without_vector_units_is_built_for_too(source: Path) -> None:
    """Attention and its threads alone; every header names what it needs."""
    flags = [flag for flag in native.FLAGS if not flag.startswith("-march")]
    command = [str(COMPILER), *flags, "-march=x86-64", "-fsyntax-only", str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=100)
