"""Run a freshly built library of kernels before anyone relies on it: `python -m model.kernels.proof LIBRARY`.

In a process of its own, because code for units that the processor only claims to have would take the server with it.
Ends with 0 when linear layers agree with numpy. Without torch, so that it takes a fraction of a second.
"""

from __future__ import annotations

import ctypes
import sys

import numpy as np

COLUMNS, DEPTH = 96, 64
ROWS = (1, 3, 6, 7, 12, 16, 17, 33, 48)


def agrees(library: ctypes.CDLL, narrow: bool, rows: int, rounds: bool = False) -> bool:
    """Whether y = x Wᵀ with numbers of few bits, exact in every type, comes out to the last of them.

    rounds: both sides are rounded to 8 bits, which changes nothing where every 32 numbers hold a 127.
    """
    random = np.random.default_rng(rows)
    x, weight = (random.integers(-8, 9, (n, DEPTH)).astype(np.float32) for n in (rows, COLUMNS))
    x[:, ::32] = 127 if rounds else x[:, ::32]
    step, scales = 4 if rounds else 2 if narrow else 1, np.ones(COLUMNS, np.float32)
    panels = np.ascontiguousarray(weight.reshape(-1, 32, DEPTH // step, step).transpose(0, 2, 1, 3))
    inputs: list[np.ndarray] = [x, panels]
    if narrow:
        inputs = [(a.view(np.uint32) >> 16).astype(np.uint16) for a in inputs]
    if rounds:
        inputs[1] = (panels + 128).astype(np.uint8)
    out = np.zeros((rows, COLUMNS), np.float32)
    scaling = scales.ctypes.data if rounds else 0
    layer = (ctypes.c_int64 * 6)(inputs[1].ctypes.data, scaling, 0, DEPTH, COLUMNS, rounds)
    pointers = (ctypes.c_void_p(a.ctypes.data) for a in (inputs[0], out))
    library.dyno_linear(int(narrow), 1, layer, ctypes.c_int64(rows), *pointers, 2)
    return bool(np.array_equal(out, x @ weight.T))


def main() -> int:
    library = ctypes.CDLL(sys.argv[1])
    features = library.dyno_features()
    kinds = [narrow for bit, narrow in ((1, False), (2, True)) if features & bit]
    tried = (agrees(library, narrow, rows, rounds) for narrow in kinds for rows in ROWS for rounds in (False, True))
    return 0 if all(tried) else 1


if __name__ == "__main__":
    sys.exit(main())
