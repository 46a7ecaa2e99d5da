"""Builds the C++ kernels (native/) for this machine the first time they are wanted, keeps the library, and loads it.

Nothing here is needed to run: without a compiler the plain path serves, and one log line says so.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from model import machine

log = logging.getLogger(__name__)

FOLDER = Path(__file__).with_name("native")
# Nothing that a compiler may do differently where the same lines are inlined twice, as a row alone and one among others
# go through different copies: sums and products keep their order but where a pragma says otherwise, and only what says
# so is one operation (fma).
FLAGS = (
    *("-O3", "-march=native", "-pthread", "-fPIC", "-fopenmp-simd"),
    *("-ffp-contract=off", "-fno-trapping-math", "-fno-math-errno"),
)
NO_TILES = ("-mno-amx-tile", "-mno-amx-bf16", "-mno-amx-int8")
SECONDS = 120
THREADS = torch.get_num_threads()  # of this process, before any thread was `alone`

_int, _int64, _pointer = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p

# What each function of native/native.cpp takes, in its order. All that calculate take the number of threads last.
SIGNATURES: dict[str, tuple[type, ...]] = {
    "dyno_features": (),
    "dyno_attend": (_int, _pointer, _int),
    "dyno_linear": (_int, _int, _pointer, _int64, _pointer, _pointer, _int),
    "dyno_pack": (_int64, _pointer, _pointer, _pointer, _pointer, _int),
    "dyno_enter": (_int, _pointer, _int64, *(_pointer,) * 6, _int),
    "dyno_enter_latent": (_int, _pointer, _int64, *(_pointer,) * 5, _int),
    "dyno_enter_recurrent": (_int, _pointer, _int64, _pointer, _pointer, _int),
    "dyno_recur": (_int, *(_pointer,) * 4, _int),
    "dyno_leave": (_int, _pointer, _int64, *(_pointer,) * 5, _int),
    "dyno_join": (_int, _pointer, _int64, _int64, *(_pointer,) * 3, _int),
    "dyno_feed": (_int, _pointer, _int64, _pointer, _pointer, _int),
    "dyno_layers": (_int, _int64, _pointer, _pointer, _pointer, _int64, _pointer, _pointer, _int),
    "dyno_turn": (_int, _pointer, _int64, _pointer, _pointer, _pointer, _int),
    "dyno_finish": (_int, _pointer, _pointer, _int64, _pointer, _pointer, _int),
    "dyno_look": (_int64, _int64, _int64, _pointer, _pointer, _pointer, _int),
    "dyno_route": (_int, _pointer, _int64, _pointer, _pointer, _int),
    "dyno_mix": (_int, _pointer, _int64, _pointer, _pointer, _pointer, _pointer, _int),
}


class _Kept(threading.local):
    """Of this thread: torch's number of threads before `alone`, 0 outside; whether it has begun."""

    threads: int = 0
    begun: bool = False


_kept = _Kept()


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where they cannot be had."""
    try:
        path = machine.folder("kernels") / f"dyno-{_key()}.so"
        if not path.exists():
            with path.with_suffix(".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # of several processes that want it one builds it
                if not path.exists():
                    _build(path)
        return _declared(ctypes.CDLL(str(path)))
    except (OSError, subprocess.SubprocessError) as error:
        lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
        reason = next((line for line in lines if "error" in line), lines[-1] if lines else repr(error))
        log.warning("compiled kernels are not used: %s", reason)
        return None


@functools.cache
def kernels() -> ctypes.CDLL:
    """The compiled kernels, for callers that run only where there are some (`library` tells)."""
    found = library()
    assert found is not None
    return found


@functools.cache
def linear_types() -> frozenset[torch.dtype]:
    """The types in which the library has linear layers: those that the processor has vector units for."""
    built = library()
    features = 0 if built is None else built.dyno_features()
    return frozenset(dtype for bit, dtype in ((1, torch.float32), (2, torch.bfloat16)) if features & bit)


def call(name: str, dtype: torch.dtype, *arguments: object) -> None:
    """Run a kernel for numbers of this type, on as many threads as there are; arguments as SIGNATURES has them."""
    getattr(kernels(), name)(dtype == torch.bfloat16, *arguments, threads())


def threads() -> int:
    """How many threads a kernel works on: torch's number, or within `alone` what it was before."""
    return _kept.threads or torch.get_num_threads()


@contextmanager
def alone(wanted: bool = True) -> Iterator[None]:
    """Within, if it is wanted, torch's own operations of this thread have no helpers, and the kernels keep theirs.

    Two sets of threads that spin while they wait keep each other from the cores: beside the kernels, what torch has
    left to do is done sooner by one thread (docs/LOG.md).
    """
    if not wanted or _kept.threads:
        yield
        return
    begin()
    _kept.threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_kept.threads)
        _kept.threads = 0


def begin() -> None:
    """Give a thread other than the main one as many threads as the process has, once. One that torch sees for the first
    time while another is `alone` would have a single one, and keep it."""
    if not _kept.begun and threading.current_thread() is not threading.main_thread():
        torch.set_num_threads(THREADS)
    _kept.begun = True


def address(tensor: Tensor | None) -> int | None:
    """Where a tensor's numbers begin; None for no tensor."""
    return None if tensor is None else tensor.data_ptr()


def _declared(built: ctypes.CDLL) -> ctypes.CDLL:
    """The library with its functions' arguments declared: too few are a TypeError, wrong ones an ArgumentError.

    A build without vector units has fewer functions.
    """
    for name, arguments in SIGNATURES.items():
        if (function := getattr(built, name, None)) is not None:
            function.argtypes, function.restype = arguments, None
    built.dyno_features.restype = _int
    return built


def _build(path: Path) -> None:
    """Compile beside the target and move into place, so that no process ever loads half a library."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        raise OSError("no C++ compiler (g++) is installed")
    log.info("building the compiled kernels for this machine, once")
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        built = Path(scratch) / path.name
        _compile(compiler, built)
        if _run_proof(built) != 0:
            log.warning("the compiled kernels went wrong on this machine; built again without matrix tiles")
            _compile(compiler, built, *NO_TILES)
            if _run_proof(built) != 0:
                raise OSError("the compiled kernels give wrong results on this machine")
        built.rename(path)


def _compile(compiler: str, built: Path, *flags: str) -> None:
    """Compile every file of the folder, all at once, and link them to `built`."""
    objects = {source: str(built.with_name(f"{source.stem}.o")) for source in sorted(FOLDER.glob("*.cpp"))}

    def one(source: Path) -> None:
        _run(compiler, *FLAGS, *flags, "-c", str(source), "-o", objects[source])

    with ThreadPoolExecutor() as pool:
        list(pool.map(one, objects))
    _run(compiler, "-shared", "-pthread", *objects.values(), "-o", str(built))


def _run_proof(built: Path) -> int:
    """Exit status of proof.py in its own process: 0 if the library runs and calculates right."""
    command = (sys.executable, str(Path(__file__).with_name("proof.py")), str(built))
    return subprocess.run(command, check=False, capture_output=True, timeout=SECONDS).returncode


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)


def _key() -> str:
    """A key that changes with the sources, the flags, the processor and PyTorch."""
    digest = hashlib.sha256()
    for source in sorted(FOLDER.iterdir()):
        digest.update(source.read_bytes())
    processor = machine.processor()
    features = processor.get("flags", processor.get("Features", ""))
    for part in (*FLAGS, platform.machine(), features, torch.__version__):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:24]
