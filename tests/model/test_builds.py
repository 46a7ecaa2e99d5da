"""The compiled kernels as other processors get them give the same results, and touch no memory that is not theirs.

Their tests again, over builds for less than this processor has and over one that watches accesses.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = shutil.which("g++")
TESTS = tuple(f"tests/model/test_{name}.py" for name in ("kernels", "panels", "layers", "forms"))
ALL_TESTS = (*TESTS, "tests/model/test_gpu_parity.py", "tests/server/engine/test_attending.py")
AVX2, AVX512 = "-mno-avx512f -mno-avxvnni", "-mno-avx512bf16 -mno-avx512vnni -mno-amx-bf16"
AGAIN = """
import sys
import pytest
from model.kernels import native
flags, *arguments = sys.argv[1:]
native.FLAGS = ("-O1", *native.FLAGS[1:], *flags.split())
native.SECONDS = 600  # a build that watches takes longer
assert native.library() is not None and native.linear_types()
options = ["-s", "-p", "no:cacheprovider", "-o", "timeout=600"]
sys.exit(pytest.main([*arguments, *options]))
"""


def run_again(flags: str, tests: tuple[str, ...], cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The tests over kernels built with further flags, in a process of their own."""
    return subprocess.run(
        [sys.executable, "-c", AGAIN, flags, *tests],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.timeout(300)
@pytest.mark.skipif(COMPILER is None or platform.machine() != "x86_64", reason="no compiler for these processors here")
@pytest.mark.parametrize("flags", [AVX2, pytest.param(AVX512, marks=pytest.mark.slow)], ids=["avx2", "avx512 alone"])
def test_processors_with_less_give_the_same_results(flags: str, tmp_path: Path) -> None:
    run = run_again(flags, TESTS, tmp_path)
    assert run.returncode == 0 and " passed" in run.stdout, run.stdout[-4000:] + run.stderr[-2000:]


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
@pytest.mark.parametrize("flags", ["", AVX2], ids=["this processor", "avx2"])
def test_every_access_of_the_kernels_is_within_bounds(flags: str, tmp_path: Path) -> None:
    run = run_again(
        f"-g1 -fsanitize=address {flags}",
        ALL_TESTS,
        tmp_path,
        LD_PRELOAD=f"{library('libasan.so')} {library('libstdc++.so')}",
        ASAN_OPTIONS=f"detect_leaks=0:verify_asan_link_order=0:log_path={tmp_path / 'report'}",
    )
    found = "\n".join(path.read_text()[:4000] for path in tmp_path.glob("report*"))
    assert run.returncode == 0, found or run.stdout[-4000:] + run.stderr[-2000:]
