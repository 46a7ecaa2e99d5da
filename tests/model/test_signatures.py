"""Calls of the compiled kernels are checked against what the C++ side declares."""

from __future__ import annotations

import ctypes
import re
from types import SimpleNamespace
from typing import Any

import pytest

from model.kernels import native
from model.kernels.native import SIGNATURES

DECLARED = re.compile(r"^(void|int) (dyno_\w+)\((.*?)\) \{", re.MULTILINE | re.DOTALL)
compiled = pytest.mark.skipif(native.library() is None, reason="no compiler here")


def ctype(parameter: str) -> type:
    """The ctypes type of a C++ parameter, as `const void* x`."""
    kind = parameter.rsplit(maxsplit=1)[0].strip()
    return ctypes.c_void_p if kind.endswith("*") else {"int": ctypes.c_int, "int64_t": ctypes.c_int64}[kind]


def functions() -> list[tuple[str, str, tuple[type, ...]]]:
    """Return type, name and arguments of every function of native.cpp, in order."""
    _, block = (native.FOLDER / "native.cpp").read_text().split('extern "C" {')
    assert block.count("dyno_") == len(DECLARED.findall(block)), "every one is found"
    return [
        (kind, name, tuple(ctype(p) for p in parameters.split(",") if p))
        for kind, name, parameters in DECLARED.findall(block)
    ]


def test_the_signatures_are_those_of_the_source() -> None:
    assert list(SIGNATURES.items()) == [(name, arguments) for _, name, arguments in functions()]
    assert [name for kind, name, _ in functions() if kind != "void"] == ["dyno_features"]
    assert all(SIGNATURES[name][-1] is ctypes.c_int for name in SIGNATURES if name != "dyno_features")


@compiled
@pytest.mark.parametrize("name", [name for name, arguments in SIGNATURES.items() if arguments])
def test_arguments_that_do_not_fit_are_refused(name: str) -> None:
    function, arguments = getattr(native.kernels(), name, None), SIGNATURES[name]
    if function is None:
        pytest.skip("not in a build without vector units")
    assert function.argtypes == arguments, "else the calls below are undefined"
    with pytest.raises(TypeError):
        function(*[0] * (len(arguments) - 1))
    for i in range(len(arguments)):
        with pytest.raises(ctypes.ArgumentError):
            function(*[0] * i, 1.5, *[0] * (len(arguments) - i - 1))


def test_a_build_may_have_fewer_functions() -> None:
    built: Any = SimpleNamespace(dyno_features=SimpleNamespace(), dyno_attend=SimpleNamespace())
    native._declared(built)
    assert built.dyno_features.restype is ctypes.c_int and built.dyno_attend.argtypes == SIGNATURES["dyno_attend"]
