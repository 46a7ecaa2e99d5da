"""The compiled kernels touch no memory that is not theirs: their tests again, over a build that watches accesses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++")
TESTS = (
    "tests/model/test_kernels.py",
    "tests/model/test_panels.py",
    "tests/model/test_card_parity.py",
    "tests/model/test_layers.py",
    "tests/server/engine/test_attending.py",
)
WATCHED = """
import sys
import pytest
from model.kernels import native
native.FLAGS = ("-O1", "-g", "-fsanitize=address", *native.FLAGS[1:])
assert native.library() is not None
options = ["-s", "-p", "no:cacheprovider", "-o", "timeout=600", "-k", "not library and not proof"]
sys.exit(pytest.main([*sys.argv[1:], *options]))
"""


def library(name: str) -> str:
    """Where the compiler has one of its own libraries; its bare name where it has none."""
    assert COMPILER is not None
    asked = subprocess.run([COMPILER, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return asked.stdout.strip()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    COMPILER is None or not Path(library("libasan.so")).is_absolute(), reason="no AddressSanitizer here"
)
def test_every_access_of_the_kernels_is_within_bounds(tmp_path: Path) -> None:
    watcher = f"{library('libasan.so')} {library('libstdc++.so')}"
    options = f"detect_leaks=0:verify_asan_link_order=0:log_path={tmp_path / 'report'}"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "LD_PRELOAD": watcher, "ASAN_OPTIONS": options}
    run = subprocess.run(
        [sys.executable, "-c", WATCHED, *TESTS], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    found = "\n".join(path.read_text()[:4000] for path in tmp_path.glob("report*"))
    assert run.returncode == 0, found or run.stdout[-4000:] + run.stderr[-2000:]
