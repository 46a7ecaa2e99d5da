"""A library of kernels is used only after it was tried, and the trial would see what goes wrong."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch

from model.kernels import native, proof

pytestmark = pytest.mark.skipif(not native.linear_types(), reason="no vector units or no compiler here")


@pytest.mark.parametrize(("verdicts", "tried"), [([1, 0], 2), ([1, 1], 2), ([0], 1)])
def test_a_library_that_goes_wrong_is_never_loaded(
    verdicts: list[int], tried: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its proof in another process ends badly: it is built again without matrix tiles, or done without."""
    last, flags = verdicts[-1], []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def compile(compiler: str, built: Path, *more: str) -> None:
        flags.append(more)
        built.touch()

    monkeypatch.setattr(native, "_compile", compile)
    monkeypatch.setattr(native.shutil, "which", lambda name: name)
    monkeypatch.setattr(native, "_run_proof", lambda built: verdicts.pop(0))
    built = tmp_path / "library.so"
    if last:
        with pytest.raises(OSError, match="give wrong results"):
            native._build(built)
    else:
        native._build(built)
    assert built.exists() == (not last) and flags == [(), native.NO_TILES][:tried]
    assert ("went wrong" in caplog.text) == (tried == 2)


def test_the_proof_tells_right_from_wrong(tmp_path: Path) -> None:
    library = native.library()
    assert library is not None and native._run_proof(Path(library._name)) == 0
    assert native._run_proof(tmp_path / "nothing.so") != 0


@pytest.mark.skipif(torch.bfloat16 not in native.linear_types(), reason="no bfloat16 vector units here")
def test_the_proof_reads_weights_of_12_bits_and_those_kept_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixteenth of them has a number without a code; and what the codes say matters."""
    library, true = native.library(), proof.packed
    assert library is not None
    shares: list[float] = []

    def spoiled(library: ctypes.CDLL, panels: np.ndarray) -> tuple[np.ndarray, ...]:
        kept, upper, *beside = true(library, panels)
        shares.append(len(beside[-1]) / len(kept))
        return kept, np.roll(upper, 1), *beside

    assert proof.agrees(library, True, 7, "lossless")
    monkeypatch.setattr(proof, "packed", spoiled)
    assert not proof.agrees(library, True, 7, "lossless")
    assert shares == [1 / 16]
